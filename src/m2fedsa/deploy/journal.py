"""Structured logs: one JSON object a line, with run, party and round, for people's tools and for `m2fedsa deploy local`.

A journal never holds a key, a token, a sample or a tensor: `note` is given names and numbers alone.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any, TextIO

_LARGEST = 50_000_000
"""Bytes after which a journal is begun anew; the one before is kept beside it."""


class Journal:
    """Lines in a file, or on the standard error where there is none."""

    def __init__(self, path: Path | None, party: str, run: str) -> None:
        """`party`: `fed-server`, `main-server` or a client's name."""
        self._path, self._party, self._run = path, party, run
        self.round: int | None = None
        self._file: TextIO | None = None

    def note(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Add a line. A full disk does not stop a party: the line goes to the standard error then."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": level, "run": self._run, "party": self._party, "round": self.round, "event": event, **fields}
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        try:
            stream = self._open()
            stream.write(line)
            stream.flush()
        except OSError:
            sys.stderr.write(line)

    def _open(self) -> TextIO:
        if self._path is None:
            return sys.stderr
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        elif self._file.tell() > _LARGEST:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("a", encoding="utf-8")
        return self._file
