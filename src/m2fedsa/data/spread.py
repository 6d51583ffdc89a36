"""From a table of samples to clients: who trains on which rows with which modalities, and who evaluates.

R rows of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from m2fedsa.data.columns import Column, ColumnSamples
from m2fedsa.data.digits import keep_labels
from m2fedsa.data.partition import assign_modalities, dirichlet, draw_presence, iid
from m2fedsa.data.samples import ClientData, FederatedData, Split
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

Partition = Literal["dirichlet", "iid"]


@dataclass(frozen=True)
class Table:
    """All samples of a task, before anybody holds them."""

    classes: tuple[str, ...]
    columns: Mapping[str, Column]
    labels: Tensor
    """(R,) int64"""
    splits: Sequence[Split]
    evaluators: Sequence[str]
    """of each row, the client that evaluates it if it is of validation or test"""
    notes: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self.columns)

    def rows(self, split: Split, evaluator: str | None = None) -> Tensor:
        """(int64) the rows of a split, of one evaluator if given."""
        found = [row for row, its in enumerate(self.splits) if its == split and evaluator in (None, self.evaluators[row])]
        return torch.tensor(found, dtype=torch.int64)

    def complete(self, rows: Tensor) -> ColumnSamples | None:
        """Rows with all their modalities; None if there are no rows."""
        if len(rows) == 0:
            return None
        presence = torch.ones(len(rows), len(self.columns), dtype=torch.bool)
        return ColumnSamples(self.columns, rows, self.labels[rows], presence, self.modalities)


@dataclass(frozen=True)
class Spreading:
    """How the training rows of a table are spread over clients; see `config.Data`."""

    seed: int
    clients: int
    partition: Partition
    alpha: float
    minimum: int
    multimodal_fraction: float
    missing_rate: float
    labelled_fraction: float

    def __call__(self, table: Table) -> FederatedData:
        """Training clients `client-00` and so on, and the table's evaluators. `ConfigError` when a setting is out of range."""
        train = table.rows("train")
        known = keep_labels(table.labels[train], self.labelled_fraction, self.seed)
        held = assign_modalities(self.clients, table.modalities, self.multimodal_fraction, self.seed)
        width = max(2, len(str(self.clients - 1)))
        everyone: dict[str, ClientData] = {}
        for number, (part, own) in enumerate(zip(self._parts(table.labels[train]), held, strict=True)):
            name = f"client-{number:0{width}d}"
            presence = draw_presence(len(part), len(own), self.missing_rate, derive(self.seed, "partition", "missing", name))
            everyone[name] = ClientData(own, train=ColumnSamples(table.columns, train[part], known[part], presence, own))
        evaluating = {name for name, split in zip(table.evaluators, table.splits, strict=True) if split != "train"}
        for name in sorted(evaluating):
            validation, test = (table.complete(table.rows(split, name)) for split in ("validation", "test"))
            everyone[name] = ClientData(table.modalities, validation=validation, test=test)
        return FederatedData(table.classes, table.modalities, everyone, table.notes)

    def _parts(self, labels: Tensor) -> tuple[Tensor, ...]:
        if self.partition == "dirichlet":
            return dirichlet(labels, self.clients, self.alpha, self.seed, self.minimum)
        if self.partition == "iid":
            return iid(len(labels), self.clients, self.seed, self.minimum)
        raise ConfigError(f'partition is "{self.partition}"; it must be "dirichlet" or "iid"')
