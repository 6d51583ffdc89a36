"""The tables of docs/study.md, from the rows that `study.py` keeps."""

from collections.abc import Sequence
from typing import Any, cast

from m2fedsa.comparing.outcome import Outcome, Stored
from m2fedsa.comparing.rows import Comparison, compare
from m2fedsa.comparing.tables import cells, heads, still_rising
from m2fedsa.reporting.units import listing
from m2fedsa.statistics import difference, estimate

Row = dict[str, Any]
HEAD = """# Study

All methods of [methods.md](methods.md) on each task with 25 clients, Dirichlet 0.5 over classes; in all else a task is the recipe of its
name. Every method that trains was given the same search: the learning rates named below on seeds that are in no table, the best mean on
validation samples counts; of a run's rounds, the warm start among them, the one that does best on validation samples counts. Test samples
decided nothing. Mean ± half of the 95 % interval (Student) on test samples; differences in points, p of the paired t-test against the first
row, not corrected for the number of rows. Bytes are all that clients send and receive, FLOPs all that they compute, evaluation in neither.
`edge`: the chosen rate is the least or the largest that was tried.

The rows behind each table, with settings, curves and digests: `benchmarks/results/study.jsonl`. The tables once more, and the study itself:

    python benchmarks/study.py --render --table docs/study.md
    python benchmarks/study.py --table docs/study.md --flipkart DIR --digits DIR --meld DIR --image DIR --audio DIR --text DIR
"""
METRIC = {"meld_text": "uar"}


def render(rows: Sequence[Row]) -> str:
    """All tables as Markdown, of what there is."""
    text = [HEAD]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task and row["stage"] == "report"]
        tuning = [row for row in rows if row["task"] == task and row["stage"] == "search"]
        if not mine:
            continue
        text.append(f"## {task}\n")
        text.append(_searched(tuning))
        parts = {part: [row for row in mine if row["part"] == part] for part in ("methods", "factors", "ablations", "labels")}
        whole = [row for row in parts["methods"] if row["arm"] == "m2fedsa"]
        if parts["methods"]:
            text.append(_table(_compared(parts["methods"], tuning, task)))
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
    rates, seeds = _rates(tuning), sorted({row["seed"] for row in tuning})
    return f"Rates that were tried: {', '.join(rates)}, on seed{'s' if len(seeds) > 1 else ''} {listing([str(seed) for seed in seeds])}.\n"


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
    return compare(stored, METRIC.get(task))


def _outcome(row: Row) -> Outcome:
    given = {"directory": f"{row['arm']}/seed-{row['seed']}", "settings": row["config"]}
    return cast(Outcome, {**row["outcome"], "arm": row["arm"], "candidate": row["candidate"], "seed": row["seed"], **given})


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
