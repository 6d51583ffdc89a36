"""From what the parties answer to the records of a run directory."""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import torch
from torch import Tensor

from m2fedsa.costs import RoundCosts, visits_of
from m2fedsa.data.samples import FederatedData, Kind, Samples, labelled
from m2fedsa.fed_server.server import mean_losses
from m2fedsa.machine import processor
from m2fedsa.messages import ClientInfo, EvaluateResult, Failure, RoundPlan, Traffic, TrainResult
from m2fedsa.metrics import ClassTally, Tally, merged, tally_of
from m2fedsa.parties import Company
from m2fedsa.reporting.records import Bytes, ClientRecord, Facts, FailureRecord, Metrics, ResultRecord, RoundRecord, WarmStartRecord

ACCOUNTS = "accounts/"
"""First part of their names in a checkpoint."""


@dataclass(frozen=True)
class Evaluated:
    """Tallies of one split: of each client, and of all of them together."""

    clients: Mapping[str, Mapping[str, Tally]]
    union: Mapping[str, Tally]
    failures: tuple[Failure, ...] = ()
    """clients that could not; their samples are in neither"""

    @classmethod
    def of(cls, kind: Kind, results: Sequence[EvaluateResult], failures: Sequence[Failure] = ()) -> "Evaluated":
        """Merge in the order of the clients' names."""
        ordered = sorted(results, key=lambda result: result.client)
        clients = {one.client: {name: tally_of(kind, tally) for name, tally in one.tallies.items()} for one in ordered}
        names = dict.fromkeys(name for tallies in clients.values() for name in tallies)
        ranked = sorted(names, key=lambda name: (name != "fused", name.count("+")))
        union = {name: merged([tallies[name] for tallies in clients.values() if name in tallies]) for name in ranked}
        return cls(clients, union, tuple(failures))

    @property
    def metrics(self) -> Metrics | None:
        """Per subset over all clients; None where nobody holds such samples."""
        return metrics_of(self.union)


def metrics_of(tallies: Mapping[str, Tally]) -> Metrics | None:
    """Metrics per subset."""
    return cast(Metrics, {name: tally.metrics() for name, tally in tallies.items()}) if tallies else None


class Accounts:
    """What became of each client so far: a few numbers per registered client, in tensors, so that ten thousand cost a file next to
    nothing."""

    def __init__(self, clients: Iterable[str]) -> None:
        """`clients`: the registry, which stays the same for a whole run."""
        self._place = {name: place for place, name in enumerate(sorted(clients))}
        number = len(self._place)
        self._tensors = {name: torch.zeros(number, dtype=torch.int64) for name in ("rounds", "up", "down")}
        self._tensors["loss"] = torch.full((number,), float("nan"), dtype=torch.float64)

    def book(self, results: Sequence[TrainResult]) -> None:
        """Add a round."""
        for result in results:
            place = self._place[result.client]
            total, number = result.losses.get("fused", (0.0, 0))
            for name, value in (("rounds", 1), ("up", result.traffic.up), ("down", result.traffic.down)):
                self._tensors[name][place] += value
            self._tensors["loss"][place] = total / number if number else float("nan")

    def of(self, client: str) -> dict[str, Any]:
        """Rounds that it took part in, bytes up and down, and its last fused loss, None where it had none."""
        place = self._place[client]
        entry = {name: tensor[place].item() for name, tensor in self._tensors.items()}
        return {**entry, "loss": None if math.isnan(entry["loss"]) else entry["loss"]}

    def filed(self) -> dict[str, Tensor]:
        """For the checkpoint, beside the fed server's tensors."""
        return {ACCOUNTS + name: tensor for name, tensor in self._tensors.items()}

    def restore(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take back what `filed` gave out of a flat mapping, whose other tensors are returned."""
        self._tensors = {name.removeprefix(ACCOUNTS): tensor for name, tensor in flat.items() if name.startswith(ACCOUNTS)}
        return {name: tensor for name, tensor in flat.items() if not name.startswith(ACCOUNTS)}


def facts_of(data: FederatedData, registry: Mapping[str, ClientInfo]) -> Facts:
    """Who takes part and holds what."""
    clients = {}
    for info in registry.values():
        train = data.clients[info.name].train
        clients[info.name] = {
            "modalities": list(info.modalities),
            "train": info.train,
            "labelled": info.labelled,
            "validation": info.validation,
            "test": info.test,
            **({} if train is None else {"having": dict(zip(train.modalities, train.presence.sum(0).tolist(), strict=True))}),
            **_told_of(train, data.kind, len(data.classes)),
        }
    facts = {"modalities": list(data.modalities), "classes": list(data.classes), "clients": clients}
    return cast(Facts, {**facts, "notes": list(data.notes)} if data.notes else facts)


def _told_of(samples: Samples | None, kind: Kind, classes: int) -> dict[str, Any]:
    """What training labels a client has: how many of each class, or how numbers lie."""
    labels = torch.zeros(0, classes) if samples is None else samples.labels[labelled(samples.labels)]
    if kind == "regression":
        mean, deviation = (labels.double().mean(0), labels.double().std(0, correction=0)) if len(labels) else (None, None)
        return {} if mean is None or deviation is None else {"mean": mean.tolist(), "deviation": deviation.tolist()}
    counts = torch.bincount(labels, minlength=classes) if kind == "single_label" and len(labels) else labels.sum(0).long()
    return {"classes": counts.tolist() if counts.ndim else [0] * classes}


def bytes_of(*traffic: Traffic) -> Bytes:
    """The sum of some traffic as a record."""
    return {"up": sum(one.up for one in traffic), "down": sum(one.down for one in traffic)}


def failure_records(failures: Sequence[Failure]) -> list[FailureRecord]:
    """Failures as plain values."""
    return [{"client": one.client, "kind": one.kind, "message": one.message} for one in failures]


def reported_losses(losses: Mapping[str, float], modalities: Sequence[str]) -> dict[str, float | None]:
    """One loss per modality and the fused one; None where no sample had it in this round."""
    return {name: losses.get(name) for name in (*modalities, "fused")}


def result_record(
    parties: Company,
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
        "ledger": parties.ledger(),
        "digest": digest,
        "rounds": rounds,
        "seconds": round(seconds, 3),
        "versions": versions(),
    }
    if any(isinstance(tally, ClassTally) for tally in test.union.values()):
        record["confusion"] = {name: tally.confusion.tolist() for name, tally in test.union.items() if isinstance(tally, ClassTally)}
    if warm is not None:
        record["closed_form"] = warm.get("test")
    if validation.failures or test.failures:
        record["failures"] = failure_records([*validation.failures, *test.failures])
    return record


def _client_record(parties: Company, accounts: Accounts, test: Evaluated, name: str) -> ClientRecord:
    info = parties.fed_server.clients[name]
    record: ClientRecord = {"modalities": list(info.modalities), "train": info.train, "metrics": metrics_of(test.clients.get(name, {}))}
    if info.train:
        account = accounts.of(name)
        record |= {"rounds": account["rounds"], "loss": account["loss"], "bytes": {"up": account["up"], "down": account["down"]}}
    return record


def versions() -> dict[str, str]:
    """What the figures were made with."""
    packages = {name: version(name) for name in ("m2fedsa", "torch", "transformers", "numpy")}
    machine = processor(torch.device("cpu"))
    return {"python": platform.python_version(), **packages, "machine": machine, "threads": str(torch.get_num_threads())}


def round_record(
    plan: RoundPlan,
    results: Sequence[TrainResult],
    failures: Sequence[Failure],
    evaluated: Evaluated | None,
    cost: RoundCosts,
    modalities: Sequence[str],
    seconds: float,
) -> RoundRecord:
    """A line of `rounds.jsonl`. evaluated: on validation samples, None in a round that is not validated."""
    record: RoundRecord = {
        "round": plan.number,
        "phase": plan.phase,
        "clients": sorted(result.client for result in results),
        "loss": reported_losses(mean_losses(results), modalities),
        "bytes": bytes_of(*cost.link.values()),
        "tensors": bytes_of(*cost.tensors.values()),
        "visits": visits_of(results, modalities),
        "seconds": round(seconds, 3),
        "metrics": None if evaluated is None else evaluated.metrics,
    }
    taught = bytes_of(*cost.teaching)
    if taught["up"] or taught["down"]:
        record["teaching"] = taught
    failures = [*failures, *(evaluated.failures if evaluated else ())]
    if failures:
        record["failures"] = failure_records(failures)
    return record
