"""Every method on every task at one setting, then one factor at a time for the best four, and the method without its parts.

    python benchmarks/study.py --estimate
    python benchmarks/study.py --processes 2 --table docs/study.md
    python benchmarks/study.py --only digits --part methods
    python benchmarks/study.py --render --table docs/study.md

A task is a recipe with 25 clients and Dirichlet 0.5 over classes, as the recipe is in all else; of a run's rounds the one that does best on
validation samples counts. Every arm that trains has the same search: three learning rates (see `Task.grid`) on a seed that is in no table,
and a fourth beyond the best one where that is the least or the largest. The best on validation samples runs on the seeds of the tables.
Five parts, all built upon the first:

    methods    all methods
    longer     twice the rounds for those whose mean curve still rises by a point or more in the last third of the rounds
    factors    the four best of the federated methods that train (by validation) at the rates found there, and the closed form: IID,
               Dirichlet 0.1, 100 clients, and 50 and 90 % of the modalities of multimodal clients' samples missing
    ablations  the method without one of its parts, or with other numbers, at the rate of the whole; on tasks that ship with the package
    labels     1 to 100 % of the training samples labelled: unlabelled ones taught by fusion, by their own modality, or not at all; each at
               a rate of its own, searched at 10 %, from half of them on at that of the method

What was run before with the same settings is not run again, and a run that was stopped goes on: the command can be interrupted at any time.
`spoken_digits`, `products` and `meld_text` need folders of yours (docs/results_real.md says what they hold).
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from quality import Store
from study_figures import draw
from study_plan import Plan, Rows, Wanted
from study_table import render
from study_tasks import BEST, FACTORS, PARTS, TASKS

if TYPE_CHECKING:
    from m2fedsa.comparing.study import Job

ROWS = Path("benchmarks/results/study.jsonl")
KEPT = ("accuracy", "uar", "macro_f1", "auc", "loss")
IN_CURVES = ("accuracy", "uar", "loss")


def row_of(wanted: Wanted, runs: Path) -> dict[str, Any]:
    """What is kept of a finished run: of the search nothing of the test samples."""
    from m2fedsa.comparing.outcome import fingerprint, outcome

    found = dict(outcome(wanted.job, runs))
    if found["settings"] != fingerprint(wanted.job.config):
        raise SystemExit(
            f"{runs / wanted.job.place}: holds a finished run of other settings. Move it away, or name another folder by --runs."
        )
    del found["directory"], found["settings"]
    found["test"] = None if wanted.stage == "search" else _slim(found["test"])
    found["validation"] = _slim({name: scores for name, scores in found["validation"].items() if "+" not in name})
    found["curve"] = [
        {**point, "validation": None if point["validation"] is None else _slim({"fused": point["validation"]["fused"]}, IN_CURVES)}
        for point in found["curve"]
    ]
    return {**wanted.key, "outcome": found}


def _slim(metrics: Mapping[str, Mapping[str, Any]], kept: Sequence[str] = KEPT) -> dict[str, dict[str, float]]:
    return {
        name: {one: round(scores[one], 5) for one in kept if isinstance(scores.get(one), int | float)} for name, scores in metrics.items()
    }


def run_due(wanted: Iterable[Wanted], store: Store, runs: Path, processes: int | None) -> dict[Path, str]:
    """Run what is not kept yet; each run's directory goes when its row is written. Which failed, and why."""
    from m2fedsa.comparing.jobs import run_all
    from m2fedsa.reporting.files import RESULT

    rows = Rows(store)
    # Seed by seed, so that all arms know something early.
    due = {one.job.place: one for one in sorted(wanted, key=lambda one: one.job.config.seed) if not rows.has(one)}

    def keep(place: Path) -> None:
        if (runs / place / RESULT).exists():
            store.add(row_of(due[place], runs))
            shutil.rmtree(runs / place)

    def told(done: int, total: int, job: "Job", what: str) -> None:
        print(f"{done}/{total}  {job.place}  {what}", flush=True)
        keep(job.place)

    # Ended while the command that began them was being stopped.
    for place in due:
        keep(place)
    return run_all([one.job for place, one in due.items() if not rows.has(one)], runs, processes, told)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="TASK", choices=[task.recipe for task in TASKS], help="repeatable")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable")
    for name in ("flipkart", "digits", "meld", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours; see docs/results_real.md")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="where runs lie while they run")
    parser.add_argument("--processes", type=int, help="runs at once; as many as the cores allow if not given")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", default=[], help="change a setting of every run, for a trial")
    parser.add_argument("--arm", action="append", metavar="NAME", default=[], help="only these methods and ablations; repeatable")
    parser.add_argument("--seeds", type=int, metavar="N", help="fewer of them, for a trial")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--render", action="store_true", help="tables alone, of whatever rows there are; nothing is run")
    parser.add_argument("--estimate", action="store_true", help="how long each part takes; nothing is run")
    return parser


def plans(given: argparse.Namespace) -> list[Plan]:
    """The tasks whose folders were given."""
    found = []
    for task in TASKS:
        folders = {name: getattr(given, name) for name in task.folders}
        if all(folders.values()) and task.recipe in (given.only or [task.recipe]):
            fewer = replace(task, search=task.search[: given.seeds], seeds=task.seeds[: given.seeds])
            found.append(Plan(fewer, folders, tuple(given.set), tuple(given.arm)))
    return found


def estimate(given: argparse.Namespace, rows: Rows) -> None:
    """A line for each part of each task."""
    from m2fedsa.comparing.jobs import workers

    total = 0.0
    for plan in plans(given):
        for part in given.part or PARTS:
            due = [one for stage in plan.stages(part, rows) for one in stage if not rows.has(one)]
            number, work = len(due), sum(map(rows.seconds, due))
            if part not in plan.task.parts:
                continue
            if part == "factors" and not due and not rows.best(plan.task, BEST):
                number = BEST * plan.task.few * len(FACTORS)
                work = plan.task.seconds * number
            at_once = given.processes or (workers([due[0].job]) if due else os.cpu_count() or 1)
            total += work / at_once
            print(f"{plan.task.recipe:<14} {part:<10} {number:>4} runs  {work / at_once / 3600:5.1f} hours with {at_once} at once")
    print(f"{'together':<30}        {total / 3600:5.1f} hours")


def main(arguments: list[str] | None = None) -> None:
    given = options().parse_args(arguments)
    store = Store(given.rows)
    if given.estimate:
        estimate(given, Rows(store))
        return
    failed: dict[Path, str] = {}
    if given.set and given.rows == ROWS:
        raise SystemExit("error: --set makes runs of another study: name a file for their rows with --rows.")
    if not given.render:
        for part in given.part or PARTS:
            for plan in plans(given):
                for stage in plan.stages(part, Rows(store)):
                    failed |= run_due(stage, store, given.runs, given.processes)
    if given.table:
        draw(store.rows, given.table.parent)
    text = render(store.rows, given.table.parent if given.table else Path())
    if given.table:
        given.table.write_text(text)
    print(text)
    if failed:
        raise SystemExit(
            "\n".join(["error: these runs failed, and are not in the tables:", *(f"{place}: {why}" for place, why in failed.items())])
        )


if __name__ == "__main__":
    main()
