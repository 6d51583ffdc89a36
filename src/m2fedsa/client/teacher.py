"""The fixed teacher of a client's unlabelled samples.

s̄ are logits in evaluation mode, computed at the client's first part in each window of `transfer.refresh` rounds since transfer started,
and kept among its local tensors: a teacher that moves with its student would feed on itself. (Section "Unlabelled samples".)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = "teacher/"
WINDOW = "teacher window"
"""Neither can be the name of a modality's tensor: those hold a dot and no slash or space."""


def window(round_number: int, since: int, refresh: int) -> int:
    """Which window of rounds a round lies in: 0 for the first `refresh` rounds of the transfer phase."""
    return (round_number - since) // refresh


@dataclass(frozen=True)
class Teacher:
    """Teacher logits of a client's samples, per teaching modality or `fused`."""

    logits: Mapping[str, Tensor]
    """name -> s̄ (N, K), NaN for samples that are not taught"""
    log_prior: Tensor

    def of(self, batch: Tensor, modalities: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Teacher logits (B, K) and their adjustments log(π̄_u/π) (K,) for each modality of the batch."""
        teachers, adjustments = {}, {}
        for modality in modalities:
            source = self.logits.get(modality, self.logits.get("fused"))
            if source is not None and not bool(source[batch, 0].isnan().all()):
                teachers[modality] = source[batch]
                adjustments[modality] = soft_frequencies(source).log() - self.log_prior
        return teachers, adjustments

    @classmethod
    def from_local(cls, local: Mapping[str, Tensor], log_prior: Tensor) -> "Teacher":
        """The teacher that a client's local tensors hold."""
        return cls({name.removeprefix(PREFIX): value for name, value in local.items() if name.startswith(PREFIX)}, log_prior)

    def to_local(self, number: int) -> dict[str, Tensor]:
        """The teacher as local tensors of window `number`."""
        return {**{PREFIX + name: value for name, value in self.logits.items()}, WINDOW: torch.tensor(number)}


def soft_frequencies(logits: Tensor) -> Tensor:
    """π̄_u (K,): the mean of softmax(s̄) over the taught samples."""
    taught = logits[~logits[:, 0].isnan()]
    return taught.softmax(1).mean(0).clamp(min=1e-8)
