"""Which runs the study asks for, given what is kept of others: searches, then runs at what was found."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quality import Store
from study_tasks import (
    AT_ONCE,
    BEST,
    BEYOND,
    CLOSED_FORMS,
    DEFAULT,
    DIVISIONS,
    FACTORS,
    LABELS,
    LONGER,
    MOST,
    NO_ABLATION,
    NO_FEDERATION,
    NUMBERS,
    OURS,
    RATE,
    SAME,
    SHARED,
    TAUGHT,
    TEACHING,
    TUNED,
    TUNING,
    VARIANTS,
    WHOLE,
    WITHIN_TRANSFER,
    Task,
    metric_of,
)

if TYPE_CHECKING:
    from m2fedsa.comparing.study import Job
    from m2fedsa.config import Config

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
            yield [one for name in self._asked([OURS]) for factor in NUMBERS for one in self._chosen(part, factor, name, rate)]
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
        """Methods that had not converged, but for those that are another one to the bit, and variants of the method."""
        from m2fedsa.comparing.rows import mean_curve
        from m2fedsa.comparing.tables import rising

        rows = self.of(task=task.recipe, part="methods", stage="report")
        found = {arm: [row["outcome"] for row in rows if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in rows)}
        curves = {arm: mean_curve(outcomes, metric_of(task.recipe)) for arm, outcomes in found.items() if arm not in (*SAME, *VARIANTS)}
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
