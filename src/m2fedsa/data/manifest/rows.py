"""The rows of a manifest: a CSV, TSV, JSONL or Parquet file, or a Hugging Face data set.

Whatever the file is, its rows come to lie in an Arrow file on the disk that is mapped into memory: a hundred thousand rows cost no more
memory than a hundred, and any row is at hand. The file is a temporary one and is gone with the process.
"""

import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2fedsa.data.columns import Fault
from m2fedsa.errors import DataError

if TYPE_CHECKING:
    import pyarrow

TOGETHER = 8192
"""Rows that are read and written at a time, at most."""
_BYTES = 1 << 24
"""Of rows that are in memory at a time, about; they may hold whole files."""


def at_a_time(size: int, rows: int) -> int:
    """How many of so many rows, which have `size` bytes together, may be in memory at a time."""
    return max(1, min(TOGETHER, _BYTES * rows // max(size, 1)))


@dataclass(frozen=True)
class Rows:
    """Named columns of a manifest."""

    source: str
    """for messages"""
    root: Path
    """where paths in cells begin"""
    table: "pyarrow.Table"
    faults: tuple[Fault, ...] = ()
    """what is wrong with the file itself, by row"""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """columns that hold numbers of names: these names"""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(self.table.column_names)

    def cell(self, name: str, row: int) -> Any:
        """What stands there: text (all that a CSV has), a number, bytes, a mapping (data sets with pictures), a list; None for nothing."""
        value = self.table.column(name)[row].as_py()
        return _named(self.classes[name], value) if name in self.classes else _or_none(value)

    def column(self, name: str) -> Iterator[Any]:
        """All cells of a column, as `cell` gives them."""
        for chunk in self.table.column(name).chunks:
            step = at_a_time(chunk.nbytes, len(chunk))
            for begin in range(0, len(chunk), step):
                yield from self._told(name, chunk.slice(begin, step).to_pylist())

    def records(self, names: Sequence[str], rows: Sequence[int]) -> list[tuple[Any, ...]]:
        """The cells of these rows in these columns."""
        few = self.table.select(list(names)).take(list(rows))
        columns = (self._told(name, few.column(name).to_pylist()) for name in names)
        return list(zip(*columns, strict=True))

    def _told(self, name: str, values: Iterable[Any]) -> Iterator[Any]:
        names = self.classes.get(name)
        return (_or_none(value) for value in values) if names is None else (_named(names, value) for value in values)

    def require(self, name: str, setting: str) -> str:
        """`name`, if there is such a column. `DataError` names the nearest."""
        if name in self.names:
            return name
        near = difflib.get_close_matches(name, self.names, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(self.names)}."
        raise DataError(f"{self.source}: {setting} = {name!r}, but there is no such column. {advice}")


def _or_none(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _named(names: Sequence[str], value: Any) -> Any:
    """A class by its number; what is no number stands for itself."""
    if not isinstance(value, int):
        return _or_none(value)
    return names[value] if 0 <= value < len(names) else None


def spooled(schema: "pyarrow.Schema", batches: "Iterator[pyarrow.RecordBatch]") -> "pyarrow.Table":
    """Batches as one table over a file that is mapped into memory and has no name any more."""
    import pyarrow

    handle, name = tempfile.mkstemp(prefix="m2fedsa-", suffix=".arrow")
    os.close(handle)
    try:
        with pyarrow.OSFile(name, "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return pyarrow.ipc.open_file(pyarrow.memory_map(name)).read_all()
    finally:
        Path(name).unlink()
