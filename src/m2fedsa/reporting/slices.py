"""What `m2fedsa cut` says: who has what, and how exact it is."""

from typing import TYPE_CHECKING

from m2fedsa.reporting.units import count, percent, plural, size

if TYPE_CHECKING:
    from m2fedsa.cutting import Cut


def told(cut: "Cut") -> list[str]:
    """The lines, in rich's markup."""
    plan, origin = cut.plan, cut.origin
    kind, whole = origin.kind.rpartition(".")[2], origin.bytes
    head, tail = (f"{size(part)} ({percent(part / whole)})" for part in (cut.head_bytes, cut.tail_bytes))
    where = f"cut after {plan.block} of {plural(plan.blocks, 'block')}"
    lines = [
        f"[bold]{kind}[/bold]: {count(origin.parameters)} parameters, {size(whole)} in float32, {where}.",
        f"  head  {cut.out / 'head'}: {head} with weights in {origin.head_dtype}, all that a client needs",
        f"  tail  {cut.out / 'tail'}: {tail}, all that the main server needs",
    ]
    if origin.head_dtype == "float32":
        lines.append("[green]Exact[/green]: both sides, read back from these files, are the whole encoder to the bit.")
    else:
        activations, pooled = cut.off
        lines.append(
            f"[green]The cut is exact[/green]: with its weights in float32 it is the whole encoder to the bit. In {origin.head_dtype} the "
            f"head's output is off by {percent(activations)}, the pooled output by {percent(pooled)} (relative, on random inputs)."
        )
    lines.append(
        f'To use it: [bold]modalities.NAME.encoder = "{cut.out}"[/bold], block = {plan.block}.'
        + ("" if plan.site is not None else " It has no place for a task adapter: set task_adapter = false.")
    )
    return lines


def show(cut: "Cut") -> None:
    """Print the lines."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in told(cut):
        console.print(line)
