"""An echo through NVFlare's Collab beside a plain TCP socket, in turn: server, client and job as processes of this machine (its POC).

NVFlare does not share an environment with us: run this with the Python of one that has `nvflare` and `numpy`. `link.py` measures ours.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

SIZES = {"0.4 MB": (100_000, 60), "19.4 MB": (4_850_000, 15)}
"""float32 numbers, and timed echoes"""
WARM_UP = 3

if find_spec("nvflare") is None:
    if __name__ == "__main__":
        print("nvflare is not installed here: not measured")
        sys.exit(0)
    raise ModuleNotFoundError("nvflare")

import numpy as np  # noqa: E402  (whether they are there is found out above)
from nvflare.collab import CollabRecipe, collab  # noqa: E402


@collab.publish
def echo(x):
    """What the client does."""
    return x


@collab.main
def run():
    """What the server does."""
    sys.path.insert(0, collab.get_app_prop("benchmarks"))
    from measuring.tcp import Tcp

    found = {}
    with Tcp() as tcp:
        for size, (numbers, repeats) in SIZES.items():
            content = np.random.default_rng(0).standard_normal(numbers, dtype=np.float32)
            ways = {"raw TCP": lambda content=content: tcp.echo(memoryview(content).cast("B"))}
            ways["Collab"] = lambda content=content: collab.clients[0].echo(content)
            times = {way: [] for way in ways}
            for turn in range(WARM_UP + repeats):
                for way, measure in ways.items():
                    began = time.perf_counter()
                    back = measure()
                    if turn >= WARM_UP:
                        times[way].append(time.perf_counter() - began)
            assert np.array_equal(back, content)
            found[size] = times
    Path(collab.get_app_prop("out")).write_text(json.dumps(found))


def main():
    """Set up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the measurements as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NVFLARE_POC_WORKSPACE"] = f"{folder}/poc"
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        from nvflare.recipe.poc_env import PocEnv

        out = Path(folder) / "times.json"
        recipe = CollabRecipe("echo", min_clients=1)
        recipe.set_server_prop("benchmarks", str(Path(__file__).parent.resolve()))
        recipe.set_server_prop("out", str(out))
        recipe.execute(PocEnv(num_clients=1)).get_result()
        found = json.loads(out.read_text())
    for size, times in found.items():
        middle = {way: statistics.median(seconds) for way, seconds in times.items()}
        print(f"{size}: " + ", ".join(f"{way} {1000 * seconds:.2f} ms" for way, seconds in middle.items()))
    if given.out is not None:
        given.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
