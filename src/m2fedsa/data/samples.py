"""What a client holds: the interface of every data set, and one that lives in memory.

N samples, M modalities of the client, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
UNLABELLED = -1


class Samples(Protocol):
    """The samples of one client and split, in an order that never changes."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the client holds, in the run's order."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64: the class of each sample, `UNLABELLED` (-1) where it has none."""

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
    modalities: tuple[str, ...]
    clients: Mapping[str, ClientData]
    notes: tuple[str, ...] = ()
    """what people should know of how the samples are read, e.g. how many texts lose their end"""


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
        labels = torch.as_tensor(labels, dtype=torch.int64)
        if presence is None:
            presence = torch.ones(len(labels), len(columns), dtype=torch.bool)
        return cls(columns, torch.arange(len(labels)), labels, presence, tuple(columns))

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        indices = self.indices if self.indices.ndim == 1 else self.indices[:, self.modalities.index(modality)]
        return {name: column[indices[rows]] for name, column in self.columns[modality].items()}
