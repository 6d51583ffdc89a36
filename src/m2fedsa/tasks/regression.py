"""Numbers: each is a Gaussian variable of its own. (Section "Tasks" of docs/paper.md.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.data.samples import labelled
from m2fedsa.messages import ClassSums
from m2fedsa.metrics import NumberTally
from m2fedsa.tasks.opinions import EXPECTATIONS
from m2fedsa.tasks.task import FUSED, Linear, Targets
from m2fedsa.warm_start import Moments, Sums, ridge_direction

UNJUDGED, SMALLEST = 0.5, 1e-3
"""The part of the variance that a modality leaves where nobody has measured it, and the least that is believed."""


@dataclass(frozen=True)
class Regression:
    """K numbers. The prior is (2 + M, K): mean μ and standard deviation τ of each, then the part e_m of the variance τ² that each modality
    leaves unexplained. Logits are (ŷ − μ) / τ, so that nothing depends on units."""

    outputs: int
    modalities: tuple[str, ...]
    kind: Literal["regression"] = "regression"
    metric: str = "r2"

    def inner(self, labels: Tensor, prior: Tensor) -> Tensor:
        """(y − μ) / τ."""
        mean, deviation = prior[0], prior[1]
        return ((labels.to(torch.float64) - mean.double()) / deviation.double()).to(prior.dtype)

    def losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG002  (there are no classes to weight)
        """½ mean over the numbers of (ŷ − y)²."""
        return 0.5 * (logits - labels.to(logits.dtype).nan_to_num()).square().mean(1)

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """½ mean over the numbers of (teacher − student)²."""
        return 0.5 * (student - teacher.detach()).square().mean(1)

    def fused(
        self, correction: Tensor, unimodal: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, prior: Tensor
    ) -> Tensor:
        """C_f(f) + v Σ p_m / e_m, 1 / v = Σ 1 / e_m − (M_i − 1): Gaussian opinions of independent witnesses."""
        precision = self._precision(prior, entering, list(unimodal))
        total = torch.zeros_like(correction)
        for column, (modality, logits) in enumerate(unimodal.items()):
            index = rows[modality]
            present = entering[index, column]
            share = logits / self._error(prior, modality) / precision[index]
            total = total.index_add(0, index[present], share[present])
        return correction + total

    def _error(self, prior: Tensor, modality: str) -> Tensor:
        """e_m (K,)."""
        return prior[2 + self.modalities.index(modality)]

    def _precision(self, prior: Tensor, entering: Tensor, modalities: Sequence[str]) -> Tensor:
        """1 / v (B, K)."""
        each = torch.stack([1 / self._error(prior, modality) for modality in modalities])
        there = entering.to(prior.dtype)
        precision: Tensor = there @ each - (there.sum(1, keepdim=True) - 1)
        return precision

    # --- priors ---------------------------------------------------------------------------------------------------------------------

    def initial_prior(self) -> Tensor:
        """Mean 0 and deviation 1: labels as they are; each modality explains half."""
        ones = torch.ones(len(self.modalities), self.outputs)
        return torch.cat([torch.zeros(1, self.outputs), torch.ones(1, self.outputs), UNJUDGED * ones])

    def counted(self, labels: Tensor) -> Tensor:
        """(3, K): number, Σ y, Σ y²."""
        known = labels[labelled(labels)].to(torch.float64)
        number = torch.full((self.outputs,), float(len(known)), dtype=torch.float64)
        return torch.stack([number, known.sum(0), known.square().sum(0)])

    def prior(self, counted: Tensor, before: Tensor) -> Tensor:
        """Mean and deviation of all labels; a number that is always the same has deviation 1."""
        number, total, squares = counted
        mean = total / number.clamp(min=1)
        variance = squares / number.clamp(min=1) - mean**2
        told = variance > 1e-12 * (squares / number.clamp(min=1)).clamp(min=1e-300)
        deviation = torch.where(told, variance, 1.0).sqrt()
        return torch.cat([torch.stack([mean, deviation]), before[2:].to(torch.float64)])

    def balanced(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """There are no classes: the settings refuse this."""
        raise AssertionError(f"{tuple(prior.shape)}")

    def adjustment(self, counted: Tensor, prior: Tensor, weights: Tensor, *, evenly: bool) -> Tensor:  # noqa: ARG002  (no classes)
        """(2, K): mean and variance of the client's labels in units of the global ones, with one label of the global distribution added."""
        return self._own(self._standardised(counted, prior)).to(prior.dtype)

    def _standardised(self, counted: Tensor, prior: Tensor) -> Tensor:
        """Number, Σ t, Σ t² of t = (y − μ) / τ."""
        number, total, squares = counted
        mean, deviation = prior[0].double(), prior[1].double()
        shifted = squares - 2 * mean * total + number * mean**2
        return torch.stack([number, (total - number * mean) / deviation, shifted / deviation**2])

    @staticmethod
    def _own(sums: Tensor) -> Tensor:
        number, total, squares = sums
        mean = total / (number + 1)
        return torch.stack([mean, ((squares + 1) / (number + 1) - mean**2).clamp(min=1e-6)])

    def no_adjustment(self, prior: Tensor) -> Tensor:
        """The global mean and variance."""
        return torch.stack([torch.zeros_like(prior[0]), torch.ones_like(prior[0])])

    def taught_adjustment(self, teacher: Tensor, variance: Tensor | None, counted: Tensor, prior: Tensor) -> Tensor:
        """Mean and variance by expectation-maximisation: an unlabelled sample counts as the Gaussian that the teacher sees in it."""
        assert variance is not None
        s, v = teacher.to(torch.float64), variance.to(torch.float64).expand(teacher.shape)
        known = self._standardised(counted, prior)
        guess = self.no_adjustment(prior).double()
        for _ in range(EXPECTATIONS + 1):
            mean = self.adjusted(s, guess, v)
            spread = v / (1 - v + v / guess[1])
            number = torch.full_like(known[0], float(len(s)))
            guess = self._own(known + torch.stack([number, mean.sum(0), (mean**2 + spread).sum(0)]))
        return guess.to(teacher.dtype)

    def adjusted(self, logits: Tensor, adjustment: Tensor, variance: Tensor | None) -> Tensor:
        """(p + v μ_u / τ_u²) / (1 − v + v / τ_u²): the mean of the Gaussian whose prior was exchanged."""
        assert variance is not None
        mean, spread = adjustment
        pull = variance / spread
        exchanged: Tensor = (logits + pull * mean) / (1 - variance + pull)
        return exchanged

    def variances(self, prior: Tensor, entering: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:
        """e_m of each modality, and v of those that enter together."""
        return {FUSED: 1 / self._precision(prior, entering, modalities), **{name: self._error(prior, name) for name in modalities}}

    def tempered(self, logits: Tensor, temperature: float) -> Tensor:  # noqa: ARG002  (see `Task`)
        """As they are: a mean has no temperature."""
        return logits

    def confidence(self, logits: Tensor) -> Tensor:
        """All alike: a mean does not say how sure it is."""
        return torch.ones_like(logits[:, 0])

    # --- closed form ----------------------------------------------------------------------------------------------------------------

    def targets(self, labels: Tensor, least: int) -> Targets:
        """The numbers, and a 1 for each sample."""
        known = labelled(labels)
        values = functional.pad(labels.to(torch.float64).nan_to_num(), (0, 1), value=1.0)
        return Targets(values, self.enough(Targets(values, known), known, least))

    def enough(self, targets: Targets, mask: Tensor, least: int) -> Tensor:  # noqa: ARG002  (see `Task`)
        """All, or none if they are fewer than `least`."""
        return mask & bool(mask.sum() >= least)

    def soft(self, own: Tensor, prior: Tensor) -> Targets:
        """μ + τ times the teacher's value under the client's own mean and variance, and a 1 for each sample."""
        value = self.answers(own, prior).double().nan_to_num()
        return Targets(functional.pad(value, (0, 1), value=1.0), ~own[:, 0].isnan())

    def sums(self, features: Tensor, targets: Tensor) -> ClassSums:
        """Σ y and N, Σ y zᵀ and Σ zᵀ, Σ z zᵀ."""
        return Moments.sums(features, targets)

    def number(self, sums: ClassSums | Sums) -> float:
        """N, the last of the counts."""
        return float(sums.counts[-1])

    def fit(self, sums: Sums, shrinkage: float, prior: Tensor) -> Linear:
        """Ridge regression, exact as if the data were pooled, in units of τ around μ."""
        moments = Moments.of(sums)
        weight = (1 - shrinkage) * ridge_direction(moments, shrinkage)
        bias = moments.means - (weight * moments.centre).sum(1)
        mean, deviation = prior[0].double(), prior[1].double()
        return Linear(weight / deviation[:, None], (bias - mean) / deviation)

    def scales(self, scales: Sequence[float]) -> tuple[float, ...]:  # noqa: ARG002  (see `Task`)
        """One: least squares needs no other."""
        return (1.0,)

    def candidate(self, features: Tensor, linear: Linear, scale: float, prior: Tensor) -> Tensor:  # noqa: ARG002  (see `Task`)
        """W z + b."""
        return scale * (features @ linear.weight.T + linear.bias)

    def residual(self, logits: Tensor, labels: Tensor) -> Tensor:
        """t − s."""
        return labels - logits

    def judged(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(K,): half of the squares."""
        return 0.5 * (logits - labels).square().sum(0)

    def classifier(self, linear: Linear, scale: float, prior: Tensor) -> Linear:  # noqa: ARG002  (see `Task`)
        """As it is."""
        return Linear(scale * linear.weight, scale * linear.bias)

    def learned(self, prior: Tensor, judged: Mapping[str, tuple[Tensor, float]]) -> Tensor:
        """e_m: what the chosen closed form left of the variance of samples that it had not seen."""
        new = prior.clone()
        for modality, (loss, number) in judged.items():
            left = 2 * loss / number if number else torch.ones_like(loss)
            new[2 + self.modalities.index(modality)] = left.clamp(SMALLEST, 1.0)
        return new

    # --- evaluation -----------------------------------------------------------------------------------------------------------------

    def tally(self, logits: Tensor, labels: Tensor, prior: Tensor) -> NumberTally:
        """Sums of errors and squares, in the units of the labels."""
        return NumberTally.of(self.answers(logits.double(), prior.double()), labels.double(), prior[0].double())

    def answers(self, logits: Tensor, prior: Tensor) -> Tensor:
        """μ + τ ŷ, in the units of the labels."""
        return prior[0] + prior[1] * logits
