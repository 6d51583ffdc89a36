"""From a table of samples to clients: who trains on which rows with which modalities, and who evaluates.

R rows of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, ColumnSamples
from m2fedsa.data.holdings import draw_presence, held_by, rates_of
from m2fedsa.data.partition import partitioned, strata
from m2fedsa.data.samples import ClientData, FederatedData, Kind, Samples, Split, labelled, without_labels
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

NAMED = 20
"""Clients that a note names."""


class Rows(Protocol):
    """Samples before anybody holds them."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """All, in their order."""

    def samples(self, rows: Tensor, modalities: tuple[str, ...], presence: Tensor) -> Samples:
        """These rows (N,) int64 as far as these modalities go; presence (N, M) bool."""


@dataclass(frozen=True)
class Table:
    """All samples of a task, before anybody holds them."""

    classes: tuple[str, ...]
    columns: Mapping[str, Column]
    labels: Tensor
    """(R,) or (R, K), as `Samples.labels`"""
    splits: Sequence[Split | None]
    """None: the row is left out"""
    evaluators: Sequence[str]
    """of each row, the client that evaluates it if it is of validation or test"""
    notes: tuple[str, ...] = ()
    kind: Kind = "single_label"
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """columns that clients can be made by: name -> its value in each row"""
    presence: Tensor | None = None
    """(R, M) bool: which row has which modality; None where each has all"""

    @property
    def modalities(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self.columns)

    def rows(self, split: Split, evaluator: str | None = None) -> Tensor:
        """(int64) the rows of a split, of one evaluator if given."""
        found = [row for row, its in enumerate(self.splits) if its == split and evaluator in (None, self.evaluators[row])]
        return torch.tensor(found, dtype=torch.int64)

    def samples(self, rows: Tensor, modalities: tuple[str, ...], presence: Tensor) -> ColumnSamples:
        """See `Rows.samples`. A row that has none of the modalities is left out; one that would have lost all of them loses none."""
        if self.presence is not None:
            there = self.presence[rows][:, [self.modalities.index(name) for name in modalities]]
            presence = torch.where((presence & there).any(1, keepdim=True), presence & there, there)
        kept = presence.any(1)
        return ColumnSamples(self.columns, rows[kept], self.labels[rows[kept]], presence[kept], modalities)


def spread(table: Table, settings: Data, seed: int) -> FederatedData:
    """Training clients `client-00` and so on, and the table's evaluators. `ConfigError` when a setting is out of range."""
    train = table.rows("train")
    labels = table.labels.clone()
    labels[train] = keep_labels(table.labels[train], settings.labelled_fraction, seed)
    groups = group_of(table.groups, settings)
    own = None if groups is None else [groups[row] for row in train.tolist()]
    parts = [train[part] for part in partitioned(settings, table.labels[train], seed, own)]
    known = replace(table, labels=labels)
    everyone = training_clients(known, parts, settings, seed)
    idle = settings.clients - len(everyone)
    notes = (
        (*table.notes, f"{idle:,} of {settings.clients:,} clients have no sample with the modalities that they hold")
        if idle
        else table.notes
    )
    if settings.evaluation == "global":
        for name in sorted({name for name, split in zip(table.evaluators, table.splits, strict=True) if split not in ("train", None)}):
            everyone[name] = evaluator(known, {split: table.rows(split, name) for split in ("validation", "test")})
    return with_notes(FederatedData(table.classes, table.modalities, everyone, notes, table.kind))


def with_notes(data: FederatedData) -> FederatedData:
    """The same, with a note that names the clients whose labelled training samples are all of one class. They take part like others."""
    single = []
    for name, client in data.clients.items():
        if data.kind == "single_label" and client.train is not None:
            own = sorted(set(client.train.labels[labelled(client.train.labels)].tolist()))
            single += [f"{name} ({data.classes[own[0]]})"] if len(own) == 1 else []
    told = one_class(single, sum(client.train is not None for client in data.clients.values()))
    return replace(data, notes=(*data.notes, *told))


def one_class(single: Sequence[str], clients: int) -> tuple[str, ...]:
    """What is said of clients of one class, each named with it; `clients`: that train, altogether."""
    if not single:
        return ()
    more = " …" if len(single) > NAMED else ""
    return (f"{len(single):,} of {clients:,} clients have training samples of one class only: {', '.join(single[:NAMED])}{more}",)


def group_of(groups: Mapping[str, Sequence[str]], settings: Data) -> Sequence[str] | None:
    """What stands in the column that clients are made by; None where none is asked for. `ConfigError` for one that there is not."""
    if settings.partition != "column":
        return None
    if settings.column is None or settings.column not in groups:
        there = f"there are {', '.join(groups)}" if groups else f"the source {settings.source} has none"
        raise ConfigError(f"data.column = {settings.column!r} is no column that clients can be made by; {there}.")
    return groups[settings.column]


def training_clients(source: Rows, parts: Sequence[Tensor], settings: Data, seed: int) -> dict[str, ClientData]:
    """A client for each part (rows, int64), with modalities, missing ones and held-out samples as the settings say; none for a part without
    a sample of the client's modalities."""
    strange = [name for name in settings.missing_rates if name not in source.modalities]
    if strange:
        raise ConfigError(f"data.missing_rates.{strange[0]}: the data has no such modality, but {', '.join(source.modalities)}.")
    held = held_by(settings, source.modalities, seed)
    width = max(2, len(str(len(parts) - 1)))
    clients = {}
    for number, (part, own) in enumerate(zip(parts, held, strict=True)):
        name = f"client-{number:0{width}d}"
        presence = draw_presence(len(part), len(own), rates_of(settings, own), derive(seed, "partition", "missing", name))
        pieces = _divided(len(part), settings, seed, name)
        made = {split: source.samples(part[rows], own, presence[rows]) for split, rows in pieces.items()}
        splits = {split: samples for split, samples in made.items() if len(samples.labels)}
        if splits:
            clients[name] = ClientData(own, splits.get("train"), splits.get("validation"), splits.get("test"))
    return clients


def _divided(count: int, settings: Data, seed: int, name: str) -> dict[Split, Tensor]:
    """Which of a client's samples are for what; at least one is for training."""
    if settings.evaluation == "global":
        return {"train": torch.arange(count)}
    order = torch.randperm(count, generator=derive(seed, "partition", "held out", name))
    validation, test = (round(share * count) for share in settings.held_out)
    test = min(test, count - 1)
    validation = min(validation, count - 1 - test)
    pieces = torch.split(order, [validation, test, count - validation - test])
    held: dict[Split, Tensor] = {"validation": pieces[0], "test": pieces[1], "train": pieces[2]}
    return {split: rows.sort().values for split, rows in held.items()}


def evaluator(source: Rows, splits: Mapping[Split, Tensor]) -> ClientData:
    """A client that only evaluates, with all modalities."""
    whole: dict[Split, Samples] = {
        split: source.samples(rows, source.modalities, torch.ones(len(rows), len(source.modalities), dtype=torch.bool))
        for split, rows in splits.items()
        if len(rows)
    }
    return ClientData(source.modalities, None, whole.get("validation"), whole.get("test"))


def keep_labels(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A copy of `labels` (N, ...) that keeps round(fraction N) of them, the same share of each class up to one, and has none elsewhere.

    Errors: ConfigError unless 0 < fraction <= 1, or when not one label would be kept.
    """
    total = round(fraction * len(labels)) if 0 < fraction <= 1 else 0
    if total == 0:
        raise ConfigError(f"labelled_fraction is {fraction}; it must be at most 1 and enough for one label among {len(labels)} samples")
    order = torch.randperm(len(labels), generator=derive(seed, "labels"))
    drawn_by = strata(labels)
    classes, sizes = torch.unique(drawn_by, return_counts=True)
    shares = fraction * sizes.double()
    counts = shares.floor().long()
    counts[(counts - shares).argsort(stable=True)[: total - int(counts.sum())]] += 1
    lost = torch.ones(len(labels), dtype=torch.bool)
    for value, count in zip(classes, counts, strict=True):
        lost[order[drawn_by[order] == value][:count]] = False
    return without_labels(labels, lost)
