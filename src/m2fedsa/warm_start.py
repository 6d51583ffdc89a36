"""Classifiers in closed form from per-client sums, before the first round.

Linear discriminant analysis with shrinkage needs only n_c, Σ_c z and Σ z zᵀ, ridge regression N, Σ y, Σ z, Σ y zᵀ and Σ z zᵀ: from the
clients' sums the classifiers are exact, as if the data were pooled. N samples, K classes or targets, D_z width of the pooled features.
(Section "Warm start".)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m2fedsa.messages import ClassSums

_ROUNDING = 1e-13
"""Of a mean square, what is taken for rounding."""


@dataclass(frozen=True)
class Discriminant:
    """Linear logits without their prior: weight (K, D_z), bias (K,), both float64."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Sums:
    """Of one client or of many, float64: see `ClassSums`."""

    counts: Tensor
    sums: Tensor
    products: Tensor
    """Σ z zᵀ (D_z, D_z)"""

    @classmethod
    def of(cls, sent: ClassSums) -> "Sums":
        """What a client has sent, its factor multiplied out."""
        width = sent.sums.shape[1]
        factor = torch.zeros(rows_of(sent.factor.numel(), width), width, dtype=torch.float64)
        factor[_upper(factor)] = sent.factor
        return cls(sent.counts, sent.sums, factor.T @ factor)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.counts + other.counts, self.sums + other.sums, self.products + other.products)


def factor_of(features: Tensor) -> Tensor:
    """See `ClassSums.factor`; of features (N, D_z), float64."""
    _, factor = torch.linalg.qr(features, mode="r")
    # One factor of the many: that which the sum itself decides.
    signed: Tensor = factor * torch.where(factor.diagonal() < 0, -1.0, 1.0)[:, None]
    return signed[_upper(signed)]


def numbers_of(rows: int, width: int) -> int:
    """How many numbers a factor has."""
    return rows * width - rows * (rows - 1) // 2


def rows_of(numbers: int, width: int) -> int:
    """How many rows a factor of so many numbers has; the next fewer where none has so many."""
    return max(rows for rows in range(width + 1) if numbers_of(rows, width) <= numbers)


def _upper(factor: Tensor) -> Tensor:
    """(r, D) bool: on and above the diagonal."""
    return torch.ones_like(factor, dtype=torch.bool).triu()


def class_sums(features: Tensor, targets: Tensor) -> ClassSums:
    """Sums of features (N, D_z) under targets (N, K): one-hot labels, or soft ones."""
    z, q = features.to(torch.float64), targets.to(torch.float64)
    return ClassSums(q.sum(0), q.T @ z, factor_of(z * q.sum(1, keepdim=True).sqrt()))


@dataclass(frozen=True)
class Moments:
    """What ridge regression needs of N samples, around their means; float64."""

    means: Tensor
    """ȳ (K,)"""
    centre: Tensor
    """z̄ (D_z,)"""
    cross: Tensor
    """1/N Σ (y − ȳ)(z − z̄)ᵀ (K, D_z)"""
    scatter: Tensor
    """1/N Σ (z − z̄)(z − z̄)ᵀ (D_z, D_z)"""

    @staticmethod
    def sums(features: Tensor, targets: Tensor) -> ClassSums:
        """Sums of features (N, D_z) and targets (N, K + 1), the last of which is 1: Σ y and N, Σ y zᵀ and Σ zᵀ, Σ z zᵀ."""
        z, y = features.to(torch.float64), targets.to(torch.float64)
        return ClassSums(y.sum(0), y.T @ z, factor_of(z))

    @classmethod
    def of(cls, sums: Sums) -> "Moments":
        """From such sums over all clients."""
        number = sums.counts[-1]
        means, centre = sums.counts[:-1] / number, sums.sums[-1] / number
        cross = sums.sums[:-1] / number - means[:, None] * centre
        return cls(means, centre, cross, sums.products / number - centre[:, None] * centre)


def _spread(scatter: Tensor, size: Tensor) -> Tensor:
    """tr(S)/D (), or 1 where nothing of S but rounding is left. size: Σ z² of a sample, in the mean."""
    scale = scatter.trace() / len(scatter)
    return torch.where(scale > _ROUNDING * size / len(scatter), scale, torch.ones_like(scale))


def ridge_direction(moments: Moments, shrinkage: float) -> Tensor:
    """(K, D_z): ((1 − ρ) S + ρ tr(S)/D · I)⁻¹ applied to each row of `cross`, S the scatter.

    Times 1 − ρ this is ridge regression with the penalty N ρ/(1 − ρ) tr(S)/D on the squared weights, its intercept free.
    """
    width = len(moments.centre)
    # Features that are all constant have no scatter at all; the identity keeps the solution finite.
    identity = torch.eye(width, dtype=torch.float64) * _spread(moments.scatter, moments.centre @ moments.centre)
    solved: Tensor = torch.linalg.solve((1 - shrinkage) * moments.scatter + shrinkage * identity, moments.cross.T).T
    return solved


def residual_ridge(sums: Sums, shrinkage: float) -> Tensor:
    """(K, D): W of least 1/N Σ |r − W φ|² + ρ/(1−ρ) Σ_d G_dd |W_d|², G = 1/N Σ φφᵀ, from Σ r, N; Σ r φᵀ, Σ φᵀ; Σ φφᵀ.

    W = (1 − ρ) C ((1 − ρ) G + ρ diag G)⁻¹, C = 1/N Σ r φᵀ. The penalty follows each feature's own size, since those of several modalities
    stand side by side. An intercept is a feature that is 1.
    """
    number = sums.counts[-1]
    products, cross = sums.products / number, sums.sums[:-1] / number
    sizes = products.diagonal()
    # A feature that is always zero has no size; the identity keeps its weight at zero.
    penalty = torch.diag(torch.where(sizes > 0, shrinkage * sizes, torch.ones_like(sizes)))
    solved: Tensor = torch.linalg.solve((1 - shrinkage) * products + penalty, cross.T).T
    return (1 - shrinkage) * solved


def blocks_of(weight: Tensor, widths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """W (K, Σ D_m + M) of all modalities side by side as a weight (K, D_m) and a bias (K,) for each: the last M features tell which are
    there."""
    *parts, biases = torch.split(weight, [*widths, len(widths)], 1)
    return [(part, biases[:, place]) for place, part in enumerate(parts)]


def centred(sums: Sums) -> Sums:
    """Sums of targets y as those of y − ȳ: Σ (y − ȳ) φᵀ = Σ y φᵀ − ȳ Σ φᵀ."""
    mean = sums.counts[:-1] / sums.counts[-1]
    counts = torch.cat([torch.zeros_like(mean), sums.counts[-1:]])
    return Sums(counts, torch.cat([sums.sums[:-1] - mean[:, None] * sums.sums[-1], sums.sums[-1:]]), sums.products)


def total(parts: Iterable[Mapping[str, ClassSums]]) -> dict[str, Sums]:
    """Sums per modality over parts, in the order given."""
    result: dict[str, Sums] = {}
    for part in parts:
        for modality, sent in part.items():
            sums = Sums.of(sent)
            result[modality] = result[modality] + sums if modality in result else sums
    return result


def discriminant(sums: Sums, shrinkage: float) -> Discriminant:
    """Linear discriminant analysis: Σ_w shrunk towards tr(Σ_w)/D · I; classes without samples get the global mean.

    logit_c(z) = μ_cᵀ Σ⁻¹ z − ½ μ_cᵀ Σ⁻¹ μ_c (+ log π_c, which the caller adds).
    """
    number = sums.counts.sum()
    overall = sums.sums.sum(0) / number
    seen = sums.counts > 0
    means = torch.where(seen[:, None], sums.sums / sums.counts.clamp(min=1e-300)[:, None], overall)
    within = (sums.products - (means * sums.counts[:, None]).T @ means) / number
    width = within.shape[0]
    # A width of which all features are constant has no covariance at all; the identity keeps the solution finite.
    identity = torch.eye(width, dtype=torch.float64) * _spread(within, sums.products.trace() / number)
    shrunk = (1 - shrinkage) * within + shrinkage * identity
    weight = torch.linalg.solve(shrunk, means.T).T
    return Discriminant(weight, -0.5 * (weight * means).sum(1))


def best(losses: Mapping[str, Tensor], shrinkages: Sequence[float], scales: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Per modality the (shrinkage, scale) of least loss; `losses` (shrinkages, scales) or (shrinkages, scales, K), summed over clients.

    A table of zeros was judged on no sample at all: then the most careful candidate is taken, of the largest shrinkage and least scale.
    """
    chosen = {}
    for modality, losses_of in losses.items():
        table = losses_of.sum(-1) if losses_of.ndim > 2 else losses_of
        if not bool(table.any()):
            chosen[modality] = (max(shrinkages), min(scales))
            continue
        row, column = divmod(int(table.argmin()), len(scales))
        chosen[modality] = (shrinkages[row], scales[column])
    return chosen
