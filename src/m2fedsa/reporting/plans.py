"""The planner's answer on the terminal: a table per encoder, and the settings that are proposed."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from m2fedsa.planning import CutCosts, Limits, Plans, unfit
from m2fedsa.reporting.units import duration, operations, percent, size


def show(plans: Plans, console: Console | None = None) -> None:
    """Print every cut, and the proposal. `CutError` where limits were given that none fits."""
    console = console or Console(width=None)
    batch = plans.config.federation.batch_size
    for name, cuts in plans.cuts.items():
        console.print(_table(name, cuts, plans.whole[name], batch, plans.limits))
    console.print(
        f"client: what it stores (frozen head at each type, and what trains), computes once per sample (head) and per sample and step.\n"
        f"line: a step of {batch} samples at {_rate(plans.limits.uplink)} up and {_rate(plans.limits.downlink)} down. "
        "* no other cut is better in bytes stored, work and bytes sent.",
        style="dim",
        highlight=False,
    )
    if plans.proposed is None:
        raise unfit(plans)
    console.print("\nproposed", style="bold")
    for name, one in plans.proposed.items():
        console.print(
            f"  --set modalities.{name}.block={one.costs.block} --set modalities.{name}.head_dtype={one.dtype}"
            f"   {size(one.client_bytes)} on the client, {percent(one.client_bytes / plans.whole[name])} of the whole",
            highlight=False,
        )


def _table(name: str, cuts: Sequence[CutCosts], whole: int, batch: int, limits: Limits) -> Table:
    table = Table(title=f"{name}: {size(whole)} whole, {cuts[0].blocks} blocks", title_justify="left", title_style="bold", box=None)
    for title in ("block", "", "float32", "bfloat16", "int8", "int4", "trained", "head", "a step", "server", "up", "down", "line"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    for one in cuts:
        remark = (
            "text can be read" if one.readable else "nothing mixed" if one.block == 0 else "" if one.task_adapter else "no task adapter"
        )
        table.add_row(
            str(one.block),
            "*" if one.front else "",
            *(size(stored) for stored in one.stored.values()),
            size(one.trained),
            operations(one.head_flops),
            operations(sum(one.client_flops)),
            operations(sum(one.server_flops)),
            size(one.up),
            size(one.down),
            remark or duration(one.step_seconds(batch, limits)),
            style="dim" if remark else None,
        )
    return table


def _rate(bits: float) -> str:
    return f"{size(bits).removesuffix('B')}bit/s"
