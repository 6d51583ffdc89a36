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
from m2fedsa.data.manifest.modalities import source_of
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.durable import write_atomically
from m2fedsa.errors import StorageError

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
    if settings.look == "heads":
        return _glance(rows, column)
    path = folder / f"{_digest(rows, column)}.json"
    remembered = _recall(path)
    if remembered is not None:
        return remembered
    effort = len(column.rows) * (_VIDEO if isinstance(column, VideoColumn) else 1)
    if settings.look == "auto" and effort > DECODED:
        return _glance(rows, column)
    found = column.look()
    _remember(path, found)
    return found


def _glance(rows: Rows, column: ImageColumn | AudioColumn | VideoColumn) -> Look:
    """Whether every file is there and has something in it; of some of them, evenly spread, what their heads say."""
    absent = []
    for row in column.rows:
        path = source_of(rows, column.name, row)
        if isinstance(path, Path):
            what = _missing(path)
            if what:
                absent.append(Fault(row, column.name, f"{path}: {what}"))
    lacking = {fault.row for fault in absent}
    there = [row for row in column.rows if row not in lacking]
    step = max(1, -(-len(there) // HEADS))
    look = replace(column, rows=there[::step]).look(deep=False)
    told = f"{column.name}: of {len(there):,} files {len(there[::step]):,} were looked into; `m2fedsa data check` decodes all"
    notes = look.notes if step == 1 else (told,)
    return Look(tuple(sorted([*absent, *look.faults])), notes, look.lengths)


def _missing(path: Path) -> str:
    try:
        size = os.stat(path).st_size  # noqa: PTH116  (a tenth of the time, a hundred thousand times)
    except (OSError, ValueError):
        return "no such file"
    return "" if size else "the file is empty (0 bytes)"


def _digest(rows: Rows, column: ImageColumn | AudioColumn | VideoColumn) -> str:
    """Of how the column is read, and of the size and time of each file."""
    sha = hashlib.sha256(json.dumps([version("m2fedsa"), type(column).__name__, column.name, _asked(column), str(rows.root)]).encode())
    for row in column.rows:
        sha.update(f"{row}\0".encode())
        for part in _file(rows, column.name, row):
            sha.update(part)
    return sha.hexdigest()


def _asked(column: ImageColumn | AudioColumn | VideoColumn) -> list[Any]:
    """What of a file is decoded."""
    if isinstance(column, AudioColumn):
        return [column.seconds]
    return [column.process.frames] if isinstance(column, VideoColumn) else []


def _file(rows: Rows, name: str, row: int) -> Iterator[bytes]:
    cell = rows.cell(name, row)
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(content, bytes):
        yield hashlib.sha256(content).digest()
        return
    told = cell.get("path") if isinstance(cell, Mapping) else cell
    yield repr(told).encode()
    with suppress(OSError, ValueError):
        state = os.stat(rows.root / str(told).strip())  # noqa: PTH116  (a tenth of the time, a hundred thousand times)
        yield f"{state.st_size} {state.st_mtime_ns}".encode()


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
