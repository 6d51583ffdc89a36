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
"""Rows that are read and written at a time."""


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
        return next(self._told(name, [self.table.column(name)[row].as_py()]))

    def column(self, name: str) -> Iterator[Any]:
        """All cells of a column, as `cell` gives them."""
        for chunk in self.table.column(name).chunks:
            yield from self._told(name, chunk.to_pylist())

    def records(self, names: Sequence[str], rows: Sequence[int]) -> list[tuple[Any, ...]]:
        """The cells of these rows in these columns."""
        few = self.table.select(list(names)).take(list(rows))
        columns = (self._told(name, few.column(name).to_pylist()) for name in names)
        return list(zip(*columns, strict=True))

    def _told(self, name: str, values: Iterable[Any]) -> Iterator[Any]:
        names = self.classes.get(name)
        for value in values:
            if names is not None and isinstance(value, int):
                yield names[value] if 0 <= value < len(names) else None
            else:
                yield None if isinstance(value, str) and not value.strip() else value

    def require(self, name: str, setting: str) -> str:
        """`name`, if there is such a column. `DataError` names the nearest."""
        if name in self.names:
            return name
        near = difflib.get_close_matches(name, self.names, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(self.names)}."
        raise DataError(f"{self.source}: {setting} = {name!r}, but there is no such column. {advice}")


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
