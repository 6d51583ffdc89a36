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


@dataclass(frozen=True)
class Discriminant:
    """Linear logits without their prior: weight (K, D_z), bias (K,), both float64."""

    weight: Tensor
    bias: Tensor


def class_sums(features: Tensor, targets: Tensor) -> ClassSums:
    """Sums of features (N, D_z) under targets (N, K): one-hot labels, or soft ones."""
    z, q = features.to(torch.float64), targets.to(torch.float64)
    return ClassSums(q.sum(0), q.T @ z, (z * q.sum(1, keepdim=True)).T @ z)


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
        return ClassSums(y.sum(0), y.T @ z, z.T @ z)

    @classmethod
    def of(cls, sums: ClassSums) -> "Moments":
        """From such sums over all clients."""
        number = sums.counts[-1]
        means, centre = sums.counts[:-1] / number, sums.sums[-1] / number
        cross = sums.sums[:-1] / number - means[:, None] * centre
        return cls(means, centre, cross, sums.products / number - centre[:, None] * centre)


def ridge_direction(moments: Moments, shrinkage: float) -> Tensor:
    """(K, D_z): ((1 − ρ) S + ρ tr(S)/D · I)⁻¹ applied to each row of `cross`, S the scatter.

    Times 1 − ρ this is ridge regression with the penalty N ρ/(1 − ρ) tr(S)/D on the squared weights, its intercept free.
    """
    width = len(moments.centre)
    scale = moments.scatter.trace() / width
    # Features that are all constant have no scatter at all; the identity keeps the solution finite.
    identity = torch.eye(width, dtype=torch.float64) * torch.where(scale > 0, scale, torch.ones_like(scale))
    solved: Tensor = torch.linalg.solve((1 - shrinkage) * moments.scatter + shrinkage * identity, moments.cross.T).T
    return solved


def residual_ridge(sums: ClassSums, shrinkage: float) -> Tensor:
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


def centred(sums: ClassSums) -> ClassSums:
    """Sums of targets y as those of y − ȳ: Σ (y − ȳ) φᵀ = Σ y φᵀ − ȳ Σ φᵀ."""
    mean = sums.counts[:-1] / sums.counts[-1]
    counts = torch.cat([torch.zeros_like(mean), sums.counts[-1:]])
    return ClassSums(counts, torch.cat([sums.sums[:-1] - mean[:, None] * sums.sums[-1], sums.sums[-1:]]), sums.products)


def total(parts: Iterable[Mapping[str, ClassSums]]) -> dict[str, ClassSums]:
    """Sums per modality over parts, in the order given."""
    result: dict[str, ClassSums] = {}
    for part in parts:
        for modality, sums in part.items():
            result[modality] = result[modality] + sums if modality in result else sums
    return result


def discriminant(sums: ClassSums, shrinkage: float) -> Discriminant:
    """Linear discriminant analysis: Σ_w shrunk towards tr(Σ_w)/D · I; classes without samples get the global mean.

    logit_c(z) = μ_cᵀ Σ⁻¹ z − ½ μ_cᵀ Σ⁻¹ μ_c (+ log π_c, which the caller adds).
    """
    number = sums.counts.sum()
    overall = sums.sums.sum(0) / number
    seen = sums.counts > 0
    means = torch.where(seen[:, None], sums.sums / sums.counts.clamp(min=1e-300)[:, None], overall)
    within = (sums.products - (means * sums.counts[:, None]).T @ means) / number
    width = within.shape[0]
    scale = within.trace() / width
    # A width of which all features are constant has no covariance at all; the identity keeps the solution finite.
    identity = torch.eye(width, dtype=torch.float64) * torch.where(scale > 0, scale, torch.ones_like(scale))
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
