"""What accuracy costs, from the rows that `study.py` keeps: a picture for each task, beside the tables of docs/study.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from study_table import METRIC

Row = dict[str, Any]
FIRST = "m2fedsa"
SEND_NOTHING = {"bytes": ("centralised", "local"), "flops": ("centralised",)}
"""What these cost is not what a federation costs."""
COSTS = (("bytes", "bytes that all clients send and receive"), ("flops", "FLOPs that all clients compute"))


def draw(rows: Sequence[Row], folder: Path) -> None:
    """`study_TASK.png` in a folder, for each task whose methods were run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for task in dict.fromkeys(row["task"] for row in rows):
        metric = METRIC.get(task, "accuracy")
        mine = [row for row in rows if (row["task"], row["part"], row["stage"]) == (task, "methods", "report")]
        if not mine:
            continue
        figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
        arms = sorted(dict.fromkeys(row["arm"] for row in mine), key=lambda arm: arm != FIRST)
        colours = {FIRST: "black", **dict(zip(arms[1:], pyplot.get_cmap("tab20").colors, strict=False))}
        for axis, (cost, told) in zip(axes, COSTS, strict=True):
            for arm in arms:
                if arm in SEND_NOTHING[cost]:
                    continue
                line = curve([row["outcome"]["curve"] for row in mine if row["arm"] == arm], cost, metric)
                if line:
                    wide = 3 if arm == FIRST else 1.4
                    marker = "o" if len(line) == 1 else None
                    axis.plot(*zip(*line, strict=True), marker=marker, color=colours[arm], label=arm, linewidth=wide, zorder=wide)
            axis.set_xscale("log")
            axis.set_xlabel(told)
            axis.grid(alpha=0.3)
        axes[0].set_ylabel(f"fused {metric}, validation samples")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.suptitle(task)
        figure.savefig(folder / f"study_{task}.png", dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def curve(curves: Sequence[Sequence[Row]], cost: str, metric: str) -> list[tuple[float, float]]:
    """Means over seeds: what had been spent by a round, and the best that was validated until then, which is what is kept."""
    rounds: dict[int, list[Row]] = {}
    for one in curves:
        for point in one:
            if point["validation"] is not None:
                rounds.setdefault(point["round"], []).append(point)
    found, best = [], 0.0
    for _, points in sorted(rounds.items()):
        if len(points) == len(curves):
            best = max(best, fmean(point["validation"]["fused"][metric] for point in points))
            spent = fmean(point[cost] for point in points)
            if spent:
                found.append((spent, best))
    return found
