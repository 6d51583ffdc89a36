"""ROC-AUC, exact from scores and bounded from scores in bins. N samples, K classes."""

import torch
from torch import Tensor

BINS = 1000


def binned(probabilities: Tensor, member: Tensor) -> Tensor:
    """(K, 2, BINS) float64: per class, samples not of it / of it by their score's bin. Both arguments (N, K)."""
    classes = probabilities.shape[1]
    bins = (probabilities * BINS).long().clamp(max=BINS - 1)
    place = (torch.arange(classes) * 2 + member.long()) * BINS + bins
    return torch.bincount(place.flatten(), minlength=classes * 2 * BINS).reshape(classes, 2, BINS).double()


def auc_of_bins(scores: Tensor) -> tuple[float | None, float | None]:
    """(macro over the classes that have both members and others, bound on its error); None where there is no such class."""
    without, within = scores[:, 0], scores[:, 1]
    pairs = without.sum(1) * within.sum(1)
    below = without.cumsum(1) - without
    tied = (within * without).sum(1)
    defined = pairs > 0
    if not bool(defined.any()):
        return None, None
    value = ((within * below).sum(1) + 0.5 * tied)[defined] / pairs[defined]
    return float(value.mean()), float((0.5 * tied[defined] / pairs[defined]).mean())


def exact_auc(probabilities: Tensor, member: Tensor) -> Tensor:
    """() float64: one class against the rest, macro over the classes that have both members and others; ties count one half."""
    values = []
    for column in range(probabilities.shape[1]):
        own = member[:, column]
        positive, negative = probabilities[own, column], probabilities[~own, column]
        if len(positive) and len(negative):
            order = negative.sort().values
            below = torch.searchsorted(order, positive, right=False) + torch.searchsorted(order, positive, right=True)
            values.append(below.double().mean() / (2 * len(negative)))
    return torch.stack(values).mean() if values else torch.tensor(float("nan"), dtype=torch.float64)
