"""What a kind of task has to say; the equations stand in docs/paper.md, "Tasks".

Legend: N or B samples, B_m those that have modality m, M modalities, K outputs (classes, or targets), D_z width of the pooled features.
A *logit* is what C_m gives: a log probability up to a constant, log-odds, or a number in units of the global standard deviation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from m2fedsa.data.samples import Kind
from m2fedsa.messages import ClassSums
from m2fedsa.metrics import Tally
from m2fedsa.warm_start import Sums

FUSED = "fused"


@dataclass(frozen=True)
class Linear:
    """A linear map in closed form: weight (K, D_z), bias (K,), both float64."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Targets:
    """What the samples of a client count for in the sums of the warm start."""

    values: Tensor
    """(N, Q) float64"""
    taken: Tensor
    """(N,) bool: which samples count at all"""


class Task(Protocol):
    """Losses, priors, closed forms and metrics of one kind of task, for K outputs."""

    @property
    def kind(self) -> Kind:
        """Its name in the settings."""

    @property
    def outputs(self) -> int:
        """K."""

    @property
    def metric(self) -> str:
        """The metric that it is judged by, the larger the better."""

    # --- labels and losses

    def inner(self, labels: Tensor, prior: Tensor) -> Tensor:
        """Labels as `Samples.labels` has them -> as losses take them: numbers in units of the global standard deviation."""

    def losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """(B,) supervised loss of each sample; anything finite where there is no label. weights (K,): of classes."""

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """(B,) how far the student's logits are from the teacher's, which are constants."""

    def fused(
        self, correction: Tensor, unimodal: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, prior: Tensor
    ) -> Tensor:
        """s (B, K): the opinions p_m of the modalities that enter, as one, plus the learned correction C_f(f)."""

    # --- priors

    def initial_prior(self) -> Tensor:
        """What is assumed while nobody has counted."""

    def counted(self, labels: Tensor) -> Tensor:
        """Sums over labelled samples, float64, that add up over clients."""

    def prior(self, counted: Tensor, before: Tensor) -> Tensor:
        """The global prior, float64, from the sums over all clients; what these do not tell stays as `before`."""

    def balanced(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """(weights (K,), prior): class weights under which all classes count alike, and the prior that logits then assume."""

    def adjustment(self, counted: Tensor, prior: Tensor, weights: Tensor, *, evenly: bool) -> Tensor:
        """What puts a client's own prior in the place of the global one. evenly: its batches are drawn with all its classes alike."""

    def no_adjustment(self, prior: Tensor) -> Tensor:
        """One that changes nothing."""

    def taught_adjustment(self, teacher: Tensor, variance: Tensor | None, counted: Tensor, prior: Tensor) -> Tensor:
        """The same, the client's prior estimated from its labels and from teacher logits (n, K) of samples without one."""

    def adjusted(self, logits: Tensor, adjustment: Tensor, variance: Tensor | None) -> Tensor:
        """Logits (B, K) under the client's prior."""

    def variances(self, prior: Tensor, entering: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:
        """How uncertain logits are, where that is no part of them: m -> (K,) and `fused` -> (B, K); empty for classes.
        entering (B, M): columns in the order of `modalities`."""

    def tempered(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits at a temperature."""

    def confidence(self, logits: Tensor) -> Tensor:
        """How sure (N,) logits (N, K) are, at most 1."""

    # --- closed form

    def targets(self, labels: Tensor, least: int) -> Targets:
        """Of labelled samples, without those of which fewer than `least` would be summed."""

    def enough(self, targets: Targets, mask: Tensor, least: int) -> Tensor:
        """(N,) bool: the samples under the mask without those of which fewer than `least` would be summed."""

    def soft(self, own: Tensor, prior: Tensor) -> Targets:
        """From teacher logits (N, K) under the client's own frequencies, NaN in rows that are not taught."""

    def sums(self, features: Tensor, targets: Tensor) -> ClassSums:
        """Over features (n, D_z) with targets (n, Q)."""

    def number(self, sums: ClassSums | Sums) -> float:
        """How many samples are in the sums."""

    def fit(self, sums: Sums, shrinkage: float, prior: Tensor) -> Linear:
        """The closed form, without its prior."""

    def scales(self, scales: Sequence[float]) -> tuple[float, ...]:
        """Those of the settings that its closed form has to choose from."""

    def candidate(self, features: Tensor, linear: Linear, scale: float, prior: Tensor) -> Tensor:
        """Logits (n, K) float64 of the closed form at a scale."""

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(n, K) what the answers leave unexplained, the negative gradient of the loss; labels as `inner` gives them."""

    def judged(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss summed over samples, () or per output (K,), to choose by; labels as `inner` gives them."""

    def classifier(self, linear: Linear, scale: float, prior: Tensor) -> Linear:
        """C_m from the closed form."""

    def learned(self, prior: Tensor, judged: Mapping[str, tuple[Tensor, float]]) -> Tensor:
        """The prior with what judging has told: modality -> (loss of the chosen candidate, number of samples)."""

    # --- evaluation

    def tally(self, logits: Tensor, labels: Tensor, prior: Tensor) -> Tally:
        """Mergeable sums of labelled samples: logits (n, K), labels as `Samples.labels` has them."""

    def answers(self, logits: Tensor, prior: Tensor) -> Tensor:
        """(B, K) what people are told: probabilities, or numbers in the units of the labels."""
