"""What `m2fedsa data check` prints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from m2fedsa.data.columns import TOLD
from m2fedsa.data.samples import SPLITS, Split

if TYPE_CHECKING:
    from rich.table import Table

    from m2fedsa.data.manifest.checking import Checked

MOST_ROWS = 30
"""Of a table; the others are added up in one."""
_FEW = 5


def show(checked: "Checked") -> None:
    """Print all of it."""
    from rich.console import Console

    console = Console(highlight=False)
    reading = checked.reading
    unusable = len({fault.row for fault in checked.faults})
    console.print(f"[bold]{reading.rows.source}[/bold]  {len(reading.rows):,} rows, {len(reading.rows) - unusable:,} of them can be used")
    for title, counts in (("class", checked.classes), ("modality", checked.modalities), ("client", checked.clients)):
        if counts:
            console.print(_counted(title, counts, checked.splits))
    console.print(_together(checked))
    if checked.lengths:
        console.print(_long(checked))
    if checked.imbalance is not None:
        console.print(f"imbalance    the largest class has {checked.imbalance:.3g} times the training rows of the smallest")
    for note in checked.notes:
        console.print(f"note         {note}", markup=False, style="yellow", soft_wrap=True)
    for line in _twins(checked):
        console.print(f"duplicates   {line}", markup=False, style="yellow", soft_wrap=True)
    if checked.faults:
        console.print(f"[bold red]unusable[/bold red]     {unusable:,} rows; --on-error skip would leave them out", soft_wrap=True)
        for fault in checked.faults[:TOLD]:
            console.print(f"             {reading.told(fault)}", markup=False, soft_wrap=True)
        if len(checked.faults) > TOLD:
            console.print(f"             and {len(checked.faults) - TOLD:,} more")
    else:
        console.print("unusable     none: every cell can be read")


def _counted(title: str, counts: Mapping[str, Mapping[Split, int]], splits: Mapping[Split, int]) -> "Table":
    names = [split for split in SPLITS if splits.get(split)]
    table = _table(title, *names)
    shown = sorted(counts, key=lambda name: -sum(counts[name].values())) if len(counts) > MOST_ROWS else list(counts)
    for name in shown[:MOST_ROWS]:
        table.add_row(name, *(f"{counts[name].get(split, 0):,}" for split in names))
    if len(shown) > MOST_ROWS:
        rest = shown[MOST_ROWS:]
        table.add_row(f"{len(rest):,} others", *(f"{sum(counts[name].get(split, 0) for name in rest):,}" for split in names))
    return table


def _together(checked: "Checked") -> "Table":
    table = _table("together", "rows")
    for subset, count in list(checked.subsets.items())[:MOST_ROWS]:
        table.add_row("+".join(subset) or "nothing", f"{count:,}")
    return table


def _long(checked: "Checked") -> "Table":
    table = _table("length", "shortest", "median", "longest", "in")
    for name, lengths in checked.lengths.items():
        table.add_row(name, f"{lengths.least:,.4g}", f"{lengths.median:,.4g}", f"{lengths.most:,.4g}", lengths.unit)
    return table


def _table(first: str, *others: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _twins(checked: "Checked") -> Sequence[str]:
    """A line for each modality that has duplicates across splits."""
    found: dict[str, list[str]] = {}
    for twin in checked.twins:
        splits = checked.reading.splits
        told = f"row {twin.second + 1} ({splits[twin.second]}) = row {twin.first + 1} ({splits[twin.first]})"
        found.setdefault(twin.modality, []).append(told)
    return [
        f"{'whole rows' if name == 'all' else name}: {len(pairs):,} in another split as well: {', '.join(pairs[:_FEW])}"
        f"{' …' if len(pairs) > _FEW else ''}"
        for name, pairs in found.items()
    ]
