"""Metrics over the union of clients from sums that merge.

K classes, N samples. A client sends a `Tally` per subset of modalities, never a prediction; tallies add up, and accuracy, unweighted
average recall (UAR) and macro-F1 of their sum are exact. ROC-AUC (one class against the rest, macro) comes from scores in `BINS` bins,
with a bound on its error; where all samples lie with one client it is exact. (Section "Evaluation".)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 1000


@dataclass(frozen=True)
class Tally:
    """Sums over the samples of one subset of modalities."""

    confusion: Tensor
    """(K, K) float64: true class by predicted class"""
    scores: Tensor
    """(K, 2, BINS) float64: per class, samples not of it / of it by their score's bin"""
    loss: Tensor
    """() float64: cross-entropy summed over samples"""
    auc: Tensor
    """() float64: the exact AUC of these samples; NaN once tallies of several clients are merged, or where it is undefined"""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "Tally":
        """Count N samples with logits (N, K) and labels (N,) int64."""
        classes = logits.shape[1]
        probabilities = logits.to(torch.float64).softmax(1)
        index = labels * classes + logits.argmax(1)
        confusion = torch.bincount(index, minlength=classes * classes).reshape(classes, classes)
        bins = (probabilities * BINS).long().clamp(max=BINS - 1)
        hit = torch.nn.functional.one_hot(labels, classes)
        place = (torch.arange(classes) * 2 + hit) * BINS + bins
        scores = torch.bincount(place.flatten(), minlength=classes * 2 * BINS).reshape(classes, 2, BINS)
        loss = torch.nn.functional.cross_entropy(logits.to(torch.float64), labels, reduction="sum")
        return cls(confusion.double(), scores.double(), loss, _exact_auc(probabilities, labels))

    @classmethod
    def merge(cls, tallies: Iterable["Tally"]) -> "Tally":
        """The tally of all samples together."""
        parts = list(tallies)
        if len(parts) == 1:
            return parts[0]
        stack = {name: torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("confusion", "scores", "loss")}
        return cls(**stack, auc=torch.tensor(float("nan"), dtype=torch.float64))

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for a message."""
        return {"confusion": self.confusion, "scores": self.scores, "loss": self.loss, "auc": self.auc}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Tally":
        """The inverse of `tensors`."""
        return cls(**tensors)

    def metrics(self) -> dict[str, float | None]:
        """accuracy, uar, macro_f1, auc, auc_error, loss, samples; classes without samples do not count in uar and auc."""
        hits, actual, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        number = actual.sum()
        occurs = actual > 0
        recall = hits[occurs] / actual[occurs]
        either = (actual + predicted) > 0
        f1 = 2 * hits[either] / (actual + predicted)[either]
        auc, error = self._auc()
        return {
            "accuracy": float(hits.sum() / number),
            "uar": float(recall.mean()),
            "macro_f1": float(f1.mean()),
            "auc": auc,
            "auc_error": error,
            "loss": float(self.loss / number),
            "samples": int(number),
        }

    def _auc(self) -> tuple[float | None, float | None]:
        """(value, bound on its error); None where no class has both members and others."""
        if not bool(self.auc.isnan()):
            return float(self.auc), 0.0
        without, within = self.scores[:, 0], self.scores[:, 1]
        pairs = without.sum(1) * within.sum(1)
        below = without.cumsum(1) - without
        tied = (within * without).sum(1)
        defined = pairs > 0
        if not bool(defined.any()):
            return None, None
        value = ((within * below).sum(1) + 0.5 * tied)[defined] / pairs[defined]
        return float(value.mean()), float((0.5 * tied[defined] / pairs[defined]).mean())


def _exact_auc(probabilities: Tensor, labels: Tensor) -> Tensor:
    """One class against the rest, macro over the classes that have both members and others; ties count one half."""
    values = []
    for column in range(probabilities.shape[1]):
        member = labels == column
        positive, negative = probabilities[member, column], probabilities[~member, column]
        if len(positive) and len(negative):
            order = negative.sort().values
            below = torch.searchsorted(order, positive, right=False) + torch.searchsorted(order, positive, right=True)
            values.append(below.double().mean() / (2 * len(negative)))
    return torch.stack(values).mean() if values else torch.tensor(float("nan"), dtype=torch.float64)
