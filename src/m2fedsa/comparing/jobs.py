"""Runs of a study, each in its directory: what was finished before is not run again, what was begun goes on."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from m2fedsa.comparing.study import Job
from m2fedsa.config import Config
from m2fedsa.errors import Interrupted, M2FedSAError, RunDirectoryError
from m2fedsa.reporting.files import CONFIG, RESULT, read_config
from m2fedsa.reporting.program import as_called
from m2fedsa.reporting.summary import score
from m2fedsa.reporting.units import duration
from m2fedsa.stopping import metric_of

Told = Callable[[int, int, Job, str], None]
"""Is told of each run: how many are done, of how many, which, and what became of it."""


def run_all(jobs: Sequence[Job], out: Path, processes: int | None, told: Told) -> dict[Path, str]:
    """Run what is not finished; where which failed, and why. `RunDirectoryError` where a directory holds another run."""
    for job in jobs:
        _check(job, out / job.place)
    due = [job for job in jobs if not (out / job.place / RESULT).exists()]
    failed: dict[Path, str] = {}
    if not due:
        return failed

    def note(done: int, job: Job, what: str, error: bool) -> None:
        if error:
            failed[job.place] = what
        told(done, len(due), job, what)

    number = min(processes or workers(due), len(due))
    if number == 1:
        for done, job in enumerate(due, 1):
            note(done, job, *perform(job.config.to_toml(), str(out / job.place)))
        return failed
    # A fork would take the threads of the tensor library along; each worker begins anew.
    with ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _begin) as pool:
        futures = {pool.submit(perform, job.config.to_toml(), str(out / job.place)): job for job in due}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                note(done, futures[future], *future.result())
        except (KeyboardInterrupt, Interrupted):
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise Interrupted(f"stopped; what was done is kept in {out}. The same command goes on.") from None
    return failed


class _Worker:
    """Of this process, where it is one of several."""

    busy = False
    told = False
    """to stop, maybe before it began with the run that lies ready for it"""


def _begin() -> None:
    """A worker stops when the command tells it to, however that one was told: by a terminal, which tells all, or alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)


def _stop(*_: object) -> None:
    _Worker.told = True
    if _Worker.busy:
        raise KeyboardInterrupt


def workers(jobs: Sequence[Job]) -> int:
    """As many as the cores allow, each with the threads that its settings ask for."""
    threads = max(job.config.compute.threads or 1 for job in jobs)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // threads)


def perform(settings: str, place: str) -> tuple[str, bool]:
    """One run, in a process of its own; what became of it, and whether that is an error."""
    from m2fedsa.running import run

    _Worker.busy = True
    try:
        if _Worker.told:
            raise Interrupted("stopped before it began.")
        result = run(Config.from_toml(settings), out=place, resume=(Path(place) / CONFIG).exists())
    except Interrupted:
        raise
    except M2FedSAError as error:
        return as_called(str(error)), True
    finally:
        _Worker.busy = False
    metric = metric_of(Config.from_toml(settings))
    fused = score(result.metrics, "fused", metric)
    return f"{'' if fused is None else f'fused {metric} {fused:.3f}, '}{duration(result.seconds)}", False


def _check(job: Job, path: Path) -> None:
    if (path / CONFIG).exists():
        differences = read_config(path).differences(job.config)
        if differences:
            lines = "".join(f"\n         {line}" for line in differences)
            raise RunDirectoryError(
                f"{path}: was begun with other settings (kept -> given):{lines}\n       Choose another "
                "directory with --out, or the settings of before."
            )
