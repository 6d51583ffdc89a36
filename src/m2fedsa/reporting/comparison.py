"""Several runs side by side: runs that differ only in their seed are taken together as one, with mean and 95 % interval."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import NamedTuple

from m2fedsa.reporting.cards import note, row, section
from m2fedsa.reporting.charts import FUSED, PALETTE, Bar, Series, bars, curves, table
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.summary import NAMES, best_single, judged_by, score
from m2fedsa.reporting.units import duration, listing, plural, size
from m2fedsa.statistics import Estimate, estimate


class Group(NamedTuple):
    """Runs of equal settings but for the seed."""

    name: str
    runs: list[RunFiles]
    colour: str


def groups(runs: Sequence[RunFiles]) -> list[Group]:
    """Runs of equal settings but for the seed, named after what sets them apart from the others."""
    found: dict[str, list[RunFiles]] = {}
    for run in runs:
        found.setdefault(run.config.model_copy(update={"seed": 0}).to_toml(), []).append(run)
    first = next(iter(found.values()))[0].config
    apart = sorted({line.partition(":")[0] for members in found.values() for line in first.differences(members[0].config)} - {"seed"})
    named = []
    for place, members in enumerate(found.values()):
        config = members[0].config
        told = [f"{key.removeprefix('federation.')}={_value(config, key)}" for key in apart if key != "name"]
        same_name = len({group[0].config.name for group in found.values()}) == 1
        name = ", ".join([*([] if same_name and told else [config.name]), *told])
        named.append(Group(name, members, (FUSED, *PALETTE)[place % (len(PALETTE) + 1)]))
    return named


def _value(config: object, key: str) -> object:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
    return "none" if config is None else str(config).lower() if isinstance(config, bool) else config


def parts(runs: Sequence[RunFiles]) -> list[str]:
    """The parts of the page."""
    found = groups(runs)
    text = f"{plural(len(runs), 'run')}, {plural(len(found), 'setting')}"
    unfinished = [run.path.name for run in runs if run.result is None]
    warning = section("Not finished", note(f"{listing(unfinished)}: in the curves only."), kind="warn") if unfinished else ""
    return [
        f'<header><p class="kicker">m2fedsa</p><h1>{escape(text)}</h1></header>',
        warning,
        row(_fused(found), _curves(found), kind="two"),
        _table(found),
        _runs(found),
    ]


def _results(group: Group, value: Callable[[RunFiles], float | None]) -> Estimate | None:
    return estimate([number for run in group.runs if run.result and (number := value(run)) is not None])


def _test(run: RunFiles, subset: str) -> float | None:
    return score(run.result["metrics"], subset) if run.result else None


def _metric(found: Sequence[Group]) -> str:
    """What the first of these runs is judged by."""
    return NAMES[judged_by(next((run.result["metrics"] for group in found for run in group.runs if run.result), None))]


def _fused(found: Sequence[Group]) -> str:
    rows = []
    for place, group in enumerate(found):
        fused = _results(group, lambda run: _test(run, "fused"))
        if fused:
            low, high = (fused.mean - fused.half, fused.mean + fused.half) if fused.half is not None else (None, None)
            rows.append(Bar(f"{place + 1}. {group.name}", fused.mean, str(fused), group.colour, low=low, high=high))
    return section(f"Fused {_metric(found)} on test samples", bars(rows, 1.0), note("Mean over seeds; the dark line is its 95 % interval."))


def _curves(found: Sequence[Group]) -> str:
    series = []
    for place, group in enumerate(found):
        history: dict[int, list[float]] = {}
        for run in group.runs:
            for record in run.rounds:
                if (value := score(record["metrics"], "fused")) is not None:
                    history.setdefault(record["round"], []).append(value)
        points = [(float(number), statistics.fmean(values)) for number, values in sorted(history.items())]
        name = f"{place + 1}." if len(group.name) > 10 else f"{place + 1}. {group.name}"
        series.append(Series(name, points, group.colour, wide=place == 0))
    remark = "On validation samples, mean over seeds."
    return section(f"Fused {_metric(found)} over the rounds", curves(series, "round", _metric(found)), note(remark))


def _table(found: Sequence[Group]) -> str:
    modalities = list(dict.fromkeys(name for group in found for name in group.runs[0].modalities))
    rows = []
    for group in found:
        subsets = [_results(group, partial(_test, subset=name)) for name in ("fused", *modalities)]
        lead = _results(group, _lead)
        seconds = statistics.fmean([run.result["seconds"] for run in group.runs if run.result] or [0.0])
        traffic = statistics.fmean([sum(run.traffic().values()) for run in group.runs if run.result] or [0.0])
        told = ["–" if one is None else str(one) for one in (*subsets, lead)]
        rows.append([group.name, str(len(group.runs)), *told, duration(seconds), size(traffic)])
    head = ["settings", "runs", "fused", *modalities, "fused − best single", "seconds", "bytes"]
    return section("Side by side", table(head, rows), note("Accuracy on test samples, mean ± half the 95 % interval over seeds."))


def _lead(run: RunFiles) -> float | None:
    fused, single = _test(run, "fused"), best_single(run.result["metrics"]) if run.result else None
    return fused - single[1] if fused is not None and single is not None else None


def _runs(found: Sequence[Group]) -> str:
    rows = []
    for group in found:
        for run in group.runs:
            fused = _test(run, "fused")
            digest = run.result["digest"][:12] if run.result else "–"
            rows.append([str(run.path), group.name, str(run.config.seed), "–" if fused is None else f"{fused:.3f}", digest])
    return section("The runs", table(["directory", "settings", "seed", "fused", "digest"], rows, left=2))
