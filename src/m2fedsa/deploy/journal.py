"""Structured logs: one JSON object a line, with run, party and round, for people's tools and for `m2fedsa deploy local`.

A journal never holds a key, a token, a sample or a tensor: `note` is given names and numbers alone.
"""

import datetime
import json
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

_LARGEST = 50_000_000
"""Bytes after which a journal is begun anew; the one before is kept beside it."""


class Journal:
    """Lines in a file, or on the standard error where there is none."""

    def __init__(self, path: Path | None, party: str, run: str) -> None:
        """`party`: `fed-server`, `main-server` or a client's name."""
        self._path, self._party, self._run = path, party, run
        self.round: int | None = None

    def note(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Add a line. A full disk does not stop a party: the line goes to the standard error then, which may lie on the same disk."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": level, "run": self._run, "party": self._party, "round": self.round, "event": event, **fields}
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        try:
            self._add(line)
        except OSError:
            with suppress(OSError):
                sys.stderr.write(line)

    def _add(self, line: str) -> None:
        if self._path is None:
            sys.stderr.write(line)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size > _LARGEST:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def places(error: BaseException) -> list[str]:
    """Of an error that nobody foresaw, the places in the code that it came through, without values."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
