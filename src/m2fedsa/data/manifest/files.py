"""Each kind of manifest, as rows: text files cell by cell, so that what is wrong in them is told by row and column."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from m2fedsa.data.columns import Fault
from m2fedsa.data.manifest.rows import TOGETHER, Rows, spooled
from m2fedsa.errors import DataError

WHOLE = "(the row)"
"""In the place of a column's name, where it is the row that is wrong."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(path: Path) -> Rows:
    """A text file with a head line; cells between commas, semicolons or tabs, all of them text."""
    _check_encoding(path)
    faults: list[Fault] = []
    # Bytes that are no UTF-8 become single surrogates, so that their cell can be named.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        head = file.readline()
        file.seek(0)
        mark = max("\t,;", key=head.count) if path.suffix.lower() == ".csv" else "\t"
        csv.field_size_limit(sys.maxsize)
        lines = csv.reader(file, delimiter=mark)
        names = _names(path, next(lines, []))
        table = _of_texts(names, _cells(lines, names, faults))
    return Rows(str(path), path.parent, table, tuple(faults))


def _cells(lines: Iterator[list[str]], names: Sequence[str], faults: list[Fault]) -> Iterator[list[str]]:
    row = -1
    while True:
        try:
            line = next(lines, None)
        except csv.Error as error:
            raise DataError(f"row {row + 2} cannot be read as CSV ({error}).") from error
        if line is None:
            return
        if not line:  # an empty line
            continue
        row += 1
        if len(line) != len(names):
            told = f"has {len(line)} cells, but the head line {len(names)}; look for a quote or a mark too many or too few"
            faults.append(Fault(row, WHOLE, told))
            line = [*line, *[""] * len(names)][: len(names)]
        yield [_sound(cell, row, name, faults) for cell, name in zip(line, names, strict=True)]


def _sound(cell: str, row: int, name: str, faults: list[Fault]) -> str:
    if cell.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in cell):
        return cell
    wrong = next(letter for letter in cell if "\udc80" <= letter <= "\udcff")
    shown = cell.encode("utf-8", "surrogateescape").decode("latin-1")
    faults.append(
        Fault(row, name, f"the byte 0x{ord(wrong) - 0xDC00:02x} is not UTF-8 (in Latin-1 it reads {shown!r}); save the file as UTF-8")
    )
    return shown


def read_jsonl(path: Path) -> Rows:
    """A JSON object a line. Numbers stand for themselves, lists for series; whatever is no text is kept as the JSON that it is."""
    _check_encoding(path)
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
        table = spooled(file.schema_arrow, file.iter_batches(TOGETHER))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).rstrip('.')}).") from error
    return Rows(str(path), path.parent, table, classes=_class_names(table.schema))


def read_dataset(name: str, path: Path) -> Rows:
    """A Hugging Face data set: a folder that `save_to_disk` wrote, one that `load_dataset` takes, or a name on the hub.

    Its splits become a column `split`; pictures and recordings stay the files that they are.
    """
    import datasets

    try:
        saved = path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file())
        loaded = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path) if path.is_dir() else name)
    except Exception as error:  # whatever a builder, the hub or the disk lets out
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        kind = "no data set can be read from this folder" if path.is_dir() else "no such file, and no such data set on the hub"
        raise DataError(f"{name}: {kind} ({type(error).__name__}: {reason}).") from error
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    tables = []
    for split, one in splits.items():
        one = _undecoded(one).flatten_indices() if one._indices is not None else _undecoded(one)
        table = one.data.table
        if split and "split" not in table.column_names:
            table = table.append_column("split", [[str(split)] * table.num_rows])
        tables.append(table)
    import pyarrow

    try:
        whole = pyarrow.concat_tables(tables)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{name}: its splits have different columns ({str(error).partition(chr(10))[0]}).") from error
    features = next(iter(splits.values())).features
    classes = {key: list(one.names) for key, one in features.items() if isinstance(one, datasets.ClassLabel)}
    return Rows(name, path if path.is_dir() else Path.cwd(), whole, classes=classes)


def _undecoded(dataset: Any) -> Any:
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """What Hugging Face writes beside a Parquet file's columns of classes."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        return {name: one["names"] for name, one in features.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError):
        return {}


def _check_encoding(path: Path) -> None:
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


def _of_texts(names: Sequence[str], rows: "Iterator[Sequence[str | None]]") -> Any:
    import pyarrow

    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])

    def batches() -> Iterator[Any]:
        while few := list(islice(rows, TOGETHER)):
            columns = [pyarrow.array([line[place] for line in few], pyarrow.string()) for place in range(len(names))]
            yield pyarrow.record_batch(columns, schema=schema)

    return spooled(schema, batches())
