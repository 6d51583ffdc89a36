"""What is kept of a run for a study: metrics, the curve over what was spent, settings and digest. Plain JSON, a few kilobytes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from m2fedsa.comparing.study import Job
from m2fedsa.config import Config
from m2fedsa.durable import write_atomically
from m2fedsa.errors import ConfigError
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.records import Bytes, LedgerEntry, Metrics


class Point(TypedDict):
    """A place on a run's curve; round 0 is the warm start."""

    round: int
    bytes: int
    """spent so far by all clients, up and down: activations, gradients, tensors, sums"""
    flops: float
    """computed so far by all clients"""
    validation: Metrics | None
    """of the fused model and of single modalities"""


class Outcome(TypedDict):
    """One finished run."""

    arm: str
    candidate: str
    seed: int
    directory: str
    """below that of the study"""
    settings: str
    """SHA-256 of the settings that differ from the defaults, as JSON"""
    digest: str
    rounds: int
    seconds: float
    modalities: list[str]
    test: Metrics
    validation: Metrics | None
    curve: list[Point]
    versions: dict[str, str]


class Stored(TypedDict):
    """The file `study.json`: everything that the tables are made from."""

    command: str
    """that ran it"""
    target: str
    arms: list[str]
    """in the order of the table; the first is what the others are compared with"""
    search: dict[str, list[str]]
    """what was searched over, the same for every arm"""
    seeds: list[int]
    outcomes: list[Outcome]
    failed: NotRequired[dict[str, str]]
    """directory -> why its run did not end"""


def outcome(job: Job, out: Path) -> Outcome:
    """Of a finished run, from the files of its directory."""
    run = RunFiles.read(out / job.place)
    assert run.result is not None
    result = run.result
    return {
        "arm": job.arm,
        "candidate": job.candidate,
        "seed": job.config.seed,
        "directory": job.place.as_posix(),
        "settings": fingerprint(run.config),
        "digest": result["digest"],
        "rounds": result["rounds"],
        "seconds": result["seconds"],
        "modalities": run.modalities,
        "test": result["metrics"],
        "validation": result["validation"],
        "curve": curve(run),
        "versions": result["versions"],
    }


def leading(metrics: Metrics) -> str:
    """The metric that the task of a run is judged by, told by what else there is; see `tasks.Task.metric`."""
    scores = metrics.get("fused", {})
    return "r2" if "r2" in scores else "macro_f1" if "exact_match" in scores else "accuracy"


def fingerprint(config: Config) -> str:
    """Of all settings that are not the defaults: a setting that is new leaves it as it was."""
    settings = config.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def curve(run: RunFiles) -> list[Point]:
    """What was reached, and what had been spent by then."""
    assert run.result is not None
    ledger, config = run.result["ledger"], run.config
    once = _Heads(ledger, config, run)
    points: list[Point] = []
    spent, work = 0, 0.0
    if run.warm_start:
        spent = _sum(run.warm_start["bytes"], run.warm_start.get("sums"))
        looked_at = run.warm_start.get("visits", {})
        work = once.of(looked_at) + sum(number * _forward(ledger[name]) for name, number in looked_at.items())
        points.append({"round": 0, "bytes": spent, "flops": work, "validation": _brief(run.warm_start["metrics"])})
    for record in run.rounds:
        visits = record.get("visits", {})
        spent += _sum(record["bytes"], record.get("tensors"), record.get("teaching"))
        work += once.of({name: round(number / config.federation.local_epochs) for name, number in visits.items()})
        work += sum(number * _step(ledger[name]) for name, number in visits.items())
        points.append({"round": record["round"], "bytes": spent, "flops": work, "validation": _brief(record["metrics"])})
    return points


def _brief(metrics: Metrics | None) -> Metrics | None:
    return None if metrics is None else {name: scores for name, scores in metrics.items() if "+" not in name}


class _Heads:
    """Passes of samples through frozen heads, whose outputs are kept: each sample passes once, when first looked at."""

    def __init__(self, ledger: Mapping[str, LedgerEntry], config: Config, run: RunFiles) -> None:
        self._ledger = ledger
        # Of a round with some of the clients the others' samples are still to come.
        share = (config.federation.clients_per_round or config.data.clients) / config.data.clients
        looked_at = run.warm_start.get("visits", {}) if run.warm_start else {}
        self._left = {name: float(number) for name, number in looked_at.items()}
        for record in run.rounds:
            for name, number in record.get("visits", {}).items():
                self._left[name] = max(self._left.get(name, 0.0), number / config.federation.local_epochs / share)

    def of(self, samples: Mapping[str, int]) -> float:
        """Operations for samples of which some may have passed before."""
        work = 0.0
        for name, number in samples.items():
            passing = min(float(number), self._left[name])
            self._left[name] -= passing
            work += passing * self._ledger[name]["client"]["flops"].get("head", 0.0)
        return work


def _forward(entry: LedgerEntry) -> float:
    flops = entry["client"]["flops"]
    return flops["forward"] - flops.get("head", 0.0)


def _step(entry: LedgerEntry) -> float:
    return _forward(entry) + entry["client"]["flops"]["backward"]


def _sum(*parts: Bytes | None) -> int:
    return sum(part["up"] + part["down"] for part in parts if part is not None)


def write(path: Path, stored: Stored) -> None:
    """As JSON, a line for each run, so that a change of one is a change of one line."""
    head = {name: value for name, value in stored.items() if name != "outcomes"}
    lines = ",\n  ".join(json.dumps(_rounded(one), ensure_ascii=False) for one in stored["outcomes"])
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}") + f',\n "outcomes": [\n  {lines}\n ]\n}}\n'
    write_atomically(path, text.encode())


def read(path: Path) -> Stored:
    """`ConfigError` unless the file is one that `write` wrote."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert {"arms", "seeds", "outcomes"} <= set(stored)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file. `m2fedsa compare ... --out DIR` writes DIR/study.json.") from error
    except (ValueError, AssertionError, OSError) as error:
        raise ConfigError(f"{path}: is not a study.json of `m2fedsa compare`.") from error
    return cast(Stored, stored)


def _rounded(value: Any) -> Any:
    """Six digits behind the point are more than any table shows."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(one) for one in value]
    return value
