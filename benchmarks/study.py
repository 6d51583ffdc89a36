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
import math
import os
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from quality import Store

if TYPE_CHECKING:
    from m2fedsa.comparing.study import Job
    from m2fedsa.config import Config

PARTS = ("methods", "longer", "factors", "ablations", "labels")
DEFAULT = ("data.clients=25", "data.partition=dirichlet", "data.alpha=0.5", "evaluation.keep_best=true", "compute.threads=1")
FACTORS: Mapping[str, tuple[str, ...]] = {
    "IID": ("data.partition=iid",),
    "Dirichlet 0.1": ("data.alpha=0.1",),
    "100 clients": ("data.clients=100", "data.minimum=2"),
    "50 % missing": ("data.missing_rate=0.5",),
    "90 % missing": ("data.missing_rate=0.9",),
}
TEACHING = ("transfer.start=1", "transfer.refresh=3")
LABELS: Mapping[str, tuple[str, ...]] = {
    f"{percent} %": (f"data.labelled_fraction={percent / 100:g}", *TEACHING) for percent in (1, 5, 10, 20, 50, 100)
}
TAUGHT = ("no_transfer", "m2fedsa", "self_teaching", "no_rounds", "closed_form")
"""Without teachers, taught by fusion, each modality its own teacher; and in closed form, with soft labels and without."""
CLOSED_FORMS = ("no_rounds", "closed_form", "closed_form_joint", "closed_form_fused", "closed_form_calibrated")
"""These train nothing."""
TUNED = "10 %"
"""The share of labelled samples at which the rates of all small shares are searched, and other ways to teach are tried."""
MOST = ("50 %", "100 %")
"""Shares at which the rate of `m2fedsa` on all samples counts for all."""
TUNING = ("sharper_teacher", "softer_teacher", "confident_teacher", "plateau_start")
"""At the rate of `m2fedsa`."""
AT_ONCE = "transfer from the first round"
WITHIN_TRANSFER = ("fixed_start", "no_decision_level", "no_feature_level", "paper_transfer")
"""What is taken away from the transfer phase, which the recipes' rule does not begin within their rounds."""
VARIANTS = ("averaged_moments", "calibrated", "best_by_loss")
"""Ablations that stand among the methods."""
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "cut at block 2": ("modalities.*.block=2",),
    "cut at block 3": ("modalities.*.block=3",),
    "adapters of 8": ("modalities.*.adapter_width=8",),
    "adapters of 128": ("modalities.*.adapter_width=128",),
    "λ 0.2, 0.4, 0.4": (*TEACHING, "transfer.weights=[0.2, 0.4, 0.4]"),
}
"""Other numbers in the method, where the recipe has 1, 32 and 0.6, 0.2, 0.2."""
NO_ABLATION = ("no_transfer", "plateau_start", "authors_start", "no_rounds", "self_teaching", *TUNING[:3], *VARIANTS)
"""What is the method itself where no transfer begins and all samples are labelled, and what other parts show."""
LONGER = "twice the rounds"
DIVISIONS = 5
OURS = "m2fedsa"
BEST = 4
NO_FEDERATION = ("centralised", "local")
WHOLE = ("fedavg", "splitfed_v1", "splitfed_v2", "split_learning")
"""These train whole encoders, which takes smaller steps than adapters do."""
SAME = {"splitfed_v1": "fedavg"}
"""Methods that end with the tensors of another, to the bit, at other costs: its search is theirs, and they run on one seed."""
SHARED = {**SAME, "calibrated": OURS, "best_by_loss": OURS}
"""Arms that run at the rate of another, without a search of their own."""
BEYOND = 4.0
"""How far from an edge that did best the next rate lies, as a ratio."""
RATE = "optimizer.learning_rate"
ROWS = Path("benchmarks/results/study.jsonl")
KEPT = ("accuracy", "uar", "macro_f1", "auc", "loss")
IN_CURVES = ("accuracy", "uar", "loss")


@dataclass(frozen=True)
class Task:
    """A recipe, and how much of the search and of the seeds it is worth."""

    recipe: str
    seconds: float
    """of a run of `m2fedsa` on one quiet core, measured"""
    rates: tuple[float, ...]
    smaller: float
    """what the rates are multiplied by where whole encoders train"""
    folders: tuple[str, ...] = ()
    """names of the arguments that the recipe needs"""
    parts: tuple[str, ...] = PARTS
    search: tuple[int, ...] = (20,)
    seeds: tuple[int, ...] = (5, 6, 7, 8, 9)
    few: int = 3
    """how many of the seeds `factors` and `ablations` run on"""
    taught: int = 5
    """how many of them `labels` runs on"""
    whole: int = 5
    """on how many of them whole encoders train"""
    settings: tuple[str, ...] = ()
    numbers: bool = False
    """whether `ablations` has those of `NUMBERS`"""

    def grid(self, arm: str) -> list[float]:
        """The rates that are tried first."""
        return [float(f"{rate * (self.smaller if arm in WHOLE else 1):.3g}") for rate in self.rates]


SMALL, LARGE = (0.001, 0.005, 0.02), (0.0005, 0.002, 0.008)
REAL: dict[str, Any] = {"seeds": (5, 6, 7)}
DISK = "kept.where=disk"
"""What heads make of a sample is the same in every run of a seed."""
LATE, LATER = ("modalities.image.block=13", "modalities.text.block=4"), ("modalities.image.block=15", "modalities.text.block=5")
"""Cut later than in the recipe, which costs a third of the time, and less."""
LONG, EPOCHS = "federation.rounds=8", "federation.local_epochs=3"
"""Trained for longer than in the recipe: in more rounds, or three times as long in each."""
TASKS = (
    Task("digits", 36, SMALL, 0.2, numbers=True),
    Task("match", 40, SMALL, 0.2, taught=3, numbers=True),
    # The best of the federations there train whole encoders: five factors would take as long as all the other parts.
    Task(
        "spoken_digits",
        125,
        LARGE,
        0.1,
        ("digits", "image", "audio", "text"),
        parts=("methods", "longer", "labels"),
        taught=3,
        whole=3,
        settings=(DISK, *LATE, EPOCHS),
    ),
    Task(
        "products",
        50,
        LARGE,
        0.1,
        ("flipkart", "image", "text"),
        parts=("methods", "longer", "factors", "labels"),
        settings=(DISK, *LATER, LONG),
        **REAL,
    ),
    # One modality has no other to be taught by; the clients of some roles are few.
    Task(
        "meld_text",
        60,
        LARGE,
        0.1,
        ("meld", "text"),
        parts=("methods", "longer"),
        settings=(DISK, "federation.rounds=8", "federation.local_steps=10", "evaluation.every=2"),
        **REAL,
    ),
)
FACTOR = {**dict.fromkeys(WHOLE, 4.0), **dict.fromkeys(CLOSED_FORMS, 0.1)}
"""What a run takes, as a multiple of one of `m2fedsa`, where nothing of the arm was run yet; others 1."""


@dataclass(frozen=True)
class Wanted:
    """One run that the study asks for."""

    task: Task
    part: str
    factor: str
    """of `FACTORS`, or `default`"""
    stage: str
    """`search` or `report`"""
    job: "Job"
    config: "Config"
    """of the job, without the places of data and encoders"""

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the run in the file of results."""
        from m2fedsa.comparing.outcome import fingerprint

        return {
            "task": self.task.recipe, "part": self.part, "factor": self.factor, "stage": self.stage,
            "arm": self.job.arm, "candidate": self.job.candidate, "seed": self.job.config.seed, "config": fingerprint(self.config),
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is due of a task, given what is kept."""

    task: Task
    folders: Mapping[str, str]
    changes: tuple[str, ...]
    arms: tuple[str, ...] = ()
    """only these, for a trial; all where empty"""

    def stages(self, part: str, rows: "Rows") -> Iterator[list[Wanted]]:
        """The runs of a part, one list after the other: what a later one asks for depends on the rows of those before."""
        from m2fedsa.baselines.methods import ABLATIONS, METHODS

        task, methods = self.task, self._asked((*METHODS, *VARIANTS))
        if part not in task.parts:
            return
        if part == "methods":
            yield from self._searched(part, "default", methods, rows)
            yield [one for name in methods for one in self._chosen(part, "default", name, rows.rate(task, part, SHARED.get(name, name)))]
        elif part == "longer":
            yield [
                one
                for name in rows.rising(task)
                for one in self._chosen(part, LONGER, name, rows.rate(task, "methods", SHARED.get(name, name)))
            ]
        elif part == "labels":
            names = self._asked(TAUGHT)
            yield from self._searched(part, TUNED, names, rows)
            runs: list[Wanted] = []
            # Where nothing is unlabelled, it does not matter who teaches.
            asked = [(share, name) for share in LABELS for name in names if (share, name) != ("100 %", "self_teaching")]
            whole = rows.rate(task, "methods", OURS)
            rates = {name: rows.rate(task, part, name) for name in names}
            for share, name in asked:
                rate = whole if share in MOST and name not in CLOSED_FORMS else rates[name]
                runs += self._chosen(part, share, name, rate)
            yield runs
            rate = rows.rate(task, part, OURS)
            yield [one for name in self._asked(TUNING) for one in self._chosen(part, TUNED, name, rate)]
        elif part == "ablations":
            rate = rows.rate(task, "methods", OURS)
            names = {name: AT_ONCE if name in WITHIN_TRANSFER else "default" for name in self._asked(ABLATIONS) if name not in NO_ABLATION}
            yield [one for name, factor in names.items() for one in self._chosen(part, factor, name, rate)]
            numbers = NUMBERS if task.numbers else ()
            yield [one for name in self._asked([OURS]) for factor in numbers for one in self._chosen(part, factor, name, rate)]
        else:
            names = [*best, *self._asked(["closed_form"])] if (best := rows.best(task, BEST)) else []
            yield [
                one
                for factor in FACTORS
                if self._differs(factor)
                for name in names
                for one in self._chosen(part, factor, name, rows.rate(task, "methods", SHARED.get(name, name)))
            ]

    def _asked(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.arms or name in self.arms]

    def _differs(self, factor: str) -> bool:
        return "missing" not in factor or len(self.base(()).modalities) > 1

    def _searched(self, part: str, factor: str, arms: Sequence[str], rows: "Rows") -> Iterator[list[Wanted]]:
        """The search: of the grid, and of one rate beyond it for those that did best at its edge."""

        def runs(arm: str, rates: Sequence[float]) -> Iterator[Wanted]:
            for rate in rates:
                yield from self._runs(part, factor, "search", arm, self.task.search, f"{rate:g}")

        trained = [arm for arm in arms if arm not in (*CLOSED_FORMS, *SHARED)]
        grids = {arm: self.task.grid(arm) for arm in trained}
        yield [one for arm in trained for one in runs(arm, grids[arm])]
        beyond = {
            arm: [grids[arm][-1] * BEYOND if up else grids[arm][0] / BEYOND]
            for arm in trained
            for up in (True, False)
            if rows.rate(self.task, part, arm, grids[arm]) == f"{grids[arm][-1 if up else 0]:g}"
        }
        yield [one for arm, rates in beyond.items() for one in runs(arm, rates)]

    def _chosen(self, part: str, factor: str, arm: str, rate: str | None) -> Iterator[Wanted]:
        """Runs for the tables, at this rate; at the recipe's where nothing was searched."""
        number = {"methods": len(self.task.seeds), "labels": self.task.taught}.get(part, self.task.few)
        most = 1 if arm in SAME else self.task.whole if arm in WHOLE else number
        seeds = self.task.seeds[: min(number, most)]
        return self._runs(part, factor, "report", arm, seeds, rate)

    def _runs(self, part: str, factor: str, stage: str, arm: str, seeds: Sequence[int], rate: str | None) -> Iterator[Wanted]:
        from m2fedsa.comparing.study import of_methods

        longer = f"federation.rounds={2 * self.base(()).federation.rounds}"
        changes = {**FACTORS, **LABELS, **NUMBERS, AT_ONCE: TEACHING, LONGER: (longer,)}
        base = self.base(changes.get(factor, ()))
        candidate = f"learning_rate={rate}" if rate else ""
        study = replace(of_methods(base, [arm], {RATE: (rate,)} if rate else {}, 1), seeds=tuple(seeds))
        for job in map(_divided, study.jobs()):
            place = Path(self.task.recipe, part, factor.replace(" ", "_"), stage, arm, candidate, f"seed-{job.config.seed}")
            yield Wanted(self.task, part, factor, stage, replace(job, place=place, candidate=candidate), _nowhere(job.config))

    def base(self, changes: Sequence[str]) -> "Config":
        """The task's settings with these changed."""
        from m2fedsa import recipes

        names = {"digits": "folder", "flipkart": "folder", "meld": "folder"} if self.folders else {}
        config = recipes.RECIPES[self.task.recipe](**{names.get(name, name): place for name, place in self.folders.items()})
        return config.override([*DEFAULT, *self.task.settings, *self.changes, *changes])


def _divided(job: "Job") -> "Job":
    """With a division of the samples of its own for each seed, where a task has several."""
    if "division" not in job.config.data.options:
        return job
    return replace(job, config=job.config.override([f"data.options.division={job.config.seed % DIVISIONS}"]))


def _nowhere(config: "Config") -> "Config":
    """Without the places of data and encoders, which are not settings that decide anything."""
    if "folder" not in config.data.options:
        return config
    return config.override(['data.options.folder=""', *(f'modalities.{name}.encoder=""' for name in config.modalities)])


class Rows:
    """What is kept, and what follows from it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def has(self, wanted: Wanted) -> bool:
        """Whether the run is kept already."""
        return any(all(row[name] == value for name, value in wanted.key.items()) for row in self._store.rows)

    def of(self, **what: Any) -> list[dict[str, Any]]:
        """The rows with these values."""
        return [row for row in self._store.rows if all(row[name] == value for name, value in what.items())]

    def rate(self, task: Task, part: str, arm: str, among: Sequence[float] = ()) -> str | None:
        """The best rate of a part's search by the mean on validation samples, of some or all; None where nothing was searched."""
        found = self.of(task=task.recipe, part=part, stage="search", arm=arm)
        rates = {row["candidate"] for row in found if not among or float(row["candidate"].partition("=")[2]) in among}
        if not rates:
            return None
        judged = {rate: [validated(row) for row in found if row["candidate"] == rate] for rate in sorted(rates)}
        # A rate that some seed did not survive has no right to be chosen.
        whole = max(map(len, judged.values()))
        complete = {float(rate.partition("=")[2]): statistics.fmean(values) for rate, values in judged.items() if len(values) == whole}
        # Of equals the one nearest to the middle of the grid.
        middle = math.log(task.grid(arm)[1])
        return f"{max(complete, key=lambda rate: (complete[rate], -abs(math.log(rate) - middle))):g}"

    def best(self, task: Task, number: int) -> list[str]:
        """Federated methods that train, in the order of their means on validation samples, the method itself always among them."""
        rows = self.of(task=task.recipe, part="methods", stage="report")
        found = [row for row in rows if row["arm"] not in (*NO_FEDERATION, *CLOSED_FORMS, *SAME, *VARIANTS)]
        arms = dict.fromkeys(row["arm"] for row in found)
        judged = {arm: statistics.fmean(validated(row) for row in found if row["arm"] == arm) for arm in arms}
        ranked = sorted(judged, key=lambda arm: (-judged[arm], arm))
        first = [arm for arm in (OURS,) if arm in arms]
        return [*first, *[arm for arm in ranked if arm not in first][: number - len(first)]]

    def rising(self, task: Task) -> list[str]:
        """Methods that had not converged, but for those that are another one to the bit."""
        from m2fedsa.comparing.rows import mean_curve
        from m2fedsa.comparing.tables import rising

        rows = self.of(task=task.recipe, part="methods", stage="report")
        found = {arm: [row["outcome"] for row in rows if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in rows)}
        curves = {arm: mean_curve(outcomes, metric_of(task.recipe)) for arm, outcomes in found.items() if arm not in SAME}
        return [arm for arm, curve in curves.items() if rising([point[3] for point in curve])]

    def seconds(self, wanted: Wanted) -> float:
        """What a run takes, by its like; by the measured ones of the method where there is none."""
        arm = wanted.job.arm
        for what in ({"task": wanted.task.recipe, "arm": arm, "factor": wanted.factor}, {"task": wanted.task.recipe, "arm": arm}):
            like = self.of(**what)
            if like:
                return statistics.median(row["outcome"]["seconds"] for row in like)
        whole = [row["outcome"]["seconds"] for row in self.of(task=wanted.task.recipe, arm="m2fedsa", factor="default")]
        return (statistics.median(whole) if whole else wanted.task.seconds) * FACTOR.get(arm, 1.0)


def validated(row: Mapping[str, Any]) -> float:
    """What the runs of a task are judged by, on validation samples."""
    return float(row["outcome"]["validation"]["fused"][metric_of(row["task"])])


def metric_of(task: str) -> str:
    """What a task is judged by."""
    return "uar" if task == "meld_text" else "accuracy"


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
    from study_table import render

    if given.table:
        from study_figures import draw

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
