"""`m2fedsa run digits` as a person starts it: a process of its own, timed line by line as it speaks.

Wall and processor seconds, peak memory, and when the first line, the clients, the warm start and each round appear; `m2fedsa --help`; and
how often a sample passes through a head in a whole run, counted at the heads themselves.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from measuring import conclude, options, spread, table

GOALS = {"seconds": 120.0, "bytes": 1.5e9, "help": 0.5, "head_outputs_per_sample": 1.0}
COMMAND = (sys.executable, "-m", "m2fedsa")
MILESTONES = {"first line": "m2fedsa ", "clients": "clients ", "warm start": "warm start ", "done": "done "}

QUICK = ["federation.rounds=1", "federation.local_steps=1", "federation.warm_start=false", "data.clients=4", "data.partition=iid"]


def process(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a program to its end. The times at which it printed its lines, its seconds and its peak memory.

    The caller must be small: until a child has replaced its program, its memory is the caller's.
    """
    began = time.perf_counter()
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert child.stdout is not None
    with child.stdout as spoken:
        lines = [(time.perf_counter() - began, line) for line in spoken]
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {child.returncode}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024, "lines": lines}


def run(threads: int, settings: Sequence[str]) -> dict[str, Any]:
    """One run of the recipe, in a directory that is then forgotten."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [word for setting in (*settings, f"compute.threads={threads}") for word in ("--set", setting)]
        found = process([*COMMAND, "run", "digits", *changes, "--out", str(Path(folder) / "run")])
    lines = found.pop("lines")
    for name, beginning in MILESTONES.items():
        found[name] = next((at for at, line in lines if line.startswith(beginning)), None)
    ends = [found["warm start"] or found["clients"], *(at for at, line in lines if line.startswith("round "))]
    found["rounds"] = [later - earlier for earlier, later in pairwise(ends)]
    return found


def passes_per_sample(rounds: int, settings: Sequence[str]) -> dict[str, Any]:
    """Samples that went through a head, over samples that have the modality: in the warm start, rounds, and evaluations of a run."""
    from m2fedsa import recipes
    from m2fedsa.assembly import Extensions, assemble, cpu_threads
    from m2fedsa.data.samples import SPLITS
    from m2fedsa.reporting.progress import Lines
    from m2fedsa.training import Training

    passed = 0

    def count(_module: object, _args: object, output: Any) -> None:
        nonlocal passed
        passed += len(output)

    config = recipes.digits(rounds=rounds).override(settings)
    with Path(os.devnull).open("w") as nowhere, cpu_threads(1):
        parties = assemble(config, Extensions())
        for head in parties.shared.heads.values():
            head.register_forward_hook(count)
        training = Training(parties, Lines(config, nowhere), None)
        training.begin()
        for _ in range(rounds):
            training.next_round()
        training.asking.evaluate("test")  # as at the end of a run
    held = [client.split(split) for client in parties.data.clients.values() for split in SPLITS]
    there = sum(int(samples.presence.sum()) for samples in held if samples is not None)
    return {"passed": passed, "held": there, "ratio": passed / there}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads, one run for each, in turn (1 2)")
    parser.add_argument("--repeats", type=int, help="runs of each kind (3)")
    given = parser.parse_args(arguments)
    threads, repeats = (given.threads[:1], 1) if given.quick else (given.threads, 3)
    repeats = given.repeats or repeats
    settings = QUICK if given.quick else []
    helped = [process([*COMMAND, "--help"])["wall"] for _ in range(2 if given.quick else 11)][1:]
    runs: dict[int, list[dict[str, Any]]] = {number: [] for number in threads}
    for _ in range(repeats):
        for number in threads:
            runs[number].append(run(number, settings))
    passes = passes_per_sample(1 if given.quick else 3, settings)
    rows = []
    for number, found in runs.items():
        names = [name for name in ("wall", "cpu", *MILESTONES) if found[0][name] is not None]
        rows += [[number, f"{name}, s", spread([one[name] for one in found]).text()] for name in names]
        rows.append([number, "a round, s", spread([seconds for one in found for seconds in one["rounds"]]).text()])
        rows.append([number, "peak memory, MB", spread([one["peak"] for one in found]).text(1e-6, 0)])
    print(f"m2fedsa run digits, {repeats} of each: median (least … largest); lines by the time at which they appear\n")
    table(["threads", "", "median (least … largest)"], rows)
    print(f"\nm2fedsa --help, ms: {spread(helped).text(1000, 0)}")
    print(f"passes through a head per sample and modality: {passes['ratio']:.3f} ({passes['passed']:,} of {passes['held']:,})")
    print(f"goals: {GOALS['seconds']:.0f} s, {GOALS['bytes'] / 1e9} GB, --help {GOALS['help']} s, one pass")
    record = {"benchmark": "run", "runs": {str(number): found for number, found in runs.items()}, "help": helped, "passes": passes}
    return conclude({**record, "goals": GOALS}, given.out)


if __name__ == "__main__":
    main()
