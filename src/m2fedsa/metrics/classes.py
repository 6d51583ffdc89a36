"""One class of several: accuracy, unweighted average recall (UAR), macro-F1, ROC-AUC (one class against the rest, macro).

K classes, N samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from m2fedsa.metrics.curves import BINS, auc_of_bins, binned, exact_auc

__all__ = ["BINS", "ClassTally"]


@dataclass(frozen=True)
class ClassTally:
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
    def of(cls, logits: Tensor, labels: Tensor) -> "ClassTally":
        """Count N samples with logits (N, K) and labels (N,) int64."""
        classes = logits.shape[1]
        probabilities = logits.to(torch.float64).softmax(1)
        index = labels * classes + logits.argmax(1)
        confusion = torch.bincount(index, minlength=classes * classes).reshape(classes, classes)
        member = torch.nn.functional.one_hot(labels, classes).bool()
        loss = torch.nn.functional.cross_entropy(logits.to(torch.float64), labels, reduction="sum")
        return cls(confusion.double(), binned(probabilities, member), loss, exact_auc(probabilities, member))

    def metrics(self) -> dict[str, float | None]:
        """accuracy, uar, macro_f1, auc, auc_error, loss, samples; classes without samples do not count in uar and auc."""
        hits, actual, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        number = actual.sum()
        occurs = actual > 0
        recall = hits[occurs] / actual[occurs]
        either = (actual + predicted) > 0
        f1 = 2 * hits[either] / (actual + predicted)[either]
        auc, error = auc_of_bins(self.scores) if bool(self.auc.isnan()) else (float(self.auc), 0.0)
        return {
            "accuracy": float(hits.sum() / number),
            "uar": float(recall.mean()),
            "macro_f1": float(f1.mean()),
            "auc": auc,
            "auc_error": error,
            "loss": float(self.loss / number),
            "samples": int(number),
        }
