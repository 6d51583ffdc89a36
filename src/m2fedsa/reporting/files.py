"""A run as its directory tells it: what the reports read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from m2fedsa.config import Config
from m2fedsa.errors import RunDirectoryError
from m2fedsa.reporting.records import Facts, ResultRecord, RoundRecord, WarmStartRecord

CONFIG, CLIENTS, WARM_START, ROUNDS, RESULT, REPORT = (
    "config.toml",
    "clients.json",
    "warm_start.json",
    "rounds.jsonl",
    "result.json",
    "report.html",
)


@dataclass(frozen=True)
class RunFiles:
    """Everything that a run directory says; what a run has not reached yet is None or empty."""

    path: Path
    config: Config
    rounds: list[RoundRecord]
    facts: Facts | None
    warm_start: WarmStartRecord | None
    result: ResultRecord | None

    @classmethod
    def read(cls, path: Path | str) -> "RunFiles":
        """`RunDirectoryError` if there is no run, or a file of it is broken."""
        path = Path(path)
        config = read_config(path)
        return cls(
            path,
            config,
            read_rounds(path),
            cast(Facts | None, read_json(path / CLIENTS)),
            read_warm_start(path),
            cast(ResultRecord | None, read_json(path / RESULT)),
        )

    @property
    def modalities(self) -> list[str]:
        """In the run's order."""
        return list(self.config.modalities)

    def confusion(self) -> list[list[float]] | None:
        """Of the fused model on test samples; None where no file tells."""
        return self.result.get("confusion", {}).get("fused") if self.result else None

    def tested(self, subset: str = "fused") -> int | None:
        """Number of test samples that have this subset of the modalities; None where no file tells."""
        scores = self.result["metrics"].get(subset) if self.result else None
        return scores.get("samples") if scores else None

    def transfer_since(self) -> int | None:
        """The first round of the transfer phase."""
        return next((record["round"] for record in self.rounds if record["phase"] == "transfer"), None)

    def traffic(self) -> dict[str, int]:
        """Bytes between clients and main server over the whole run: `warm start up`, `… down`, `rounds …`, `teaching …`."""
        found: dict[str, int] = {}
        if self.warm_start:
            found |= {"warm start up": self.warm_start["bytes"]["up"], "warm start down": self.warm_start["bytes"]["down"]}
        found["rounds up"] = sum(record["bytes"]["up"] for record in self.rounds)
        found["rounds down"] = sum(record["bytes"]["down"] for record in self.rounds)
        taught = [record["teaching"] for record in self.rounds if "teaching" in record]
        found["teaching up"] = sum(one["up"] for one in taught)
        found["teaching down"] = sum(one["down"] for one in taught)
        return {name: value for name, value in found.items() if value}


def read_config(path: Path | str) -> Config:
    """The settings of the run in this directory. `RunDirectoryError` if there is none."""
    path = Path(path)
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: no such directory. Name a directory that `m2fedsa run` has made.")
    if not (path / CONFIG).exists():
        raise RunDirectoryError(f"{path}: holds no run ({CONFIG} is missing). Name a directory that `m2fedsa run` has made.")
    return Config.from_file(path / CONFIG)


def read_rounds(path: Path) -> list[RoundRecord]:
    """All complete lines of `rounds.jsonl`; a last one that was cut off by a crash is left out."""
    try:
        lines = (path / ROUNDS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [record for record in map(parse_round, lines) if record is not None]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None if there is no such file. `RunDirectoryError` if it is not JSON."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}. Restore the file, or run again.") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path}: holds a JSON {type(value).__name__}, not an object. Restore the file, or run again.")
    return value


def read_warm_start(path: Path) -> WarmStartRecord | None:
    """What the warm start gave; None if there was none."""
    return cast(WarmStartRecord | None, read_json(path / WARM_START))


def parse_round(line: str) -> RoundRecord | None:
    """A line of `rounds.jsonl`; None for one that was cut off."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast(RoundRecord, value) if isinstance(value, dict) and isinstance(value.get("round"), int) else None
