"""Predictions as a file: CSV, TSV, JSONL or Parquet by its name, which are the kinds that a manifest may have."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2fedsa.durable import write_atomically
from m2fedsa.errors import ConfigError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
_PARQUET = ".parquet"

Columns = Sequence[tuple[str, type]]
"""Name of each column, and whether it holds int, float or str."""


def check_name(path: Path) -> None:
    """`ConfigError` for a name that tells none of these kinds."""
    if path.suffix.lower() not in (*_SEPARATORS, *_LINES, _PARQUET):
        found = f"not {path.suffix}" if path.suffix else "and this name has no ending"
        raise ConfigError(f"--out {path}: predictions are written as .csv, .tsv, .jsonl or .parquet, {found}. Choose one of these endings.")


def write_table(path: Path, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows, in which None stands for an empty cell. `ConfigError` as for `check_name`, `StorageError` if the disk refuses."""
    check_name(path)
    kind = path.suffix.lower()
    if kind == _PARQUET:
        content = _parquet(columns, rows)
    elif kind in _LINES:
        names = [name for name, _ in columns]
        content = "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows).encode()
    else:
        content = _separated(columns, rows, _SEPARATORS[kind])
    write_atomically(path, content)


def _separated(columns: Columns, rows: Sequence[Sequence[Any]], separator: str) -> bytes:
    """Six digits of each number, as people read them."""
    written = io.StringIO(newline="")
    lines = csv.writer(written, delimiter=separator)
    lines.writerow(name for name, _ in columns)
    lines.writerows(["" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return written.getvalue().encode()


def _parquet(columns: Columns, rows: Sequence[Sequence[Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    arrays = [pyarrow.array([row[place] for row in rows], kinds[kind]) for place, (_, kind) in enumerate(columns)]
    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=[name for name, _ in columns]), written)
    return written.getvalue()
