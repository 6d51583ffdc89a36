"""The tables of docs/study.md, from the rows that `study.py` keeps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from m2fedsa.comparing.outcome import Outcome, Stored
from m2fedsa.comparing.rows import Comparison, compare
from m2fedsa.comparing.tables import cells, heads, still_rising
from m2fedsa.reporting.units import listing, size
from m2fedsa.statistics import difference, estimate

Row = dict[str, Any]
HEAD = """# Study

All methods of [methods.md](methods.md) on each task with 25 clients, Dirichlet 0.5 over classes; in all else a task is the recipe of its
name. Every method that trains was given the same search: three learning rates on a seed that is in no table, smaller ones where whole
encoders train, and a fourth beyond the best where that was the least or the largest; the best on validation samples counts. Of a run's
rounds, the warm start among them, the one that does best on validation samples counts. Test samples decided nothing. `splitfed_v1` ends
with the tensors of `fedavg`, to the bit, so it has its rate. Mean ± half of the 95 % interval (Student) on test samples; differences in
points, p of the paired t-test against the first row, not corrected for the number of rows. Bytes are all that clients send and receive,
FLOPs all that they compute, evaluation in neither. `edge`: the chosen rate is the least or the largest that was tried.

The rows behind each table, with settings, curves and digests: `benchmarks/results/study.jsonl`. The tables once more, and the study itself:

    python benchmarks/study.py --render --table docs/study.md
    python benchmarks/study.py --table docs/study.md --flipkart DIR --digits DIR --meld DIR --image DIR --audio DIR --text DIR
"""
METRIC = {"meld_text": "uar"}


def render(rows: Sequence[Row], figures: Path) -> str:
    """All tables as Markdown, of what there is. figures: the folder of `study_figures.draw`."""
    text = [HEAD, *_worth(rows)]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task and row["stage"] == "report"]
        tuning = [row for row in rows if row["task"] == task and row["stage"] == "search" and row["part"] == "methods"]
        if not mine:
            continue
        text.append(f"## {task}\n")
        text.append(_searched(tuning))
        if (figures / f"study_{task}.png").exists():
            text.append(f"![fused accuracy on validation samples against bytes and clients' FLOPs](study_{task}.png)\n")
        parts = {part: [row for row in mine if row["part"] == part] for part in ("methods", "longer", "factors", "ablations", "labels")}
        whole = [row for row in parts["methods"] if row["arm"] == "m2fedsa"]
        if parts["methods"]:
            text.append(_table(_compared(parts["methods"], tuning, task)))
        if parts["longer"]:
            text += [
                "### Twice the rounds for those that were still rising\n",
                _longer(parts["longer"], parts["methods"], METRIC.get(task, "accuracy")),
            ]
        if parts["ablations"]:
            text += ["### Without one of its parts\n", _table(_compared([*whole, *parts["ablations"]], tuning, task))]
        if parts["factors"]:
            text += ["### One factor at a time\n", _factors(parts["factors"], parts["methods"], METRIC.get(task, "accuracy"))]
        if parts["labels"]:
            text += ["### Few labels\n", _labels(parts["labels"], METRIC.get(task, "accuracy"))]
    return "\n".join(text).rstrip() + "\n"


def _searched(tuning: Sequence[Row]) -> str:
    if not tuning:
        return "No search: rates are the recipe's.\n"
    tried: dict[tuple[str, ...], list[str]] = {}
    for arm in dict.fromkeys(row["arm"] for row in tuning):
        tried.setdefault(tuple(_rates([row for row in tuning if row["arm"] == arm])), []).append(arm)
    told = [f"{', '.join(rates)} for {listing(arms)}" for rates, arms in tried.items()]
    seeds = listing([str(seed) for seed in sorted({row["seed"] for row in tuning})])
    return f"Rates that were tried, on seed {seeds}: {'; '.join(told)}.\n"


def _rates(tuning: Sequence[Row]) -> list[str]:
    return sorted({row["candidate"].partition("=")[2] for row in tuning}, key=float)


def _compared(rows: Sequence[Row], tuning: Sequence[Row], task: str) -> Comparison:
    """The rows as `m2fedsa compare` has them; the method itself comes first."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    arms.sort(key=lambda arm: arm != "m2fedsa")
    stored: Stored = {
        "command": "",
        "target": task,
        "arms": arms,
        "search": {"optimizer.learning_rate": _rates(tuning)} if tuning else {},
        "seeds": sorted({row["seed"] for row in rows}),
        "outcomes": [_outcome(row) for row in rows],
    }
    found = compare(stored, METRIC.get(task))
    return replace(found, rows=[replace(row, edge=_at_edge(row.arm, row.candidate, tuning)) for row in found.rows])


def _at_edge(arm: str, candidate: str, tuning: Sequence[Row]) -> bool:
    rates = _rates([row for row in tuning if row["arm"] == arm])
    return len(rates) > 1 and candidate.partition("=")[2] in (rates[0], rates[-1])


def _worth(rows: Sequence[Row]) -> list[str]:
    """What training adds to the best closed form, of which validation samples choose one for each task."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        metric = METRIC.get(task, "accuracy")
        mine = [row for row in rows if (row["task"], row["part"], row["stage"]) == (task, "methods", "report")]
        arms = {arm: [row for row in mine if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in mine)}
        closed = {
            arm: fmean(row["outcome"]["validation"]["fused"][metric] for row in arms[arm]) for arm in arms if arm.startswith("closed_form")
        }
        if "m2fedsa" not in arms or not closed:
            continue
        best = max(closed, key=lambda arm: closed[arm])
        values = {arm: {row["seed"]: row["outcome"]["test"]["fused"][metric] for row in arms[arm]} for arm in ("m2fedsa", best)}
        both = sorted(set(values["m2fedsa"]) & set(values[best]))
        apart = difference([values["m2fedsa"][seed] for seed in both], [values[best][seed] for seed in both])
        assert apart is not None
        sent = {arm: fmean(row["outcome"]["curve"][-1]["bytes"] for row in arms[arm]) for arm in values}
        half = "" if apart.half is None else f" ± {100 * apart.half:.1f}"
        shown = [task]
        for arm, found in values.items():
            shown += [*([arm] if arm == best else []), str(estimate(list(found.values()))), size(sent[arm])]
        lines.append(f"| {' | '.join([*shown, f'{100 * apart.mean:+.1f}{half}'])} |")
    if not lines:
        return []
    head = ["task", "m2fedsa", "sends", "closed form", "", "sends", "points"]
    return ["## What training adds to the closed form\n", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, ""]


def _outcome(row: Row) -> Outcome:
    given = {"directory": f"{row['arm']}/seed-{row['seed']}", "settings": row["config"]}
    return cast(Outcome, {**row["outcome"], "arm": row["arm"], "candidate": row["candidate"], "seed": row["seed"], **given})


def _validated(rows: Sequence[Row], metric: str) -> float:
    return fmean(row["outcome"]["validation"]["fused"][metric] for row in rows)


def _table(found: Comparison) -> str:
    head = heads(found)
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(cells(found, row, lambda text, _: text))} |" for row in found.rows]
    rising = [row.arm for row in found.rows if still_rising(row)]
    if rising:
        lines += ["", f"Not converged: {listing(rising)} gained a point or more in the last third of the rounds on validation samples."]
    return "\n".join([*lines, ""])


def _labels(rows: Sequence[Row], metric: str) -> str:
    """For each share of labelled samples, fused and each modality alone: without teachers, and in points what teachers add."""
    shares, arms = list(dict.fromkeys(row["factor"] for row in rows)), list(dict.fromkeys(row["arm"] for row in rows))
    first = arms[0]
    lines = [f"| labelled | {metric} | {' | '.join(arms)} |", "| --- | --- |" + " --- |" * len(arms)]
    for share in shares:
        for what in ("fused", *rows[0]["outcome"]["modalities"]):
            values = {
                arm: {row["seed"]: row["outcome"]["test"][what][metric] for row in rows if (row["arm"], row["factor"]) == (arm, share)}
                for arm in arms
            }
            shown = [estimate(list(values[first].values())) or "–"]
            for arm in arms[1:]:
                both = sorted(set(values[arm]) & set(values[first]))
                apart = difference([values[arm][seed] for seed in both], [values[first][seed] for seed in both])
                shown.append(
                    "–" if apart is None else f"{100 * apart.mean:+.1f}{'' if apart.half is None else f' ± {100 * apart.half:.1f}'}"
                )
            lines.append(f"| {share if what == 'fused' else ''} | {what} | {' | '.join(shown)} |")
    told = (
        f"{first}: mean ± half of the 95 % interval; the others: points above it, paired by seed. closed_form knows labelled samples alone."
    )
    return "\n".join([*lines, "", told, ""])


def _longer(rows: Sequence[Row], default: Sequence[Row], metric: str) -> str:
    """Fused, with the rounds of the others and with twice as many, over the seeds of the latter."""
    seeds = sorted({row["seed"] for row in rows})
    lines = ["| method | as many rounds as the others | twice as many | points | m2fedsa on these seeds |", "|" + " --- |" * 5]

    def values(source: Sequence[Row], arm: str) -> list[float]:
        found = {row["seed"]: row["outcome"]["test"]["fused"][metric] for row in source if row["arm"] == arm}
        return [found[seed] for seed in seeds if seed in found]

    for arm in dict.fromkeys(row["arm"] for row in rows):
        short, long = values(default, arm), values(rows, arm)
        apart = difference(long, short) if len(long) == len(short) else None
        told = "–" if apart is None else f"{100 * apart.mean:+.1f}{'' if apart.half is None else f' ± {100 * apart.half:.1f}'}"
        lines.append(f"| {arm} | {estimate(short)} | {estimate(long)} | {told} | {estimate(values(default, 'm2fedsa'))} |")
    return "\n".join([*lines, ""])


def _factors(rows: Sequence[Row], default: Sequence[Row], metric: str) -> str:
    """A row for each method, a column for each factor: fused, and in points what it is above or below the first method."""
    factors, arms = list(dict.fromkeys(row["factor"] for row in rows)), list(dict.fromkeys(row["arm"] for row in rows))
    every = [*[row for row in default if row["arm"] in arms], *rows]

    def values(arm: str, factor: str) -> dict[int, float]:
        return {row["seed"]: row["outcome"]["test"]["fused"][metric] for row in every if (row["arm"], row["factor"]) == (arm, factor)}

    lines = [f"| {metric}, fused | default | {' | '.join(factors)} |", "| --- |" + " --- |" * (len(factors) + 1)]
    for arm in arms:
        shown = []
        for factor in ("default", *factors):
            mine, first = values(arm, factor), values(arms[0], factor)
            both = sorted(set(mine) & set(first))
            apart = difference([mine[seed] for seed in both], [first[seed] for seed in both]) if arm != arms[0] else None
            told = "" if apart is None else f" ({100 * apart.mean:+.1f}{'' if apart.half is None else f' ± {100 * apart.half:.1f}'})"
            shown.append(f"{estimate(list(mine.values())) or '–'}{told}")
        lines.append(f"| {arm} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", f"In brackets: points above {arms[0]} under the same factor, paired by seed.", ""])
