"""The tables of docs/study.md, from the rows that `study.py` keeps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from study_tasks import FACTORS, LABELS, LONGER, MOST, NUMBERS, OURS, SAME, TASKS, TAUGHT, TUNED, TUNING, metric_of

from m2fedsa.baselines.methods import ABLATIONS, METHODS
from m2fedsa.comparing.outcome import Outcome, Stored
from m2fedsa.comparing.rows import Comparison, compare
from m2fedsa.comparing.tables import cells, heads, still_rising
from m2fedsa.reporting.units import listing, size
from m2fedsa.statistics import estimate, paired

Row = dict[str, Any]
HEAD = """# Study

All methods of [methods.md](methods.md) on each task with 25 clients, Dirichlet 0.5 over classes; in all else a task is the recipe of its
name, but for settings that are named with it. What was run so far is here; the command goes on with the rest.

- **The same search for all.** Three learning rates on one seed that is in no table, smaller ones where whole encoders train, and a fourth
  beyond the best where that was the least or the largest; the best on validation samples counts, of equals the one nearest to the middle of
  the grid. Those are 300 samples on `digits`: many choices are within noise. `edge`: the chosen rate is the least or the largest that was
  tried. Of a run's rounds, the warm start among them, the one that does best on validation samples counts. Test samples decided nothing.
- **Not searched**: μ of `fedprox` and the servers' rate of `fedadam` (0.01 each); ablations run at the rate of `m2fedsa`, factors and
  twice the rounds at that of the method at its default. `splitfed_v1` ends with the tensors of `fedavg`, to the bit, and has its rate.
- **`averaged_moments`** is `m2fedsa` with `optimizer.moments = "averaged"`, with a search of its own. **`calibrated`** is `m2fedsa` with
  `warm_start.calibrate = true`, at its rate; scores of both calibrated arms on validation samples, which choose their scales, are a little
  too good, and their pass over these is in bytes, not in FLOPs. **`best_by_loss`** is `m2fedsa`, of whose rounds the one of least loss on
  validation samples counts, at its rate. **`int8_wire`** is `m2fedsa` with `wire.up` and `wire.down = "int8"`, at its rate; other methods
  that send activations could travel like this too, and were not run with it.
- **The transfer phase does not begin here by itself.** The rule of the recipes (a plateau) needs eleven rounds of losses first, and all
  samples are labelled, so `m2fedsa` is fusion, adapters, averages and warm start; what transfer does is told under "Few labels" and among
  the ablations, where it begins in the first round.
- **Columns.** Mean ± half of the 95 % interval (Student) on test samples, `fused` and of each modality alone; differences in points, p of
  the paired t-test against the first row, not corrected for the number of rows. `bytes`: all that clients send and receive in all rounds,
  `client FLOPs`: all that they compute; evaluation is in neither. `at equal bytes`: on validation samples, in the last round for which a
  method had spent no more than `m2fedsa` in its whole run. `rounds to target`: until a method has what `m2fedsa` ends with on
  validation samples, means over seeds; – where it never does. `centralised` has the bytes of its warm start, `local` those of its losses.
- **Sums.** Rows of all tasks but `meld_text` are of before sums of the warm start travelled as triangular factors. Bytes of arms that
  have a warm start are too high there: of one run each 3 MB on `digits`, 0.53 GB on `products`, 0.81 GB on `spoken_digits`.
- **Machines.** Not all runs are of one processor. On another one last bits differ, and digests with them: of twenty runs that train
  nineteen came out within one of 600 samples of `digits`, fused; for one another round was the best on validation samples, and it was 16
  samples apart.

The rows behind each table, with settings, curves and digests: `benchmarks/results/study.jsonl`. The tables once more, and the study itself:

    python benchmarks/study.py --render --table docs/study.md
    python benchmarks/study.py --table docs/study.md --flipkart DIR --digits DIR --meld DIR --image DIR --audio DIR --text DIR
"""
PICTURE = "above: fused on validation samples, mean over seeds, by round; below: the best so far of each seed, in the mean, by cost"


def render(rows: Sequence[Row], figures: Path) -> str:
    """All tables as Markdown, of what there is. figures: the folder of `study_figures.draw`."""
    text = [HEAD, *_worth(rows)]
    for task in in_order((row["task"] for row in rows), [task.recipe for task in TASKS]):
        mine = [row for row in rows if row["task"] == task and row["stage"] == "report"]
        searched = [row for row in rows if row["task"] == task and row["stage"] == "search"]
        parts = {part: [row for row in mine if row["part"] == part] for part in ("methods", "longer", "factors", "ablations", "labels")}
        if not mine:
            continue
        tuning, methods, metric = [row for row in searched if row["part"] == "methods"], parts["methods"], metric_of(task)
        text += [f"## {task}\n", *_settings(task), _searched(tuning)]
        if (figures / f"study_{task}.png").exists():
            text.append(f"![Learning curves and costs of all methods](study_{task}.png)\n\nThe picture, {PICTURE}.\n")
        if methods:
            text.append(_table(_compared(methods, tuning, task)))
        if parts["longer"]:
            text += ["### Twice the rounds for those that were still rising\n", _longer(parts["longer"], methods, metric)]
        if parts["ablations"]:
            whole = [row for row in methods if row["arm"] == OURS and row["seed"] in {one["seed"] for one in parts["ablations"]}]
            apart = [{**row, "arm": row["factor"] if row["factor"] in NUMBERS else row["arm"]} for row in parts["ablations"]]
            text += ["### Without one of its parts\n", _table(_compared([*whole, *apart], tuning, task)), WITHIN]
        if parts["factors"]:
            text += ["### One factor at a time\n", _factors(parts["factors"], methods, metric)]
        if parts["labels"]:
            text += ["### Few labels\n", _labels(parts["labels"], [row for row in searched if row["part"] == "labels"], metric)]
    return "\n".join(text).rstrip() + "\n"


WITHIN = (
    "`no_decision_level`, `no_feature_level`, `paper_transfer` and λ begin with transfer in the first round: compare them with "
    "`fixed_start`, which does so too, with λ 0.6, 0.2, 0.2. In the recipe heads keep 1 block of 4, and adapters have a width of 32.\n"
)


def in_order(found: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each once, as in `order`, whatever the order in which runs came to their end."""
    return sorted(set(found), key=lambda one: (order.index(one) if one in order else len(order), one))


def _settings(task: str) -> list[str]:
    own = [setting for one in TASKS if one.recipe == task for setting in one.settings if not setting.startswith("kept.")]
    return [f"Beside the recipe's settings: {', '.join(f'`{setting}`' for setting in own)}.\n"] if own else []


def _searched(tuning: Sequence[Row]) -> str:
    if not tuning:
        return "No search: rates are the recipe's.\n"
    tried: dict[tuple[str, ...], list[str]] = {}
    for arm in in_order((row["arm"] for row in tuning), tuple(METHODS)):
        tried.setdefault(tuple(_rates([row for row in tuning if row["arm"] == arm])), []).append(arm)
    told = [f"{', '.join(rates)} for {listing(arms)}" for rates, arms in tried.items()]
    seeds = listing([str(seed) for seed in sorted({row["seed"] for row in tuning})])
    return f"Rates that were tried, on seed {seeds}: {'; '.join(told)}.\n"


def _rates(tuning: Sequence[Row]) -> list[str]:
    return sorted({_rate(row["candidate"]) for row in tuning}, key=float)


def _rate(candidate: str) -> str:
    return candidate.partition("=")[2]


def _compared(rows: Sequence[Row], tuning: Sequence[Row], task: str) -> Comparison:
    """The rows as `m2fedsa compare` has them; the method itself comes first."""
    stored: Stored = {
        "command": "",
        "target": task,
        "arms": in_order((row["arm"] for row in rows), (*METHODS, *ABLATIONS, *NUMBERS)),
        "search": {"optimizer.learning_rate": _rates(tuning)} if tuning else {},
        "seeds": sorted({row["seed"] for row in rows}),
        "outcomes": [_outcome(row) for row in rows],
    }
    found = compare(stored, metric_of(task))
    return replace(found, rows=[replace(row, edge=_at_edge(row.arm, row.candidate, tuning)) for row in found.rows])


def _at_edge(arm: str, candidate: str, tuning: Sequence[Row]) -> bool:
    """Whether the rate is at the edge of what was tried for the arm whose search counts."""
    searched = SAME.get(arm, arm if any(row["arm"] == arm for row in tuning) else OURS)
    rates = _rates([row for row in tuning if row["arm"] == searched])
    return len(rates) > 1 and _rate(candidate) in (rates[0], rates[-1])


def _worth(rows: Sequence[Row]) -> list[str]:
    """What training adds to the best closed form, of which validation samples choose one for each task."""
    lines = []
    for task in in_order((row["task"] for row in rows), [task.recipe for task in TASKS]):
        metric = metric_of(task)
        mine = [row for row in rows if (row["task"], row["part"], row["stage"]) == (task, "methods", "report")]
        arms = {arm: [row for row in mine if row["arm"] == arm] for arm in {row["arm"] for row in mine}}
        closed = {arm: _validated(found, metric) for arm, found in sorted(arms.items()) if arm.startswith("closed_form")}
        if OURS not in arms or not closed:
            continue
        likes = [("calibrated", "closed_form_calibrated")] if arms.keys() >= {"calibrated", "closed_form_calibrated"} else []
        for trained, arm in [*((OURS, arm) for arm in closed), *likes]:
            ours, theirs = (_values(mine, one, "default", metric) for one in (trained, arm))
            best = " (best by validation)" if closed[arm] == max(closed.values()) else ""
            costs = _sent(arms[trained]), _sent(arms[arm])
            shown = [task, trained, _mean(ours), costs[0], f"{arm}{best}", _mean(theirs), costs[1], _points(ours, theirs)]
            lines.append(f"| {' | '.join(shown)} |")
    if not lines:
        return []
    head = ["task", "trained", "fused", "bytes", "closed form", "fused", "bytes", "points that training adds"]
    return ["## What training adds to the closed forms\n", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, ""]


def _validated(rows: Sequence[Row], metric: str) -> float:
    return fmean(row["outcome"]["validation"]["fused"][metric] for row in rows)


def _sent(rows: Sequence[Row]) -> str:
    return size(fmean(row["outcome"]["curve"][-1]["bytes"] for row in rows))


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


# --- one factor, fewer labels, more rounds ------------------------------------------------------------------------------------------------


def _values(rows: Sequence[Row], arm: str, factor: str, metric: str, what: str = "fused") -> dict[int, float]:
    """seed -> on test samples."""
    return {row["seed"]: row["outcome"]["test"][what][metric] for row in rows if (row["arm"], row["factor"]) == (arm, factor)}


def _mean(values: Mapping[int, float]) -> str:
    return str(estimate([values[seed] for seed in sorted(values)]) or "–")


def _points(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    apart = paired(ours, theirs)
    return "–" if apart is None else apart.points


def _longer(rows: Sequence[Row], default: Sequence[Row], metric: str) -> str:
    """Fused, with the rounds of the others and with twice as many, over the seeds of the latter."""
    lines = ["| method | as many rounds as the others | twice as many | points | m2fedsa on these seeds |", "|" + " --- |" * 5]
    for arm in in_order((row["arm"] for row in rows), tuple(METHODS)):
        long = _values(rows, arm, LONGER, metric)
        every = (_values(default, one, "default", metric) for one in (arm, OURS))
        short, ours = ({seed: value for seed, value in values.items() if seed in long} for values in every)
        lines.append(f"| {arm} | {_mean(short)} | {_mean(long)} | {_points(long, short)} | {_mean(ours)} |")
    return "\n".join([*lines, ""])


def _labels(rows: Sequence[Row], tuning: Sequence[Row], metric: str) -> str:
    """For each share of labelled samples, fused and each modality alone: without teachers, and in points what teachers add."""
    arms = in_order((row["arm"] for row in rows), (*TAUGHT, *TUNING))
    lines = [f"| labelled | {metric} | {' | '.join(arms)} |", "| --- | --- |" + " --- |" * len(arms)]
    for share in in_order((row["factor"] for row in rows), tuple(LABELS)):
        for what in ("fused", *rows[0]["outcome"]["modalities"]):
            first, *others = (_values(rows, arm, share, metric, what) for arm in arms)
            shown = [_mean(first), *(_points(other, first) for other in others)]
            lines.append(f"| {share if what == 'fused' else ''} | {what} | {' | '.join(shown)} |")
    chosen = {row["arm"]: row["candidate"] for row in rows if row["candidate"] and row["factor"] not in MOST}
    edges = {arm: " (edge)" if _at_edge(arm, told, tuning) else "" for arm, told in chosen.items()}
    rates = [f"{arm} {_rate(chosen[arm])}{edges[arm]}" for arm in arms if arm in chosen]
    told = (
        f"{arms[0]}: mean ± half of the 95 % interval; the others: points above it, paired by seed. `no_rounds`: the warm start alone, "
        "with soft labels; `closed_form`: that of labelled samples. Transfer begins in the first round and has a new teacher every three. "
        f"Validation samples all have their labels. Learning rates, searched at {TUNED} labelled: {', '.join(rates)}; at "
        f"{listing(list(MOST))} that of `m2fedsa` above, for all."
    )
    return "\n".join([*lines, "", told, ""])


def _factors(rows: Sequence[Row], default: Sequence[Row], metric: str) -> str:
    """A row for each method, a column for each factor: fused, and in points what it is above or below the method."""
    seeds = sorted({row["seed"] for row in rows})
    factors = in_order((row["factor"] for row in rows), tuple(FACTORS))
    every = [*(row for row in default if row["seed"] in seeds), *rows]
    lines = [f"| {metric}, fused | default | {' | '.join(factors)} |", "| --- |" + " --- |" * (len(factors) + 1)]
    for arm in in_order((row["arm"] for row in rows), tuple(METHODS)):
        shown = []
        for factor in ("default", *factors):
            mine, first = _values(every, arm, factor, metric), _values(every, OURS, factor, metric)
            shown.append(f"{_mean(mine)}{'' if arm == OURS else f' ({_points(mine, first)})'}")
        lines.append(f"| {arm} | {' | '.join(shown)} |")
    told = f"Seeds {listing([str(seed) for seed in seeds])}. In brackets: points above m2fedsa under the same factor, paired by seed."
    return "\n".join([*lines, "", told, ""])
