"""Any number of classes: each is a Bernoulli variable of its own. (Section "Tasks" of docs/paper.md.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.data.samples import labelled
from m2fedsa.messages import ClassSums
from m2fedsa.metrics import LabelTally
from m2fedsa.tasks.opinions import EXPECTATIONS, fused_logits
from m2fedsa.tasks.task import Linear, Targets
from m2fedsa.warm_start import Moments, Sums, ridge_direction


@dataclass(frozen=True)
class MultiLabel:
    """K classes. The prior is β = log(π / (1 − π)) (K,), the log-odds of each; logits are log-odds."""

    outputs: int
    kind: Literal["multi_label"] = "multi_label"
    metric: str = "macro_f1"

    def inner(self, labels: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """As they are."""
        return labels

    def losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Mean over the classes of binary cross-entropy, a class that is there weighted."""
        there = labels.clamp(min=0).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, there, pos_weight=weights, reduction="none").mean(1)

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Mean over the classes of KL(Bernoulli(σ(teacher)) ‖ Bernoulli(σ(student)))."""
        fixed = teacher.detach()
        there = functional.logsigmoid(fixed) - functional.logsigmoid(student)
        absent = functional.logsigmoid(-fixed) - functional.logsigmoid(-student)
        return (fixed.sigmoid() * there + (-fixed).sigmoid() * absent).mean(1)

    def fused(
        self, correction: Tensor, unimodal: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, prior: Tensor
    ) -> Tensor:
        """C_f(f) + Σ p_m − (M_i − 1) β: log-odds of independent witnesses."""
        return fused_logits(correction, unimodal, rows, entering, prior, late=True)

    # --- priors ---------------------------------------------------------------------------------------------------------------------

    def initial_prior(self) -> Tensor:
        """Even odds."""
        return torch.zeros(self.outputs)

    def counted(self, labels: Tensor) -> Tensor:
        """(2, K): samples that have each class, and all samples."""
        known = labels[labelled(labels)].to(torch.float64)
        return torch.stack([known.sum(0), torch.full((self.outputs,), float(len(known)), dtype=torch.float64)])

    def prior(self, counted: Tensor, before: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """β, either answer smoothed by 0.5."""
        return ((counted[0] + 0.5) / (counted[1] - counted[0] + 0.5)).log()

    def balanced(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """(1 − π) / π, and even odds."""
        return (-prior).exp(), torch.zeros_like(prior)

    def adjustment(self, counted: Tensor, prior: Tensor, weights: Tensor, *, evenly: bool) -> Tensor:
        """β_u + log w − β."""
        assert not evenly, "the settings allow this for single labels alone"
        return self.prior(counted, prior).to(prior.dtype) + weights.log() - prior

    def no_adjustment(self, prior: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(prior)

    def taught_adjustment(self, teacher: Tensor, variance: Tensor | None, counted: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """β̄_u − β, by expectation-maximisation for each class."""
        s, base = teacher.to(torch.float64), prior.to(torch.float64)
        known = counted + torch.stack([torch.zeros_like(base), torch.full_like(base, float(len(s)))])
        guess = base
        for _ in range(EXPECTATIONS + 1):
            expected = (s + guess - base).sigmoid().sum(0)
            guess = self.prior(known + torch.stack([expected, torch.zeros_like(expected)]), base)
        return (guess - base).to(teacher.dtype)

    def adjusted(self, logits: Tensor, adjustment: Tensor, variance: Tensor | None) -> Tensor:  # noqa: ARG002  (see `Task`)
        """Their sum."""
        return logits + adjustment

    def variances(self, prior: Tensor, entering: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:  # noqa: ARG002  (see `Task`)
        """None: log-odds say themselves how uncertain they are."""
        return {}

    def tempered(self, logits: Tensor, temperature: float) -> Tensor:
        """Divided by it."""
        return logits / temperature

    def confidence(self, logits: Tensor) -> Tensor:
        """The larger one of the probabilities that a class is there and that it is not, in the mean over classes."""
        return logits.abs().sigmoid().mean(1)

    # --- closed form ----------------------------------------------------------------------------------------------------------------

    def targets(self, labels: Tensor, least: int) -> Targets:
        """Zeros and ones, and a 1 for each sample."""
        known = labelled(labels)
        values = functional.pad(labels.to(torch.float64), (0, 1), value=1.0)
        return Targets(values, self.enough(Targets(values, known), known, least))

    def enough(self, targets: Targets, mask: Tensor, least: int) -> Tensor:
        """Without samples of a class that fewer than `least` have; nor, as a sum over those that lack it is the difference of two others,
        samples that lack a class that all but a few have. What is left is looked at again, until nothing is left to hold back."""
        there, kept = targets.values[:, :-1] > 0.5, mask.clone()
        while True:
            having, lacking = (there & kept[:, None]).sum(0), (~there & kept[:, None]).sum(0)
            rare, common = (having > 0) & (having < least), (lacking > 0) & (lacking < least)
            out = kept & ((there & rare).any(1) | (~there & common).any(1))
            if not bool(out.any()):
                return kept
            kept &= ~out

    def soft(self, own: Tensor, prior: Tensor) -> Targets:  # noqa: ARG002  (see `Task`)
        """σ(s + β̄_u − β), and a 1 for each sample."""
        there = own.double().sigmoid().nan_to_num()
        return Targets(functional.pad(there, (0, 1), value=1.0), ~own[:, 0].isnan())

    def sums(self, features: Tensor, targets: Tensor) -> ClassSums:
        """Σ y and N, Σ y zᵀ and Σ zᵀ, Σ z zᵀ."""
        return Moments.sums(features, targets)

    def number(self, sums: ClassSums | Sums) -> float:
        """N, the last of the counts."""
        return float(sums.counts[-1])

    def fit(self, sums: Sums, shrinkage: float, prior: Tensor) -> Linear:  # noqa: ARG002  (see `Task`)
        """Ridge regression on zeros and ones, its score turned into log-odds by the discriminant analysis of that one number."""
        moments = Moments.of(sums)
        direction = ridge_direction(moments, shrinkage)
        number, having = sums.counts[-1], sums.counts[:-1]
        lacking = number - having
        means = (sums.sums[:-1] / having.clamp(min=1e-300)[:, None], (sums.sums[-1] - sums.sums[:-1]) / lacking.clamp(min=1e-300)[:, None])
        above, below = ((direction * mean).sum(1) for mean in means)
        squares = torch.einsum("kd,de,ke->k", direction, sums.products, direction)
        within = (squares - having * above**2 - lacking * below**2) / number
        told = (having > 0) & (lacking > 0) & (within > 1e-12 * squares / number)
        slope = torch.where(told, (above - below) / torch.where(told, within, 1.0), 0.0)
        return Linear(slope[:, None] * direction, torch.where(told, -slope * (above + below) / 2, 0.0))

    def scales(self, scales: Sequence[float]) -> tuple[float, ...]:
        """All."""
        return tuple(scales)

    def candidate(self, features: Tensor, linear: Linear, scale: float, prior: Tensor) -> Tensor:
        """scale (W z + b) + β."""
        return scale * (features @ linear.weight.T + linear.bias) + prior

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """y − σ(s)."""
        return labels - logits.sigmoid()

    def judged(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over the classes."""
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1).sum()

    def classifier(self, linear: Linear, scale: float, prior: Tensor) -> Linear:
        """Scaled, with the prior in the bias."""
        return Linear(scale * linear.weight, scale * linear.bias + prior)

    def learned(self, prior: Tensor, judged: Mapping[str, tuple[Tensor, float]]) -> Tensor:  # noqa: ARG002  (see `Task`)
        """Nothing more."""
        return prior

    # --- evaluation -----------------------------------------------------------------------------------------------------------------

    def tally(self, logits: Tensor, labels: Tensor, prior: Tensor) -> LabelTally:  # noqa: ARG002  (see `Task`)
        """Hits and misses per class, and scores in bins."""
        return LabelTally.of(logits, labels)

    def answers(self, logits: Tensor, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """The probability of each class."""
        return logits.sigmoid()
