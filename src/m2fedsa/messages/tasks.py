"""Fed server to clients: what they are given, and what they shall do.

Legend: K classes or targets, D_z pooled width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from m2fedsa.messages.rounds import RoundPlan
from m2fedsa.state import nbytes

Evaluated = Literal["validation", "test"]
"""The splits that are evaluated."""


@dataclass(frozen=True)
class ClientInfo:
    """What the fed server knows of a client before it asks for anything."""

    name: str
    modalities: tuple[str, ...]
    train: int
    """training samples"""
    labelled: int
    """training samples with a label"""
    teachable: int
    """training samples without a label that have several modalities"""
    validation: int
    test: int


@dataclass(frozen=True)
class GlobalView:
    """What a client is given of the global model."""

    tensors: Mapping[str, Tensor]
    """client-side tensors of its modalities: `<m>.ma.*`, `<m>.classifier.*`, `fused.classifier.*`"""
    log_prior: Tensor
    """(K,): log π, the global class frequencies that logits assume; of other tasks than one class of several, see `tasks`"""
    weights: Tensor
    """(K,): of classes in the supervised loss"""
    round: int
    """The round after which these tensors stand; the main server is asked for the same."""

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([*self.tensors.values(), self.log_prior, self.weights])


@dataclass(frozen=True)
class TrainTask:
    """One round of local training."""

    client: str
    plan: RoundPlan
    view: GlobalView
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """of the view's tensors, where they are carried from round to round; see `moments`"""


Summed = Literal["labels", "soft", "joint", "fused"]
"""Per modality of labelled samples (`labels`), and of unlabelled ones with their soft labels (`soft`). Under the one name `fused`: of all
modalities' features side by side (`joint`), or of f and what the opinions of the modalities leave unexplained (`fused`)."""


@dataclass(frozen=True)
class SumsTask:
    """Sums of features for the warm start."""

    client: str
    view: GlobalView
    of: Summed = "labels"


Judged = Literal["labels", "soft", "joint", "fused", "validation"]
"""As `Summed`; or per modality of validation samples."""


@dataclass(frozen=True)
class JudgeTask:
    """Cross-entropy of candidate classifiers on samples that did not make them: half of the training samples, or the validation samples."""

    client: str
    view: GlobalView
    candidates: Mapping[str, tuple[tuple[Tensor, Tensor], ...]]
    """modality, or `fused` -> per shrinkage the weight (K, D_z) and bias (K,), without the prior"""
    scales: tuple[float, ...]
    of: Judged = "labels"


@dataclass(frozen=True)
class EvaluateTask:
    """Metrics of the client's samples of one split."""

    client: str
    view: GlobalView
    split: Evaluated


Task = TrainTask | SumsTask | JudgeTask | EvaluateTask


@dataclass(frozen=True)
class KeepTask:
    """The end of the run, for a client on a machine of its own: what it predicts with from now on."""

    client: str
    view: GlobalView
