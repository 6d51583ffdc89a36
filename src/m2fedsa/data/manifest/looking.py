"""The look at every cell of a manifest before a run, and what is remembered of it.

To decode a hundred thousand pictures takes minutes, so a large manifest's files are looked at by their heads; unless they were decoded
before and have not changed since: what was found then lies in the cache folder, under a digest of every file's size and time.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, Fault, Look
from m2fedsa.data.columns.media import AudioColumn, ImageColumn, VideoColumn
from m2fedsa.data.manifest.modalities import source_in
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.durable import write_atomically
from m2fedsa.errors import DataError, StorageError

DECODED = 20_000
"""Pictures and recordings that are decoded before a run; a video counts as ten."""
HEADS = 2_000
"""Files whose heads are read where there are too many to decode them."""
_KEPT = 64
"""Looks that are remembered."""
_VIDEO = 10
"""A video takes as long as so many pictures."""


def look_at_columns(settings: Data, rows: Rows, columns: Mapping[str, Column], memory: Path) -> dict[str, Look]:
    """A look at every modality. memory: the folder where looks are remembered."""
    return {name: _look(settings, rows, column, memory) for name, column in columns.items()}


def _look(settings: Data, rows: Rows, column: Column, folder: Path) -> Look:
    if not isinstance(column, ImageColumn | AudioColumn | VideoColumn):
        return column.look()
    digest, absent = _survey(rows, column)
    if settings.look == "heads":
        return _glance(column, absent)
    path = folder / f"{digest}.json"
    remembered = _recall(path)
    if remembered is not None:
        return remembered
    effort = len(column.rows) * (_VIDEO if isinstance(column, VideoColumn) else 1)
    if settings.look == "auto" and effort > DECODED:
        return _glance(column, absent)
    found = column.look()
    _remember(path, found)
    return found


def _survey(rows: Rows, column: ImageColumn | AudioColumn | VideoColumn) -> tuple[str, list[Fault]]:
    """A digest of how the column is read and of the size and time of each file; and the files that are missing or empty."""
    sha = hashlib.sha256(json.dumps([version("m2fedsa"), type(column).__name__, column.name, _asked(column), str(rows.root)]).encode())
    absent = []
    for row, cell in _cells(rows, column):
        try:
            source = source_in(rows, cell)
        except DataError as error:
            absent.append(Fault(row, column.name, str(error)))
            continue
        if isinstance(source, bytes):
            sha.update(b"%d\0" % row + hashlib.sha256(source).digest())
            continue
        size, time = _state(source)
        sha.update(f"{row}\0{source!r}{size} {time}".encode())
        if size < 1:
            absent.append(Fault(row, column.name, f"{Path(source)}: {'no such file' if size < 0 else 'the file is empty (0 bytes)'}"))
    return sha.hexdigest(), absent


def _cells(rows: Rows, column: ImageColumn | AudioColumn | VideoColumn) -> Iterator[tuple[int, Any]]:
    """The rows that have something, in order, and what."""
    wanted = iter(column.rows)
    awaited = next(wanted, None)
    for row, cell in enumerate(rows.column(column.name)):
        if row == awaited:
            yield row, cell
            awaited = next(wanted, None)


def _state(path: str) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds; -1, -1 where there is no file."""
    try:
        state = os.stat(path)  # noqa: PTH116  (a tenth of the time, a hundred thousand times)
    except (OSError, ValueError):
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _glance(column: ImageColumn | AudioColumn | VideoColumn, absent: list[Fault]) -> Look:
    """Of the files that are there, some, evenly spread: what their heads say."""
    lacking = {fault.row for fault in absent}
    there = [row for row in column.rows if row not in lacking]
    step = max(1, -(-len(there) // HEADS))
    look = replace(column, rows=there[::step]).look(deep=False)
    told = (
        f"{column.name}: {len(there):,} files found, {len(there[::step]):,} heads read, none decoded: a broken one fails its client's "
        "round; `m2fedsa data check` decodes all"
    )
    return Look(tuple(sorted([*absent, *look.faults])), (*look.notes, told) if step == 1 else (told,), look.lengths)


def _asked(column: ImageColumn | AudioColumn | VideoColumn) -> list[Any]:
    """What of a file is decoded."""
    if isinstance(column, AudioColumn):
        return [column.seconds]
    return [column.process.frames] if isinstance(column, VideoColumn) else []


def _recall(path: Path) -> Look | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        faults = tuple(Fault(int(row), str(column), str(what)) for row, column, what in told["faults"])
        return Look(faults, tuple(map(str, told["notes"])), [float(length) for length in told["lengths"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, look: Look) -> None:
    # A cache that cannot be written costs time, nothing else.
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"faults": look.faults, "notes": look.notes, "lengths": list(look.lengths)}).encode())
        for old in sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
            old.unlink()
