"""Rows of a CSV file of samples, with what is wrong in it told by file, row and column."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2fedsa.data.columns import Fault
from m2fedsa.data.samples import Split
from m2fedsa.errors import DataError

SPLIT_NAMES: Mapping[str, Split] = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a UTF-8 file with a head line, as text. Errors: DataError for one that is missing, has no rows or lacks a column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            rows = list(reader)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. It should have the columns {', '.join(needed)}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error}).") from error
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{path}: the column {missing[0]} is missing. Its head line names {', '.join(names) or 'none'}.")
    if not rows:
        raise DataError(f"{path}: there is a head line, but not one row.")
    short = next((number for number, row in enumerate(rows) if None in row or None in row.values()), None)
    if short is not None:
        raise DataError(f"{path}: row {short + 1} has more or fewer cells than the head line. Look for a quote or a comma too many.")
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
