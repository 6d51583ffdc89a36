"""A main server in a process of its own, with the encoders of the tests and no sample that a client of the test holds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.conformance import over_grpc as net
from tests.integration import small

from m2fedsa import identity


@dataclass
class Apart:
    """Where it is."""

    process: subprocess.Popen
    port: int
    coordination_port: int

    def memory(self) -> int:
        """Bytes that it holds."""
        return psutil.Process(self.process.pid).memory_info().rss

    def holds(self, patterns: dict[str, bytes]) -> list[str]:
        """The names of the patterns that are somewhere in its memory."""
        found: set[str] = set()
        with Path(f"/proc/{self.process.pid}/maps").open() as maps, Path(f"/proc/{self.process.pid}/mem").open("rb", 0) as memory:
            for line in maps:
                span, rights, *_ = line.split()
                if not rights.startswith("rw") or "[v" in line:
                    continue
                start, end = (int(number, 16) for number in span.split("-"))
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except OSError:
                    continue
                found |= {name for name, pattern in patterns.items() if pattern in content}
        return sorted(found)


@contextmanager
def main_server(folder: Path, settings: dict[str, object]) -> Iterator[Apart]:
    """Started, and killed at the end. `settings`: of `worlds.config`."""
    keys = folder / "keys"
    keys.mkdir(parents=True)
    main, fed = net.party(net.MAIN, net.MAIN, net.HERE), net.party(net.FED, net.FED, net.HERE)
    identity.write_key(keys / "main.key", main.key)
    for name, certificate in (("main", main.certificate), ("fed", fed.certificate), ("ca", main.authority)):
        identity.write_certificate(keys / f"{name}.pem", certificate)
    words = [sys.executable, "-m", "tests.integration.apart", str(folder), json.dumps(settings)]
    with (folder / "log").open("wb") as log:
        environment = {**small.ONE_THREAD, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])}
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        said = process.stdout.readline()
        assert said, (folder / "log").read_text()
        yield Apart(process, *json.loads(said))
    finally:
        process.kill()
        process.communicate()


def serve(folder: Path, settings: dict[str, object]) -> None:
    """What the process does: until its input ends."""
    import torch
    from tests import worlds

    from m2fedsa.coordination.grpc_server import CoordinationServer, Steward
    from m2fedsa.links.admission import Gate
    from m2fedsa.links.grpc_server import LinkServer
    from m2fedsa.links.worker import Worker
    from m2fedsa.storage import Store

    torch.set_num_threads(1)
    keys = folder / "keys"
    me = identity.Identity.read(keys / "main.key", keys / "main.pem", keys / "ca.pem")
    fed = identity.public_key(identity.read_certificate(keys / "fed.pem"))
    # Of the samples made here it keeps nothing: they serve to cut the encoders, and are other ones than the test's.
    host = worlds.parties(worlds.config(**settings), worlds.federated(seed=99)).coordination
    host.store = Store(folder / "store")
    worker = Worker(1)
    link = LinkServer(host, worker, Gate(net.RUN, fed))
    coordination = CoordinationServer(host, worker, Steward(net.RUN, identity.fingerprint(fed)))
    print(json.dumps([link.start("127.0.0.1:0", me), coordination.start("127.0.0.1:0", me)]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
