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
from m2fedsa.reporting.summary import trainers, views_of


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
    metric: NotRequired[str]
    """what the settings judge by"""
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
    heads = _Heads(ledger, config, run)
    points: list[Point] = []
    spent, work = 0, 0.0
    if run.warm_start:
        spent = _sum(run.warm_start["bytes"], run.warm_start.get("sums"))
        looked_at = run.warm_start.get("visits", {})
        work = heads.looked_at(looked_at) + sum(number * _forward(ledger[name]) for name, number in looked_at.items())
        points.append({"round": 0, "bytes": spent, "flops": work, "validation": _brief(run.warm_start["metrics"])})
    for record in run.rounds:
        visits = record.get("visits", {})
        spent += _sum(record["bytes"], record.get("tensors"), record.get("teaching"))
        work += heads.trained_on(visits) + sum(number * _step(ledger[name]) for name, number in visits.items())
        points.append({"round": record["round"], "bytes": spent, "flops": work, "validation": _brief(record["metrics"])})
    return points


def _brief(metrics: Metrics | None) -> Metrics | None:
    return None if metrics is None else {name: scores for name, scores in metrics.items() if "+" not in name}


class _Heads:
    """Passes of samples through frozen heads. Outputs are kept: each view of a sample passes once, when first looked at; where each step
    disturbs samples anew, every visit passes."""

    def __init__(self, ledger: Mapping[str, LedgerEntry], config: Config, run: RunFiles) -> None:
        assert run.result is not None
        self._ledger, self._epochs = ledger, config.federation.local_epochs
        self._views = {name: views_of(config, name) for name in ledger}
        # Of a round with some of the clients the others' samples are still to come.
        clients = max(1, trainers(run.result))
        share = min(1.0, (config.federation.clients_per_round or clients) / clients)
        looked_at = run.warm_start.get("visits", {}) if run.warm_start else {}
        samples = {name: float(number) for name, number in looked_at.items()}
        for record in run.rounds:
            for name, number in record.get("visits", {}).items():
                samples[name] = max(samples.get(name, 0.0), number / self._epochs / share)
        self._left = {name: number * max(1, self._views[name]) for name, number in samples.items()}

    def looked_at(self, samples: Mapping[str, int]) -> float:
        """Operations for samples as they are."""
        return sum(self._pass(name, number) for name, number in samples.items())

    def trained_on(self, visits: Mapping[str, int]) -> float:
        """Operations for the samples of a round and all of their views, of which some may have passed before."""
        work = 0.0
        for name, number in visits.items():
            views = self._views[name]
            work += self._pass(name, round(number / self._epochs) * views) if views else number * self._head(name)
        return work

    def _pass(self, name: str, number: float) -> float:
        passing = min(float(number), self._left[name])
        self._left[name] -= passing
        return passing * self._head(name)

    def _head(self, name: str) -> float:
        return self._ledger[name]["client"]["flops"].get("head", 0.0)


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
