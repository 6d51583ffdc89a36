"""One class of several: cross-entropy, discriminant analysis. (Sections "Losses" and "What this project adds" of docs/paper.md.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.data.samples import UNLABELLED
from m2fedsa.messages import ClassSums
from m2fedsa.metrics import ClassTally
from m2fedsa.tasks.opinions import decision_transfer, fused_logits, own_frequencies, smoothed
from m2fedsa.tasks.task import Linear, Targets
from m2fedsa.warm_start import Sums, class_sums, discriminant


@dataclass(frozen=True)
class SingleLabel:
    """K classes. The prior is log π (K,)."""

    outputs: int
    kind: Literal["single_label"] = "single_label"
    metric: str = "accuracy"

    def inner(self, labels: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """As they are."""
        return labels

    def losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """w_y CE(logits, y)."""
        # Unlabelled rows get class 0 here and are masked out by the caller: one kernel for any mixture.
        safe = labels.clamp(min=0)
        return functional.cross_entropy(logits, safe, reduction="none") * weights[safe]

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """KL(softmax(teacher) ‖ softmax(student))."""
        return decision_transfer(teacher, student)

    def fused(
        self, correction: Tensor, unimodal: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, prior: Tensor
    ) -> Tensor:
        """C_f(f) + Σ p_m − (M_i − 1) log π."""
        return fused_logits(correction, unimodal, rows, entering, prior, late=True)

    # --- priors ---------------------------------------------------------------------------------------------------------------------

    def initial_prior(self) -> Tensor:
        """Uniform."""
        return torch.full((self.outputs,), 1.0 / self.outputs).log()

    def counted(self, labels: Tensor) -> Tensor:
        """n_c (K,)."""
        return torch.bincount(labels[labels != UNLABELLED], minlength=self.outputs).to(torch.float64)

    def prior(self, counted: Tensor, before: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """log π, π smoothed by 0.5 per class."""
        return smoothed(counted).log()

    def balanced(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """w_c = 1 / (K π_c), and the uniform prior."""
        uniform = torch.full_like(prior, 1.0 / self.outputs).log()
        return (uniform - prior).exp(), uniform

    def adjustment(self, counted: Tensor, prior: Tensor, weights: Tensor, *, evenly: bool) -> Tensor:
        """log(π_u w / π), normalised where weights are not one."""
        counts = counted.to(torch.get_default_dtype())
        if evenly:
            counts = (counts > 0) * (counts.sum() / (counts > 0).sum().clamp(min=1))
        own = smoothed(counts)
        if not bool((weights == 1).all()):
            own = own * weights
            own = own / own.sum()
        return own.log() - prior

    def no_adjustment(self, prior: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(prior)

    def taught_adjustment(self, teacher: Tensor, variance: Tensor | None, counted: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """log(π̄_u / π), by expectation-maximisation."""
        return (own_frequencies(teacher, prior, counted).log() - prior.to(torch.float64)).to(teacher.dtype)

    def adjusted(self, logits: Tensor, adjustment: Tensor, variance: Tensor | None) -> Tensor:  # noqa: ARG002  (see `Task`)
        """Their sum."""
        return logits + adjustment

    def variances(self, prior: Tensor, entering: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:  # noqa: ARG002  (see `Task`)
        """None: a softmax says itself how uncertain it is."""
        return {}

    def tempered(self, logits: Tensor, temperature: float) -> Tensor:
        """Divided by it."""
        return logits / temperature

    def confidence(self, logits: Tensor) -> Tensor:
        """The largest probability."""
        return logits.softmax(1).amax(1)

    # --- closed form ----------------------------------------------------------------------------------------------------------------

    def targets(self, labels: Tensor, least: int) -> Targets:
        """One-hot; without samples of classes that fewer than `least` have."""
        known = labels != UNLABELLED
        values = torch.zeros(len(labels), self.outputs, dtype=torch.float64)
        values[known, labels[known]] = 1.0
        whole = Targets(values, known)
        return Targets(values, self.enough(whole, known, least))

    def enough(self, targets: Targets, mask: Tensor, least: int) -> Tensor:
        """Whose class has `least` samples under the mask."""
        values = targets.values * mask[:, None]
        return values.masked_fill(values.sum(0) < least, 0.0).sum(1) > 0

    def soft(self, own: Tensor, prior: Tensor) -> Targets:  # noqa: ARG002  (see `Task`)
        """softmax(s + log(π̄_u / π))."""
        return Targets(own.double().softmax(1).nan_to_num(), ~own[:, 0].isnan())

    def sums(self, features: Tensor, targets: Tensor) -> ClassSums:
        """n_c, Σ_c z, Σ z zᵀ."""
        return class_sums(features, targets)

    def number(self, sums: ClassSums | Sums) -> float:
        """Of all classes."""
        return float(sums.counts.sum())

    def fit(self, sums: Sums, shrinkage: float, prior: Tensor) -> Linear:  # noqa: ARG002  (see `Task`)
        """Linear discriminant analysis."""
        found = discriminant(sums, shrinkage)
        return Linear(found.weight, found.bias)

    def scales(self, scales: Sequence[float]) -> tuple[float, ...]:
        """All."""
        return tuple(scales)

    def candidate(self, features: Tensor, linear: Linear, scale: float, prior: Tensor) -> Tensor:
        """scale (W z + b) + log π."""
        return scale * (features @ linear.weight.T + linear.bias) + prior

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """y − softmax(s), y one-hot."""
        return functional.one_hot(labels, self.outputs) - logits.softmax(1)

    def judged(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(logits, labels, reduction="sum")

    def classifier(self, linear: Linear, scale: float, prior: Tensor) -> Linear:
        """Scaled, with the prior in the bias."""
        return Linear(scale * linear.weight, scale * linear.bias + prior)

    def learned(self, prior: Tensor, judged: Mapping[str, tuple[Tensor, float]]) -> Tensor:  # noqa: ARG002  (see `Task`)
        """Nothing more."""
        return prior

    # --- evaluation -----------------------------------------------------------------------------------------------------------------

    def tally(self, logits: Tensor, labels: Tensor, prior: Tensor) -> ClassTally:  # noqa: ARG002  (see `Task`)
        """A confusion matrix and scores in bins."""
        return ClassTally.of(logits, labels)

    def answers(self, logits: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """Probabilities that add up to 1."""
        return logits.softmax(1)
