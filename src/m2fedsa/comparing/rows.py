"""From outcomes to the rows of a table: each arm at its best candidate, with intervals, a paired test, and what it cost.

A candidate is chosen by the mean over seeds on validation samples; test samples decide nothing.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from m2fedsa.comparing.outcome import Outcome, Point, Stored, leading
from m2fedsa.errors import ConfigError
from m2fedsa.reporting.records import Metrics
from m2fedsa.statistics import Difference, Estimate, difference, estimate

Budget = Literal["bytes", "flops", "rounds"]
FUSED = "fused"
LESS_IS_BETTER = ("loss", "mae", "rmse", "mse")


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    candidate: str
    edge: bool
    """whether the candidate has the first or last value of something that was searched over"""
    runs: Sequence[Outcome]
    """of the candidate, by seed"""
    test: Mapping[str, Estimate]
    """subset of the modalities -> the metric on test samples"""
    against: Difference | None
    """fused, less that of the first arm, over the seeds that both have"""
    curve: Sequence[tuple[int, int, float, float]]
    """round, bytes, FLOPs, fused metric on validation samples: means over seeds"""
    at_budget: float | None
    """fused on validation samples at the last round that the budget allows"""
    to_target: int | None
    """the first round whose fused metric on validation samples reaches the target"""

    @property
    def cost(self) -> tuple[float, float]:
        """Bytes and clients' FLOPs of a whole run, means over seeds."""
        last = [run["curve"][-1] for run in self.runs if run["curve"]]
        return _mean(point["bytes"] for point in last), _mean(point["flops"] for point in last)


@dataclass(frozen=True)
class Comparison:
    """All rows, and what they have in common."""

    stored: Stored
    metric: str
    budget: Budget
    allowed: float
    """how much of it; what the first arm spends"""
    target: float | None
    rows: Sequence[Row]
    subsets: Sequence[str]
    """`fused`, and the modalities"""


def compare(stored: Stored, metric: str | None = None, budget: Budget = "bytes", target: float | None = None) -> Comparison:
    """`ConfigError` if no run has the metric, by default what the settings judge by. `target`: by default what the first arm ends with."""
    metric = metric or stored.get("metric") or leading(stored["outcomes"][0]["test"] if stored["outcomes"] else {})
    better = -1.0 if metric in LESS_IS_BETTER else 1.0
    chosen = {arm: _choose(stored, arm, metric, better) for arm in stored["arms"]}
    chosen = {arm: runs for arm, runs in chosen.items() if runs}
    if not chosen:
        raise ConfigError(f"no finished run has the metric {metric!r} of the fused model.")
    first = next(iter(chosen.values()))
    curves = {arm: mean_curve(runs, metric) for arm, runs in chosen.items()}
    allowed = max((_spent(point, budget) for point in next(iter(curves.values()))), default=0.0)
    if target is None and next(iter(curves.values())):
        target = next(iter(curves.values()))[-1][3]
    subsets = [FUSED, *dict.fromkeys(name for runs in chosen.values() for name in runs[0]["modalities"])]
    rows = []
    for arm, runs in chosen.items():
        within = [point[3] for point in curves[arm] if _spent(point, budget) <= allowed * (1 + 1e-9)]
        reached = [point[0] for point in curves[arm] if target is not None and better * point[3] >= better * target]
        rows.append(
            Row(
                arm,
                runs[0]["candidate"],
                _at_edge(runs[0]["candidate"], stored["search"]),
                runs,
                {name: found for name in subsets if (found := estimate(_values(runs, "test", name, metric))) is not None},
                None if runs is first else _against(runs, first, metric),
                curves[arm],
                within[-1] if within else None,
                reached[0] if reached else None,
            )
        )
    return Comparison(stored, metric, budget, allowed, target, rows, subsets)


def _choose(stored: Stored, arm: str, metric: str, better: float) -> list[Outcome]:
    """The runs of the arm's best candidate on validation samples; those of the first where nothing was validated."""
    candidates: dict[str, list[Outcome]] = {}
    for one in sorted(stored["outcomes"], key=lambda one: one["seed"]):
        if one["arm"] == arm and value_of(one["test"], FUSED, metric) is not None:
            candidates.setdefault(one["candidate"], []).append(one)
    if not candidates:
        return []
    # A candidate that some seed did not survive has no right to be chosen.
    whole = max(map(len, candidates.values()))
    complete = {told: runs for told, runs in candidates.items() if len(runs) == whole}

    def judged(told: str) -> float:
        values = _values(complete[told], "validation", FUSED, metric)
        return better * statistics.fmean(values) if values else float("-inf")

    return complete[max(complete, key=judged)]


def mean_curve(runs: Sequence[Outcome], metric: str) -> list[tuple[int, int, float, float]]:
    """Means over seeds of the rounds that all of them validated."""
    by_round: dict[int, list[tuple[Point, float]]] = {}
    for run in runs:
        for point in run["curve"]:
            value = value_of(point["validation"], FUSED, metric)
            if value is not None:
                by_round.setdefault(point["round"], []).append((point, value))
    return [
        (
            number,
            round(_mean(point["bytes"] for point, _ in seen)),
            _mean(point["flops"] for point, _ in seen),
            _mean(value for _, value in seen),
        )
        for number, seen in sorted(by_round.items())
        if len(seen) == len(runs)
    ]


def _spent(point: tuple[int, int, float, float], budget: Budget) -> float:
    return float(point[{"rounds": 0, "bytes": 1, "flops": 2}[budget]])


def _against(runs: Sequence[Outcome], first: Sequence[Outcome], metric: str) -> Difference | None:
    ours = {run["seed"]: value_of(run["test"], FUSED, metric) for run in runs}
    theirs = {run["seed"]: value_of(run["test"], FUSED, metric) for run in first}
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    return difference([one for one, _ in known], [other for _, other in known])


def _values(runs: Sequence[Outcome], part: Literal["test", "validation"], subset: str, metric: str) -> list[float]:
    return [value for run in runs if (value := value_of(run[part], subset, metric)) is not None]


def value_of(metrics: Metrics | None, subset: str, metric: str) -> float | None:
    """A metric of a subset of the modalities; None where there is none."""
    scores: Mapping[str, object] = metrics.get(subset, {}) if metrics else {}
    value = scores.get(metric)
    return float(value) if isinstance(value, int | float) else None


def _at_edge(candidate: str, search: Mapping[str, Sequence[str]]) -> bool:
    values = {part.partition("=")[0]: part.partition("=")[2] for part in candidate.split(",") if "=" in part}
    ends = {key.rpartition(".")[2]: (tried[0], tried[-1]) for key, tried in search.items() if len(tried) > 1}
    return any(value in ends.get(key, ()) for key, value in values.items())


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.fmean(listed) if listed else 0.0
