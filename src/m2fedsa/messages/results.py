"""Clients to fed server: what came of their tasks.

Legend: K classes or targets, D_z pooled width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from m2fedsa.messages.steps import Traffic
from m2fedsa.state import nbytes


@dataclass(frozen=True)
class TrainResult:
    """What a client returns from a round."""

    client: str
    tensors: Mapping[str, Tensor]
    """the tensors that it trained, local ones left out"""
    samples: Mapping[str, int]
    """tensor name prefix -> distinct samples that trained tensors under it"""
    losses: Mapping[str, tuple[float, int]]
    """name -> (sum over samples, samples): one per modality, `fused`, and `fused_multimodal` (samples of several modalities only)"""
    steps: int
    traffic: Traffic
    """of the four messages"""
    teaching: Traffic = field(default_factory=Traffic)
    """of the pass that made a new teacher of unlabelled samples; zero without one"""
    local: str | None = None
    """SHA-256 of the local tensors that it has written for this round"""
    visits: Mapping[str, int] = field(default_factory=dict)
    """modality -> samples in all its batches: how often it computed"""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """of `tensors`, where they are carried from round to round; see `moments`"""


@dataclass(frozen=True)
class ClassSums:
    """Per modality, in float64: n_c (K,), Σ_c z (K, D_z), and of Σ z zᵀ a factor. Of other tasks than one class of several, Σ y and N
    (K + 1,), and Σ y zᵀ and Σ zᵀ (K + 1, D_z)."""

    counts: Tensor
    sums: Tensor
    factor: Tensor
    """R with Rᵀ R = Σ z zᵀ: r = min(N, D_z) rows one after the other, each from its diagonal on, which is not below zero
    (r D_z − r (r − 1) / 2,). It follows from Σ z zᵀ, so it tells no more, and is smaller: of few samples by far."""

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([self.counts, self.sums, self.factor])


@dataclass(frozen=True)
class SumsResult:
    """Sums per modality over the even and over the odd samples (of the client's own order), and the class counts of its samples."""

    client: str
    even: Mapping[str, ClassSums]
    odd: Mapping[str, ClassSums]
    counts: Tensor
    """(K,) float64: samples per class, whatever their modalities; of other tasks see `tasks`"""
    traffic: Traffic

    @property
    def nbytes(self) -> int:
        """Payload in bytes of the result itself."""
        return sum(sums.nbytes for half in (self.even, self.odd) for sums in half.values()) + nbytes([self.counts])


@dataclass(frozen=True)
class JudgeResult:
    """modality -> (shrinkages, scales) float64: loss summed over the client's odd samples; of a regression (shrinkages, scales, K)."""

    client: str
    losses: Mapping[str, Tensor]
    traffic: Traffic


@dataclass(frozen=True)
class EvaluateResult:
    """Mergeable sums per subset of the modalities; see `metrics.Tally`."""

    client: str
    tallies: Mapping[str, Mapping[str, Tensor]]
    traffic: Traffic


Result = TrainResult | SumsResult | JudgeResult | EvaluateResult


@dataclass(frozen=True)
class KeepResult:
    """The client has it."""

    client: str


@dataclass(frozen=True)
class Failure:
    """A client that could not do its task. It leaves no trace in any tensor."""

    client: str
    kind: str
    message: str
