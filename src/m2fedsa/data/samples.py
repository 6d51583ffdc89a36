"""What a client holds: the interface of every data set, and one that lives in memory.

N samples, M modalities of the client, K classes, or targets of a regression.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
UNLABELLED = -1
Kind = Literal["single_label", "multi_label", "regression"]
"""What a label is: one class of several, any number of classes, or numbers."""


def labelled(labels: Tensor) -> Tensor:
    """(N,) bool: which samples have a label; `labels` as in `Samples.labels`."""
    known = ~labels.isnan() if labels.is_floating_point() else labels != UNLABELLED
    return known if known.ndim == 1 else known.all(1)


def without_labels(labels: Tensor, rows: Tensor) -> Tensor:
    """A copy in which these samples (N,) bool have no label."""
    return labels.masked_fill(rows if labels.ndim == 1 else rows[:, None], float("nan") if labels.is_floating_point() else UNLABELLED)


class Samples(Protocol):
    """The samples of one client and split, in an order that never changes."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the client holds, in the run's order."""

    @property
    def labels(self) -> Tensor:
        """What is to be told of each sample. Single label: (N,) int64, its class, `UNLABELLED` (-1) where it has none. Multi-label: (N, K)
        int64, 1 for the classes that it has and 0 for the others, a row of -1 where nothing is known. Regression: (N, K) floating, a row of
        NaN where nothing is known."""

    @property
    def presence(self) -> Tensor:
        """(N, M) bool: which sample has which of `modalities`; each sample has at least one."""

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """The encoder's keyword arguments for these rows (int64, each has the modality), first dimension `len(rows)`.

        Padded to a width that depends on the client and modality alone, never on `rows`.
        """


@dataclass(frozen=True)
class ClientData:
    """All that one client holds. A client without `train` only evaluates."""

    modalities: tuple[str, ...]
    train: Samples | None = None
    validation: Samples | None = None
    test: Samples | None = None

    def split(self, name: Split) -> Samples | None:
        """The samples of one split."""
        samples: Samples | None = getattr(self, name)
        return samples


@dataclass(frozen=True)
class FederatedData:
    """A task spread over clients: its classes, its modalities in their order, and who holds what."""

    classes: tuple[str, ...]
    """of a regression: its targets"""
    modalities: tuple[str, ...]
    clients: Mapping[str, ClientData]
    notes: tuple[str, ...] = ()
    """what people should know of how the samples are read, e.g. how many texts lose their end"""
    kind: Kind = "single_label"


@dataclass(frozen=True)
class InMemorySamples:
    """Samples whose encoder inputs are tensors already; rows of shared columns, so that a client costs only its indices."""

    columns: Mapping[str, Mapping[str, Tensor]]
    """modality -> argument of its encoder -> (rows of the whole set, ...)"""
    indices: Tensor
    """(N,) int64: the rows of `columns` that are this client's; (N, M) where each modality of a sample comes from a row of its own"""
    labels: Tensor
    presence: Tensor
    modalities: tuple[str, ...]

    @classmethod
    def whole(
        cls, columns: Mapping[str, Mapping[str, Tensor]], labels: Tensor | Sequence[int], presence: Tensor | None = None
    ) -> "InMemorySamples":
        """All rows of `columns` as the samples of one client."""
        labels = torch.as_tensor(labels)
        labels = labels if labels.is_floating_point() else labels.to(torch.int64)
        if presence is None:
            presence = torch.ones(len(labels), len(columns), dtype=torch.bool)
        return cls(columns, torch.arange(len(labels)), labels, presence, tuple(columns))

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        indices = self.indices if self.indices.ndim == 1 else self.indices[:, self.modalities.index(modality)]
        return {name: column[indices[rows]] for name, column in self.columns[modality].items()}
