"""From what the parties answer to the records of a run directory."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import Tensor

from m2fedsa.assembly import Parties
from m2fedsa.data.samples import UNLABELLED, Samples
from m2fedsa.ledger import ledger
from m2fedsa.messages import EvaluateResult, Failure, TrainResult
from m2fedsa.metrics import Tally
from m2fedsa.reporting.records import ClientRecord, Facts, FailureRecord, Metrics, ResultRecord, WarmStartRecord


@dataclass(frozen=True)
class Evaluated:
    """Tallies of one split: of each client, and of all of them together."""

    clients: Mapping[str, Mapping[str, Tally]]
    union: Mapping[str, Tally]

    @classmethod
    def of(cls, results: Sequence[EvaluateResult]) -> "Evaluated":
        """Merge in the order of the clients' names."""
        ordered = sorted(results, key=lambda result: result.client)
        clients = {one.client: {name: Tally.from_tensors(tally) for name, tally in one.tallies.items()} for one in ordered}
        names = dict.fromkeys(name for tallies in clients.values() for name in tallies)
        ranked = sorted(names, key=lambda name: (name != "fused", name.count("+")))
        union = {name: Tally.merge(tallies[name] for tallies in clients.values() if name in tallies) for name in ranked}
        return cls(clients, union)

    @property
    def metrics(self) -> Metrics | None:
        """Per subset over all clients; None where nobody holds such samples."""
        return metrics_of(self.union)


def metrics_of(tallies: Mapping[str, Tally]) -> Metrics | None:
    """Metrics per subset."""
    return cast(Metrics, {name: tally.metrics() for name, tally in tallies.items()}) if tallies else None


@dataclass
class Accounts:
    """What became of each client so far."""

    clients: dict[str, dict[str, Any]] = field(default_factory=dict)

    def book(self, results: Sequence[TrainResult]) -> None:
        """Add a round."""
        for result in results:
            entry = self.clients.setdefault(result.client, {"rounds": 0, "up": 0, "down": 0, "loss": None})
            entry["rounds"] += 1
            entry["up"] += result.traffic.up
            entry["down"] += result.traffic.down
            total, number = result.losses.get("fused", (0.0, 0))
            entry["loss"] = total / number if number else None

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        return self.clients

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Accounts":
        """The inverse of `plain`."""
        return cls({name: dict(entry) for name, entry in values.items()})


def facts_of(parties: Parties) -> Facts:
    """Who takes part and holds what."""
    clients = {}
    for info in parties.fed_server.clients.values():
        train = parties.data.clients[info.name].train
        clients[info.name] = {
            "modalities": list(info.modalities),
            "train": info.train,
            "labelled": info.labelled,
            "validation": info.validation,
            "test": info.test,
            "classes": _per_class(train, len(parties.data.classes)),
        }
    return cast(Facts, {"modalities": list(parties.data.modalities), "classes": list(parties.data.classes), "clients": clients})


def _per_class(samples: Samples | None, classes: int) -> list[int]:
    if samples is None:
        return [0] * classes
    labels: Tensor = samples.labels[samples.labels != UNLABELLED]
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts


def failure_records(failures: Sequence[Failure]) -> list[FailureRecord]:
    """Failures as plain values."""
    return [{"client": one.client, "kind": one.kind, "message": one.message} for one in failures]


def reported_losses(losses: Mapping[str, float], modalities: Sequence[str]) -> dict[str, float | None]:
    """One loss per modality and the fused one; None where no sample had it in this round."""
    return {name: losses.get(name) for name in (*modalities, "fused")}


def result_record(
    parties: Parties,
    accounts: Accounts,
    validation: Evaluated,
    test: Evaluated,
    warm: WarmStartRecord | None,
    digest: str,
    rounds: int,
    seconds: float,
) -> ResultRecord:
    """`result.json`."""
    record: ResultRecord = {
        "metrics": test.metrics or {},
        "validation": validation.metrics,
        "per_client": {name: _client_record(parties, accounts, test, name) for name in parties.fed_server.clients},
        "ledger": ledger(parties.blueprint, parties.measured),
        "digest": digest,
        "rounds": rounds,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "confusion": {name: tally.confusion.tolist() for name, tally in test.union.items()},
    }
    if warm is not None:
        record["closed_form"] = warm.get("test")
    return record


def _client_record(parties: Parties, accounts: Accounts, test: Evaluated, name: str) -> ClientRecord:
    info, account = parties.fed_server.clients[name], accounts.clients.get(name)
    record: ClientRecord = {"modalities": list(info.modalities), "train": info.train, "metrics": metrics_of(test.clients.get(name, {}))}
    if info.train:
        account = account or {"rounds": 0, "up": 0, "down": 0, "loss": None}
        record |= {"rounds": account["rounds"], "loss": account["loss"], "bytes": {"up": account["up"], "down": account["down"]}}
    return record


def versions() -> dict[str, str]:
    """What the figures were made with."""
    packages = {name: version(name) for name in ("m2fedsa", "torch", "transformers", "numpy")}
    return {"python": platform.python_version(), **packages, "machine": platform.machine(), "threads": str(torch.get_num_threads())}
