"""From the columns of a manifest to the modalities of the settings."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2fedsa.config import Modality
from m2fedsa.data.columns import Column
from m2fedsa.data.columns.media import AudioColumn, ImageColumn, VideoColumn
from m2fedsa.data.columns.tables import SeriesColumn, TabularColumn, TextColumn
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.audio import audio_processor
from m2fedsa.data.processors.image import image_processor
from m2fedsa.data.processors.series import series_processor
from m2fedsa.data.processors.tabular import is_empty, number, tabular_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.processors.video import video_processor
from m2fedsa.data.readers import Source
from m2fedsa.data.readers.audio import audio_seconds, read_audio
from m2fedsa.data.readers.image import look_at_image, read_image
from m2fedsa.data.readers.series import read_series
from m2fedsa.data.readers.video import Clip, look_at_video, read_video
from m2fedsa.errors import ConfigError, DataError

OPTIONS: Mapping[str, Mapping[str, type]] = {
    "image": {"size": int},
    "audio": {"seconds": float, "begin": str, "end": str},
    "video": {"frames": int, "size": int, "begin": str, "end": str},
    "text": {"tokens": int},
    "tabular": {},
    "series": {},
}
"""kind -> its options -> their types"""
_TYPES = {int: "a whole number", float: "a number", str: "the name of a column"}
_SAID = {"image_size": "size", "audio_seconds": "seconds", "text_tokens": "tokens", "frames": "frames"}
"""What a processor calls its argument -> the option."""


class Modalities(NamedTuple):
    """The modalities of a manifest."""

    columns: Mapping[str, Column]
    presence: Tensor
    """(R, M) bool: which row has which"""


def modalities_of(rows: Rows, settings: Mapping[str, Modality], processors: Mapping[str, str]) -> Modalities:
    """Every modality as a column over the rows that have it. Nothing is decoded.

    processors: modality -> where the processor of its encoder lies. Errors: ConfigError for a kind that is missing, options that it does
    not have, or a processor that is not there; DataError for a column that there is not.
    """
    columns: dict[str, Column] = {}
    presence = []
    for name, one in settings.items():
        if one.kind is None:
            raise ConfigError(f"modalities.{name}.kind is missing: of a manifest it has to be told. One of {', '.join(OPTIONS)}.")
        _check_options(name, one)
        try:
            columns[name], present = _KINDS[one.kind](rows, name, one, processors)
        except ConfigError as error:
            raise ConfigError(_as_option(name, str(error))) from error
        presence.append(torch.tensor(present, dtype=torch.bool))
    return Modalities(columns, torch.stack(presence, 1))


Made = tuple[Column, Sequence[bool]]


def _image(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = image_processor(processors, name, int(one.options.get("size", 0)))
    column, present, having = _cells(rows, name, one)
    source = partial(source_of, rows, column)
    return ImageColumn(column, having, lambda row: read_image(source(row)), process, lambda row: look_at_image(source(row))), present


def _audio(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = audio_processor(processors, name, float(one.options.get("seconds", 0.0)))
    column, present, having = _cells(rows, name, one)
    source, part = partial(source_of, rows, column), _part(rows, name, one)
    head = None if "begin" in one.options or "end" in one.options else lambda row: audio_seconds(source(row))
    return AudioColumn(column, having, lambda row, seconds: read_audio(source(row), seconds, *part(row)), process, head=head), present


def _video(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = video_processor(processors, name, int(one.options.get("frames", 0)), int(one.options.get("size", 0)))
    column, present, having = _cells(rows, name, one)
    source, part = partial(source_of, rows, column), _part(rows, name, one)

    def read(row: int, frames: int) -> Clip:
        return read_video(source(row), frames, *part(row))

    return VideoColumn(column, having, read, process, lambda row: look_at_video(source(row))), present


def _text(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = text_processor(processors, name, int(one.options.get("tokens", 0)))
    column, present, having = _cells(rows, name, one)
    return TextColumn(column, having, lambda row: str(rows.cell(column, row)), process), present


def _tabular(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = tabular_processor(processors, name)
    if one.column is not None:
        raise ConfigError(f"modalities.{name}.column = {one.column!r}: records have the columns of their encoder. Leave it out.")
    for column in process.names:
        rows.require(column, f"the encoder of modalities.{name} was made for a column")
    present = [not all(map(is_empty, cells)) for cells in zip(*(rows.column(column) for column in process.names), strict=True)]
    return TabularColumn(_having(present), lambda few: rows.records(process.names, few), process), present


def _series(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> Made:
    process = series_processor(processors, name)
    column, present, having = _cells(rows, name, one)

    return SeriesColumn(column, having, lambda row: series_of(rows, column, row), process), present


_KINDS: Mapping[str, Callable[[Rows, str, Modality, Mapping[str, str]], Made]] = {
    "image": _image,
    "audio": _audio,
    "video": _video,
    "text": _text,
    "tabular": _tabular,
    "series": _series,
}


def series_of(rows: Rows, column: str, row: int) -> np.ndarray:
    """The series in a cell: a list, or in the file that it names."""
    cell = rows.cell(column, row)
    inside = isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip().startswith("["))
    return read_series(cell if inside else source_of(rows, column, row))


def source_of(rows: Rows, column: str, row: int) -> Source:
    """The file that a cell names, or its content. `DataError` where it is neither."""
    source = source_in(rows, rows.cell(column, row))
    return Path(source) if isinstance(source, str) else source


def source_in(rows: Rows, cell: Any) -> bytes | str:
    """The same of what stands in a cell; a path as text, which a hundred thousand of them are found by in a tenth of the time."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return os.path.join(rows.root, os.path.expanduser(cell.strip()))  # noqa: PTH111, PTH118  (why: above)
    raise DataError(f"{cell!r} is neither a path nor the content of a file")


def _cells(rows: Rows, name: str, one: Modality) -> tuple[str, list[bool], Sequence[int]]:
    """The column of a modality, which rows have something there, and their numbers."""
    told = f"modalities.{name}.column" + ("" if one.column else " (by default the modality's name)")
    column = rows.require(one.column or name, told)
    present = [not _is_nothing(cell) for cell in rows.column(column)]
    return column, present, _having(present)


def _is_nothing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, Mapping) and cell.get("bytes") is None and not cell.get("path"))


def _having(present: Sequence[bool]) -> Sequence[int]:
    return range(len(present)) if all(present) else [row for row, there in enumerate(present) if there]


def _part(rows: Rows, name: str, one: Modality) -> Callable[[int], tuple[float, float | None]]:
    """Row -> begin and end of its part of a file, in seconds."""
    begin, end = (one.options.get(key) for key in ("begin", "end"))
    for key, column in (("begin", begin), ("end", end)):
        if column is not None:
            rows.require(str(column), f"modalities.{name}.options.{key}")

    def part(row: int) -> tuple[float, float | None]:
        cells = [None if column is None else rows.cell(str(column), row) for column in (begin, end)]
        first, last = (None if is_empty(cell) else number(cell) for cell in cells)
        return first or 0.0, last

    return part


def _check_options(name: str, one: Modality) -> None:
    known = OPTIONS[str(one.kind)]
    for key, value in one.options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            has = f"it has {', '.join(known)}" if known else "it has none"
            advice = f"did you mean {near[0]}?" if near else f"{has}."
            raise ConfigError(f"modalities.{name}.options.{key}: the kind {one.kind} has no such option; {advice}")
        wanted = known[key]
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise ConfigError(f"modalities.{name}.options.{key} = {value!r}, but it should be {_TYPES[wanted]}.")


def _as_option(name: str, message: str) -> str:
    """What a processor says of its arguments, as of settings."""
    first, _, rest = message.partition(" ")
    return f"modalities.{name}.options.{_SAID[first]} {rest}" if first in _SAID else message
