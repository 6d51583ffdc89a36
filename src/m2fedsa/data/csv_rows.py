"""The tables of the recipes: small CSV files in memory, each with the columns that its owners gave it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from m2fedsa.data.columns import TOLD, Fault
from m2fedsa.data.csv_lines import csv_lines
from m2fedsa.data.samples import Split
from m2fedsa.errors import DataError

SPLIT_NAMES: Mapping[str, Split] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a UTF-8 file with a head line, as text.

    Errors: DataError for one that is missing, has no rows, lacks a column, or has rows that are broken: the first twenty are named.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. It should have the columns {', '.join(needed)}.")
    faults: list[Fault] = []
    with csv_lines(path, faults) as (names, lines):
        missing = [name for name in needed if name not in names]
        if missing:
            raise DataError(f"{path}: the column {missing[0]} is missing. Its head line names {', '.join(names)}.")
        rows = [dict(zip(names, cells, strict=True)) for cells in lines]
    if not rows:
        raise DataError(f"{path}: there is not one row beneath the head line.")
    if faults:
        told = [f"row {fault.row + 1}, {fault.column}: {fault.what}" for fault in faults[:TOLD]]
        more = [f"and {len(faults) - TOLD:,} more"] if len(faults) > TOLD else []
        first = f"{path}: {len({fault.row for fault in faults}):,} of {len(rows):,} rows cannot be read."
        raise DataError("\n       ".join([first, *told, *more]))
    return rows


def splits_of(rows: Sequence[Mapping[str, str]]) -> tuple[list[Split], list[Fault]]:
    """The split of each row, and the cells that name none."""
    faults = [
        Fault(number, "split", f"{row['split']!r} is none of {', '.join(SPLIT_NAMES)}")
        for number, row in enumerate(rows)
        if row["split"] not in SPLIT_NAMES
    ]
    return [SPLIT_NAMES.get(row["split"], "train") for row in rows], faults


def classes_of(rows: Sequence[Mapping[str, str]], column: str, count: int) -> tuple[list[int], list[Fault]]:
    """The class number of each row, and the cells that are no number from 0 to `count` - 1."""
    right = {str(number): number for number in range(count)}
    faults = [
        Fault(number, column, f"{row[column]!r} is not a whole number from 0 to {count - 1}")
        for number, row in enumerate(rows)
        if row[column] not in right
    ]
    return [right.get(row[column], 0) for row in rows], faults
