"""Learning curves and what accuracy costs, from the rows that `study.py` keeps: a picture for each task, beside the tables of
docs/study.md."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from study_tasks import OURS, metric_of

Row = dict[str, Any]
NO_COST = {"round": (), "bytes": ("centralised", "local"), "flops": ("centralised",)}
"""Whose costs are not those of a federation."""
SAME_CURVE = ("best_by_loss",)
"""Another round of the method's own runs."""
AXES = {
    "round": "round, 0 is the warm start",
    "bytes": "bytes that all clients send and receive",
    "flops": "FLOPs that all clients compute",
}


def draw(rows: Sequence[Row], folder: Path) -> None:
    """`study_TASK.png` in a folder, for each task whose methods were run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for task in dict.fromkeys(row["task"] for row in rows):
        metric = metric_of(task)
        mine = [row for row in rows if (row["task"], row["part"], row["stage"]) == (task, "methods", "report")]
        if not mine:
            continue
        figure, axes = pyplot.subplot_mosaic([["round", "round"], ["bytes", "flops"]], figsize=(12, 9), sharey=True, layout="constrained")
        arms = sorted({row["arm"] for row in mine} - {OURS, *SAME_CURVE})
        colours = {OURS: "black", **dict(zip(arms, cycle(pyplot.get_cmap("tab20").colors), strict=False))}
        for cost, axis in axes.items():
            for arm in (OURS, *arms):
                curves = [row["outcome"]["curve"] for row in mine if row["arm"] == arm]
                line = [] if arm in NO_COST[cost] or not curves else curve(curves, cost, metric, best=cost != "round")
                if line:
                    wide = 3 if arm == OURS else 1.4
                    marker = "o" if len(line) == 1 else None
                    axis.plot(*zip(*line, strict=True), marker=marker, color=colours[arm], label=arm, linewidth=wide, zorder=wide)
            if cost == "round":
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            else:
                least, most = axis.dataLim.intervalx
                # Within a decade a logarithmic axis has no room for its ticks.
                axis.set_xscale("log" if most > 10 * least else "linear")
                axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
            axis.set_xlabel(AXES[cost])
            axis.set_ylabel(f"fused {metric}{'' if cost == 'round' else ', best so far'}")
            axis.grid(alpha=0.3)
        figure.legend(*axes["round"].get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.suptitle(f"{task}, validation samples")
        figure.savefig(folder / f"study_{task}.png", dpi=100, metadata={"Software": None})
        pyplot.close(figure)


def curve(curves: Sequence[Sequence[Row]], cost: str, metric: str, *, best: bool) -> list[tuple[float, float]]:
    """Means over seeds, round by round: the cost until then, and what was validated, or the best until then of each seed."""
    rounds: dict[int, list[tuple[float, float]]] = {}
    for one in curves:
        most = 0.0
        for point in one:
            if point["validation"] is not None:
                value = point["validation"]["fused"][metric]
                most = max(most, value)
                rounds.setdefault(point["round"], []).append((point[cost], most if best else value))
    means = [(fmean(x for x, _ in seen), fmean(y for _, y in seen)) for _, seen in sorted(rounds.items()) if len(seen) == len(curves)]
    return [(x, y) for x, y in means if x or cost == "round"]
