"""Series of readings: arrays in files, or in the cell itself.

T readings, C channels.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2fedsa.data.readers import Source, found
from m2fedsa.errors import DataError

FORMATS = ("npy", "npz", "csv", "tsv", "txt", "json")


def read_series(source: Source | str | Sequence[object]) -> np.ndarray:
    """(T, C) float32; NaN stands for a reading that is missing. One channel where an array has one dimension.

    source: a file of `FORMATS` (an npz holds one array; a text file a reading a line, with or without a line of names), a JSON list as
    text, or a list. Errors: DataError for what is missing, empty, no array of numbers, of other than one or two dimensions, without a
    single reading, or infinite somewhere.
    """
    name, array = _array(source)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: a series is numbers, but these are {array.dtype}")
    if array.ndim not in (1, 2):
        raise DataError(f"{name}: a series has one dimension (readings) or two (readings, channels), this has the shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: the series is empty; its shape is {array.shape}")
    values_TC = np.asarray(array, np.float32).reshape(len(array), -1)
    if np.isinf(values_TC).any():
        place = np.argwhere(np.isinf(values_TC))[0]
        raise DataError(f"{name}: reading {place[0] + 1}, channel {place[1] + 1} is infinite, or too large for 32 bits")
    if np.isnan(values_TC).all():
        raise DataError(f"{name}: all readings are missing (NaN)")
    return values_TC


def _array(source: Source | str | Sequence[object]) -> tuple[str, np.ndarray]:
    if isinstance(source, Path | bytes):
        name = found(source)
        try:
            return name, _stored(source)
        except (ValueError, OSError, EOFError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise DataError(f"{name}: no series can be read from it ({str(error).rstrip('.')})") from error
    try:
        return "the cell", np.asarray(json.loads(source) if isinstance(source, str) else source)
    except ValueError as error:
        raise DataError(f"no series can be read from the cell ({error})") from error


def _stored(source: Source) -> np.ndarray:
    if isinstance(source, Path) and source.suffix.lower() == ".json":
        return np.asarray(json.loads(source.read_text(encoding="utf-8")))
    if isinstance(source, Path) and source.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _table(source.read_text(encoding="utf-8-sig"))
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"an npz should hold one array, this holds {', '.join(loaded.files) or 'none'}")
        array: np.ndarray = loaded[loaded.files[0]]
        return array


def _table(text: str) -> np.ndarray:
    """Numbers between commas, semicolons, tabs or spaces, a line a reading; an empty cell is a missing reading."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("no line in it")
    mark = next((mark for mark in ",;\t" if mark in lines[0]), None)
    rows = [[cell.strip() for cell in line.split(mark)] for line in lines]
    if not all(_is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"its lines have {min(widths)} to {max(widths)} numbers")
    return np.array([[float(cell or "nan") for cell in row] for row in rows], np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
