"""Each kind of manifest, as rows: text files cell by cell, so that what is wrong in them is told by row and column."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from m2fedsa.data.columns import Fault
from m2fedsa.data.csv_lines import WHOLE, check_encoding, csv_lines
from m2fedsa.data.manifest.rows import TOGETHER, Rows, at_a_time, spooled
from m2fedsa.errors import DataError


def read_csv(path: Path) -> Rows:
    """A text file with a head line; cells between commas, semicolons or tabs, all of them text."""
    faults: list[Fault] = []
    with csv_lines(path, faults) as (names, lines):
        table = _of_texts(names, lines)
    return Rows(str(path), path.parent, table, tuple(faults))


def read_jsonl(path: Path) -> Rows:
    """A JSON object a line. Numbers stand for themselves, lists for series; whatever is no text is kept as the JSON that it is."""
    check_encoding(path)
    faults: list[Fault] = []
    names = list(dict.fromkeys(chain.from_iterable(found for found in _objects(path, faults))))
    if not names:
        if faults:
            raise DataError(f"{path}: row {faults[0].row + 1} {faults[0].what}.")
        raise DataError(f"{path}: there is not one row with a key.")
    texts = ([_as_text(found.get(name)) for name in names] for found in _objects(path, []))
    return Rows(str(path), path.parent, _of_texts(names, texts), tuple(faults))


def _objects(path: Path, faults: list[Fault]) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for row, line in enumerate(line for line in file if line.strip()):
            try:
                found = json.loads(line.decode("utf-8-sig" if row == 0 else "utf-8"))
                if not isinstance(found, dict):
                    raise ValueError(f"{type(found).__name__} instead of an object")
            except UnicodeDecodeError as error:
                faults.append(
                    Fault(row, WHOLE, f"is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}); save the file as UTF-8")
                )
                found = {}
            except ValueError as error:
                faults.append(Fault(row, WHOLE, f"is not a JSON object ({error})"))
                found = {}
            yield found


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def read_parquet(path: Path) -> Rows:
    """A Parquet file; cells keep their types."""
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        together = min((at_a_time(group.total_byte_size, group.num_rows) for group in groups), default=TOGETHER)
        table = spooled(file.schema_arrow, file.iter_batches(together))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).rstrip('.')}).") from error
    return Rows(str(path), path.parent, table, classes=_class_names(table.schema))


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """What Hugging Face writes beside a Parquet file's columns of classes."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        return {name: one["names"] for name, one in features.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError):
        return {}


def _of_texts(names: Sequence[str], rows: "Iterator[Sequence[str | None]]") -> Any:
    import pyarrow

    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])

    def batches() -> Iterator[Any]:
        while few := list(islice(rows, TOGETHER)):
            columns = [pyarrow.array([line[place] for line in few], pyarrow.string()) for place in range(len(names))]
            yield pyarrow.record_batch(columns, schema=schema)

    return spooled(schema, batches())
