"""The run directory, the contract between a run and everyone who looks at it later.

    config.toml       the complete settings, written first
    clients.json      who takes part and holds what
    warm_start.json   the closed form
    rounds.jsonl      one object a round; each line is on disk before the next round begins
    result.json       written once, at the end
    checkpoint/       what each party holds
    report.html

Nothing is created before `begin`, so that bad input leaves nothing behind. Every file but `rounds.jsonl` is replaced as a whole: a reader
sees the old one or the new one.
"""

import datetime
import fcntl
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from m2fedsa.config import Config
from m2fedsa.durable import append, unfinished, write_atomically
from m2fedsa.errors import RunDirectoryError, StorageError
from m2fedsa.reporting.files import (
    CLIENTS,
    CONFIG,
    RESULT,
    ROUNDS,
    WARM_START,
    parse_round,
    read_config,
    read_json,
    read_rounds,
    read_warm_start,
)
from m2fedsa.reporting.program import word
from m2fedsa.reporting.records import Facts, ResultRecord, RoundRecord, WarmStartRecord
from m2fedsa.reporting.report import write_report

ROOT = Path("runs")

__all__ = ["ROOT", "RunDirectory", "read_config", "read_warm_start"]


class RunDirectory:
    """The files of one run. A process that writes them keeps others from doing the same until `close`, or its end.

    directory = RunDirectory.create(config, out)     # looks whether that is possible
    directory.begin(facts)                           # settles the name and writes the first files: all input was found good
    directory.warm_started(...); directory.append(...); directory.finish(...)
    directory.close()                                # in any case; there is no directory if `begin` was not reached
    """

    def __init__(self, path: Path | None, config: Config) -> None:
        """Use `create` or `resume`."""
        self._path = path
        self.config = config
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The directory; a new one without a chosen name gets its name in `begin`."""
        assert self._path is not None, "a new run directory has no name before it begins"
        return self._path

    @property
    def begun(self) -> bool:
        """Whether there is a run in it."""
        return self._path is not None and (self._path / CONFIG).exists()

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoints are kept."""
        return self.path / "checkpoint"

    @classmethod
    def create(cls, config: Config, path: Path | str | None = None) -> "RunDirectory":
        """A directory for a new run, `runs/<name>-<date>-<n>` unless a path is given. Looks, and writes nothing yet.

        `RunDirectoryError` if the path is taken.
        """
        if path is None:
            return cls(None, config)
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(f"{path}: a file of this name exists. Choose another directory with --out.")
        if (path / CONFIG).exists():
            finished = (path / RESULT).exists()
            told = word(path)
            advice = f"Look at it with `m2fedsa report {told}`" if finished else f"Go on with it by `m2fedsa run --resume {told}`"
            raise RunDirectoryError(f"{path}: holds another run ({_summary(path)}). {advice}, or choose another directory with --out.")
        if path.exists() and set(path.iterdir()) - {unfinished(path / CONFIG)}:
            raise RunDirectoryError(f"{path}: is not empty and holds no run. Choose a new or empty directory with --out.")
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RunDirectoryError(
                f"{path}: cannot be made, {existing} is not a directory that may be written. Choose another with --out."
            )
        return cls(path, config)

    @classmethod
    def resume(cls, path: Path | str, config: Config | None = None) -> "RunDirectory":
        """The directory of a run that is to go on, with its own settings; `config`, if given, must equal them.

        `RunDirectoryError` if there is no run, if the settings differ, or if another process is at it.
        """
        path = Path(path)
        kept = read_config(path)
        differences = kept.differences(config) if config is not None else []
        if differences:
            lines = "".join(f"\n         {line}" for line in differences)
            raise RunDirectoryError(
                f"{path}: was begun with other settings (kept -> given):{lines}\n"
                f"       Resume without settings: `m2fedsa run --resume {word(path)}`, or begin a new run with --out."
            )
        directory = cls(path, kept)
        directory._hold()
        return directory

    def begin(self, facts: Facts) -> None:
        """Create the directory with its settings and who takes part. Call it when all input has been found good."""
        made = self._make()
        again = (self.path / CONFIG).exists()
        self._hold()
        try:
            write_atomically(self.path / CONFIG, self.config.to_toml().encode())
            write_atomically(self.path / CLIENTS, _json(facts))
            write_atomically(self.path / ROUNDS, b"")
        except StorageError:
            if not again:
                for name in (CONFIG, CLIENTS, ROUNDS):
                    (self.path / name).unlink(missing_ok=True)
                if made:
                    self.path.rmdir()
            raise

    def _make(self) -> bool:
        """Make the directory, with the first free number where no name was chosen; whether it is new."""
        if self._path is not None:
            return _make(self._path)
        stem, number = f"{self.config.name}-{datetime.date.today().isoformat()}", 1
        while not _make(ROOT / f"{stem}-{number}"):
            number += 1
        self._path = ROOT / f"{stem}-{number}"
        return True

    def _hold(self) -> None:
        """Keep other processes from writing the same run. The lock ends with the process, however that ends."""
        if self._lock is not None:
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise RunDirectoryError(
                f"{self.path}: another process is writing this run. Wait for it, or choose another directory."
            ) from error

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def compare(self, facts: Facts) -> None:
        """`RunDirectoryError` unless who takes part and holds what is as it was when the run began."""
        kept = read_json(self.path / CLIENTS)
        now = json.loads(_json(facts))
        if kept == now:
            return
        here, there = ({} if one is None else one.get("clients", {}) for one in (kept, now))
        names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
        which = f"client {names[0]}: {_held(here.get(names[0]))} -> {_held(there.get(names[0]))}" if names else "its classes or modalities"
        more = f", and {len(names) - 1} more" if len(names) > 1 else ""
        raise RunDirectoryError(
            f"{self.path / CLIENTS}: the data is not that of this run any more ({which}{more}). "
            "Resume with the same data and the same version of m2fedsa, or begin a new run with --out."
        )

    def cut_back(self, round_number: int) -> list[RoundRecord]:
        """Forget what `rounds.jsonl` says of rounds after the checkpoint's, and a result; the records that stay.

        `RunDirectoryError` if one of the earlier rounds is missing.
        """
        lines = (self.path / ROUNDS).read_text(encoding="utf-8").splitlines() if (self.path / ROUNDS).exists() else []
        kept = [record for record in map(parse_round, lines) if record is not None and record["round"] <= round_number]
        if [record["round"] for record in kept] != list(range(1, round_number + 1)):
            raise RunDirectoryError(
                f"{self.path / ROUNDS}: does not tell of the rounds 1 to {round_number} that the checkpoint holds; it was altered. "
                "Restore the file, or begin a new run."
            )
        write_atomically(self.path / ROUNDS, b"".join(_line(record) for record in kept))
        (self.path / RESULT).unlink(missing_ok=True)
        return kept

    def warm_started(self, record: WarmStartRecord) -> None:
        """Keep what the warm start gave."""
        write_atomically(self.path / WARM_START, _json(record))

    def append(self, record: RoundRecord) -> None:
        """Add a round. Call it before the checkpoint of that round becomes valid: what is one too many is cut back on resume."""
        append(self.path / ROUNDS, _line(record))

    def finish(self, result: ResultRecord) -> None:
        """Write `result.json` and the report."""
        write_atomically(self.path / RESULT, _json(result))
        write_report([self.path])


def _make(path: Path) -> bool:
    """Make a directory; False if there is one. `RunDirectoryError` if that is not possible."""
    try:
        if path.is_dir():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        if path.is_dir():
            return False
        raise RunDirectoryError(f"{path}: cannot be created: {error.strerror}. Choose another directory with --out.") from error
    return True


def _json(value: object) -> bytes:
    return json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _line(record: RoundRecord) -> bytes:
    return json.dumps(_plain(record), allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _plain(value: object) -> object:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _held(facts: Mapping[str, object] | None) -> str:
    return "nothing" if facts is None else ", ".join(f"{name} {value}" for name, value in facts.items())


def _summary(path: Path) -> str:
    rounds = len(read_rounds(path))
    state = "finished" if (path / RESULT).exists() else "not finished"
    return f"{rounds} round{'' if rounds == 1 else 's'}, {state}"
