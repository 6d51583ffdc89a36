"""Client and main server: one step, or an evaluation.

Legend: B batch, B_m its rows that have modality m, T tokens, D_h width at the cut, D_z pooled width, F fusion width, K classes,
M modalities of the message, in the run's order.

No input, label, logit or loss has a place in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Subset = tuple[str, ...]
ALL: Subset = ()
"""The subset that stands for all modalities that a sample has."""


class InputSpec(NamedTuple):
    """Shape and dtype of an encoder's input; its values never travel."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Activation:
    """One modality of a batch, at the cut."""

    hidden: Tensor
    """(B_m, T, D_h): a_m = h_m + MA_m(h_m)"""
    rows: Tensor
    """(B_m,) int64: which samples of the batch have this modality"""
    mask: Tensor | None
    """(B_m, T): 1 for tokens, 0 for padding; None where the encoder has none"""
    inputs: Mapping[str, InputSpec]

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [tensor for tensor in (self.hidden, self.rows, self.mask) if tensor is not None]


@dataclass(frozen=True)
class Activations:
    """First message of a step, client to main server."""

    modalities: Mapping[str, Activation]
    entering: Tensor
    """(B, M) bool: which modality of which sample enters fusion"""

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [*(tensor for one in self.modalities.values() for tensor in one.tensors), self.entering]

    def restricted(self, subset: Subset) -> tuple[Tensor, Tensor]:
        """See `restricted`."""
        return restricted(list(self.modalities), self.entering, subset)


def restricted(modalities: Sequence[str], entering: Tensor, subset: Subset) -> tuple[Tensor, Tensor]:
    """What enters fusion for a subset of the modalities: (B, M) bool, empty in rows that lack one of them; and which rows have them all
    (B,) bool. `ALL` leaves every sample what it has."""
    if subset == ALL:
        return entering, entering.any(1)
    wanted = torch.tensor([name in subset for name in modalities])
    complete = set(subset) <= set(modalities)
    member = (entering | ~wanted).all(1) & complete
    return entering & wanted & member[:, None], member


@dataclass(frozen=True)
class Features:
    """Second message, main server to client."""

    pooled: Mapping[str, Tensor]
    """z_m (B_m, D_z)"""
    fused: Tensor
    """f (B, F)"""

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [*self.pooled.values(), self.fused]


@dataclass(frozen=True)
class Gradients:
    """Third message, client to main server: ∂L/∂z_m (the part that does not pass through f) and ∂L/∂f."""

    pooled: Mapping[str, Tensor]
    fused: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [*self.pooled.values(), self.fused]


@dataclass(frozen=True)
class ActivationGradients:
    """Fourth message, main server to client: ∂L/∂a_m (B_m, T, D_h)."""

    hidden: Mapping[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [*self.hidden.values()]


@dataclass(frozen=True)
class EvaluationRequest:
    """Activations to be evaluated without training: z_m once, f for each subset of the modalities of a sample."""

    activations: Activations
    subsets: tuple[Subset, ...]
    """Each is answered for the samples that have all its modalities; `ALL` for all that a sample has."""
    at: int
    """The round after which the tensors are wanted: 0 before the first."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return self.activations.tensors


@dataclass(frozen=True)
class EvaluationReply:
    """z_m (B_m, D_z), and f (B_s, F) per subset s, in the order of the batch's rows that have it."""

    pooled: Mapping[str, Tensor]
    fused: Mapping[Subset, Tensor]

    def to(self, device: torch.device) -> "EvaluationReply":
        """The same on a device."""
        pooled = {name: tensor.to(device) for name, tensor in self.pooled.items()}
        return EvaluationReply(pooled, {subset: tensor.to(device) for subset, tensor in self.fused.items()})

    @property
    def tensors(self) -> list[Tensor]:
        """All that travels of it."""
        return [*self.pooled.values(), *self.fused.values()]


@dataclass(frozen=True)
class Traffic:
    """Payload in bytes, seen from the client."""

    up: int = 0
    down: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.up + other.up, self.down + other.down)
