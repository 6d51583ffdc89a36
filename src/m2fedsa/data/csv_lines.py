"""The one reader of CSV files: UTF-8 with a head line, cell by cell, so that what is wrong is told by row and column."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from m2fedsa.data.columns import Fault
from m2fedsa.errors import DataError

WHOLE = "(the row)"
"""In the place of a column's name, where it is the row that is wrong."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def csv_lines(path: Path, faults: list[Fault]) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """The columns' names, and the rows one after the other, each with a cell for every name.

    Cells lie between commas, semicolons or tabs; of a file `.tsv` between tabs. Empty lines are no rows. faults: grows, as rows are taken,
    by those of another number of cells and by cells that are not UTF-8. Errors: DataError for a file or a head line that cannot be read.
    """
    check_encoding(path)
    # Bytes that are no UTF-8 become single surrogates, so that their cell can be named.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        head = file.readline()
        file.seek(0)
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",\t;", key=head.count)
        csv.field_size_limit(sys.maxsize)
        lines = csv.reader(file, delimiter=mark)
        names = _names(path, next(lines, []))
        yield names, _cells(path, lines, names, faults)


def check_encoding(path: Path) -> None:
    """`DataError` for a file that begins like UTF-16, or like no text."""
    with path.open("rb") as file:
        begin = file.read(4096)
    if begin.startswith(_UTF16) or b"\0" in begin:
        raise DataError(f"{path}: is not UTF-8 but {'UTF-16' if begin.startswith(_UTF16) else 'binary'}. Save it as UTF-8.")


def _names(path: Path, line: Sequence[str]) -> list[str]:
    names = [name.strip() for name in line]
    if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):
        raise DataError(f"{path}: the head line is not UTF-8. Save the file as UTF-8.")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise DataError(f"{path}: the head line names {twice!r} twice.")
    if not any(names):
        raise DataError(f"{path}: there is no head line.")
    if not all(names):
        raise DataError(f"{path}: the head line has no name for column {names.index('') + 1}.")
    return names


def _cells(path: Path, lines: Iterator[list[str]], names: Sequence[str], faults: list[Fault]) -> Iterator[list[str]]:
    row = -1
    while True:
        try:
            line = next(lines, None)
        except csv.Error as error:
            raise DataError(f"{path}: row {row + 2} cannot be read as CSV ({error}).") from error
        if line is None:
            return
        if not line:  # an empty line
            continue
        row += 1
        if len(line) != len(names):
            told = f"has {len(line)} cells, but the head line {len(names)}; look for a quote or a mark too many or too few"
            faults.append(Fault(row, WHOLE, told))
            line = [*line, *[""] * len(names)][: len(names)]
        yield line if "".join(line).isascii() else [_sound(cell, row, name, faults) for cell, name in zip(line, names, strict=True)]


def _sound(cell: str, row: int, name: str, faults: list[Fault]) -> str:
    if not any("\udc80" <= letter <= "\udcff" for letter in cell):
        return cell
    wrong = next(letter for letter in cell if "\udc80" <= letter <= "\udcff")
    shown = cell.encode("utf-8", "surrogateescape").decode("latin-1")
    faults.append(
        Fault(row, name, f"the byte 0x{ord(wrong) - 0xDC00:02x} is not UTF-8 (in Latin-1 it reads {shown!r}); save the file as UTF-8")
    )
    return shown
