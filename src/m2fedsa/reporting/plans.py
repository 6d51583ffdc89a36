"""The planner's answer on the terminal: a table per encoder, narrow enough for 80 columns, and the settings that are proposed."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from m2fedsa.config import Modality
from m2fedsa.planning import CutCosts, Limits, Plans, unfit
from m2fedsa.reporting.units import percent, size

FRONT, LEFT_OUT = "*", "x"
COLUMNS = ("block", "", "fp32", "bf16", "int8", "int4", "head", "step", "server", "up", "down", "line s")


def show(plans: Plans, console: Console | None = None) -> None:
    """Print every cut, and the proposal. `CutError` where limits were given that none fits."""
    console = console or Console(width=None)
    batch = plans.config.federation.batch_size
    for name, cuts in plans.cuts.items():
        _show_encoder(console, name, cuts, plans.whole[name], batch, plans.limits)
        _show_views(console, plans.config.modalities[name], cuts)
    console.print(_legend(plans, batch), style="dim", highlight=False)
    if plans.proposed is None:
        raise unfit(plans)
    console.print("\nproposed", style="bold")
    for name, one in plans.proposed.items():
        told = f"{size(one.client_bytes)} on the client, {percent(one.client_bytes / plans.whole[name])} of the whole"
        console.print(f"  {name}: block {one.costs.block} in {one.dtype}, {told}", highlight=False)
    options = (
        f"--set modalities.{name}.block={one.costs.block} --set modalities.{name}.head_dtype={one.dtype}"
        for name, one in plans.proposed.items()
    )
    # One line, however long, so that it can be copied.
    console.print(f"\n{' '.join(options)}", highlight=False, soft_wrap=True)


def _show_encoder(console: Console, name: str, cuts: Sequence[CutCosts], whole: int, batch: int, limits: Limits) -> None:
    stores, bytes_ = _unit((one.stored["float32"] for one in cuts), ("B", "kB", "MB", "GB"))
    computes, operations = _unit((sum(one.server_flops) for one in cuts), ("FLOP", "kFLOP", "MFLOP", "GFLOP"))
    sends, sent = _unit((one.up for one in cuts), ("B", "kB", "MB", "GB"))
    console.print(f"{name}: {size(whole)} whole, {cuts[0].blocks} blocks, {size(cuts[0].trained)} more trained at a client", style="bold")
    console.print(f"stored in {bytes_}, work in {operations}, up and down in {sent}", style="dim", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for one in cuts:
        table.add_row(
            str(one.block),
            FRONT if one.front else "" if one.proposable else LEFT_OUT,
            *(_short(stored / stores) for stored in one.stored.values()),
            *(_short(flops / computes) for flops in (one.head_flops, sum(one.client_flops), sum(one.server_flops))),
            *(_short(number / sends) for number in (one.up, one.down)),
            _short(one.step_seconds(batch, limits)),
            style=None if one.proposable else "dim",
        )
    console.print(table)
    console.print()


def _show_views(console: Console, settings: Modality, cuts: Sequence[CutCosts]) -> None:
    """What disturbed samples cost beside the table, at the cut of the settings."""
    if not settings.augment:
        return
    disturbed = f"augment = {list(settings.augment)}, augment_views = {settings.views}".replace("'", '"')
    kept = next((one.kept for one in cuts if one.block == settings.block), cuts[-1].kept)
    price = (
        f"the head's work {settings.views} times per sample, and {settings.views} of its outputs are kept, {size(kept * settings.views)} "
        f"per sample at block {settings.block} instead of {size(kept)}"
        if settings.views
        else f"the head's work in every step, and none of its outputs is kept ({size(kept)} per sample at block {settings.block})"
    )
    console.print(f"{disturbed}: {price}\n", highlight=False)


def _legend(plans: Plans, batch: int) -> str:
    every = [one for cuts in plans.cuts.values() for one in cuts]
    reasons = [
        *(["at 0 no block has mixed the input"] if any(one.block == 0 for one in every) else []),
        *(["a text could simply be read"] if any(one.readable for one in every) else []),
        *(["the tail has no place for a task adapter"] if not all(one.task_adapter for one in every) else []),
    ]
    return (
        "fp32 ... int4: the frozen head at a client. head: its work, once per sample if outputs are kept, else in every step. "
        "step: the client's other work per sample and step. server: the same there. up, down: per sample and step. "
        f"line: a step of {batch} samples at {_rate(plans.limits.uplink)} up and {_rate(plans.limits.downlink)} down.\n"
        f"{FRONT} no other cut is better in bytes stored, work and bytes sent\n"
        f"{LEFT_OUT} never proposed: {'; '.join(reasons)}"
    )


def _unit(values: Iterable[float], names: Sequence[str]) -> tuple[float, str]:
    """What to divide all by, and what it is called: the largest then has one to three digits before its point."""
    largest, place = max(values), 0
    while largest >= 999.5 and place < len(names) - 1:
        largest, place = largest / 1000, place + 1
    return 1000.0**place, names[place]


def _short(value: float) -> str:
    """Two or three digits."""
    if value == 0 or value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.2g}"


def _rate(bits: float) -> str:
    return f"{size(bits).removesuffix('B')}bit/s"
