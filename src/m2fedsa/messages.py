"""What the parties say to each other: frozen dataclasses of tensors, each knows its bytes.

Legend: B batch, B_m its rows that have modality m, T tokens, D_h width at the cut, D_z pooled width, F fusion width, K classes,
M modalities of the message, in the run's order.

Client and main server exchange `Activations`, `Features`, `Gradients` and `ActivationGradients`, in this order, once per step; no
input, label, logit or loss has a place in them. Fed server and clients exchange tasks and results. Fed server and main server exchange
`RoundPlan`, `Acceptance` and `Averaged`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from m2fedsa.state import nbytes

Phase = Literal["fusion", "transfer"]
Evaluated = Literal["validation", "test"]
"""The splits that are evaluated."""
Subset = tuple[str, ...]
ALL: Subset = ()
"""The subset that stands for all modalities that a sample has."""


class InputSpec(NamedTuple):
    """Shape and dtype of an encoder's input; its values never travel."""

    shape: tuple[int, ...]
    dtype: torch.dtype


# --- client <-> main server: one step -----------------------------------------------------------------------------------------------


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
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes(tensor for tensor in (self.hidden, self.rows, self.mask) if tensor is not None)


@dataclass(frozen=True)
class Activations:
    """First message of a step, client to main server."""

    modalities: Mapping[str, Activation]
    entering: Tensor
    """(B, M) bool: which modality of which sample enters fusion"""

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return sum(activation.nbytes for activation in self.modalities.values()) + nbytes([self.entering])

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
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([*self.pooled.values(), self.fused])


@dataclass(frozen=True)
class Gradients:
    """Third message, client to main server: ∂L/∂z_m (the part that does not pass through f) and ∂L/∂f."""

    pooled: Mapping[str, Tensor]
    fused: Tensor

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([*self.pooled.values(), self.fused])


@dataclass(frozen=True)
class ActivationGradients:
    """Fourth message, main server to client: ∂L/∂a_m (B_m, T, D_h)."""

    hidden: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes(self.hidden.values())


@dataclass(frozen=True)
class EvaluationRequest:
    """Activations to be evaluated without training: z_m once, f for each subset of the modalities of a sample."""

    activations: Activations
    subsets: tuple[Subset, ...]
    """Each is answered for the samples that have all its modalities; `ALL` for all that a sample has."""
    at: int
    """The round after which the tensors are wanted: 0 before the first."""

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return self.activations.nbytes


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
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([*self.pooled.values(), *self.fused.values()])


@dataclass(frozen=True)
class Traffic:
    """Payload in bytes, seen from the client."""

    up: int = 0
    down: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.up + other.up, self.down + other.down)


# --- fed server -> main server ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundPlan:
    """A round as the fed server announces it: who takes part with which modalities, and how."""

    number: int
    phase: Phase
    seed: int
    roster: Mapping[str, tuple[str, ...]]
    learning_rate: float
    """Of the adapters, after the schedule."""
    weights: tuple[float, float, float]
    """λ of the transfer phase."""
    transfer_since: int | None = None
    """The first round of the transfer phase, once it has begun."""
    best: int | None = None
    """The round whose checkpoint is to be kept beside the last one."""


@dataclass(frozen=True)
class Acceptance:
    """Which copies count: client -> tensor name prefix -> number of its distinct samples that trained tensors under that prefix."""

    round: int
    samples: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Averaged:
    """The main server's answer to the end of a round: prints of its new tensors, and where they are kept."""

    round: int
    prints: Mapping[str, list[object]]
    file: str | None
    """SHA-256 of what it wrote for its checkpoint; None without one"""


# --- fed server <-> clients ---------------------------------------------------------------------------------------------------------


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


Summed = Literal["labels", "soft", "joint", "fused"]
"""Per modality of labelled samples (`labels`), and of unlabelled ones with their soft labels (`soft`). Under the one name `fused`: of all
modalities' features side by side (`joint`), or of f and what the opinions of the modalities leave unexplained (`fused`)."""


@dataclass(frozen=True)
class SumsTask:
    """Sums of features for the warm start."""

    client: str
    view: GlobalView
    of: Summed = "labels"


@dataclass(frozen=True)
class JudgeTask:
    """Cross-entropy of candidate classifiers on the half of the samples that did not make them."""

    client: str
    view: GlobalView
    candidates: Mapping[str, tuple[tuple[Tensor, Tensor], ...]]
    """modality, or `fused` -> per shrinkage the weight (K, D_z) and bias (K,), without the prior"""
    scales: tuple[float, ...]
    of: Summed = "labels"


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
    teaching: Traffic = Traffic()
    """of the pass that made a new teacher of unlabelled samples; zero without one"""
    local: str | None = None
    """SHA-256 of the local tensors that it has written for this round"""
    visits: Mapping[str, int] = field(default_factory=dict)
    """modality -> samples in all its batches: how often it computed"""


@dataclass(frozen=True)
class ClassSums:
    """Per modality, in float64: n_c (K,), Σ_c z (K, D_z), Σ z zᵀ (D_z, D_z). Of other tasks than one class of several, Σ y and N (K + 1,),
    and Σ y zᵀ and Σ zᵀ (K + 1, D_z)."""

    counts: Tensor
    sums: Tensor
    products: Tensor

    def __add__(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(self.counts + other.counts, self.sums + other.sums, self.products + other.products)

    @property
    def nbytes(self) -> int:
        """Payload in bytes."""
        return nbytes([self.counts, self.sums, self.products])


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
