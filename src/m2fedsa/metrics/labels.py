"""Any number of classes a sample: accuracy over all answers, whole samples right, F1 over all answers and per class, ROC-AUC.

K classes, N samples. A class is said to be there where its probability is above one half.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from m2fedsa.metrics.curves import auc_of_bins, binned, exact_auc


@dataclass(frozen=True)
class LabelTally:
    """Sums over the samples of one subset of modalities."""

    confusion: Tensor
    """(K, 2, 2) float64: per class, whether it is there by whether it is said to be"""
    right: Tensor
    """() float64: samples of which every class is told rightly"""
    scores: Tensor
    """(K, 2, BINS) float64: per class, samples without it / with it by their score's bin"""
    loss: Tensor
    """() float64: binary cross-entropy, the mean over the classes, summed over samples"""
    auc: Tensor
    """() float64: the exact AUC of these samples; NaN once tallies of several clients are merged, or where it is undefined"""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "LabelTally":
        """Count N samples with logits (N, K) and labels (N, K) of zeros and ones."""
        s, there = logits.to(torch.float64), labels.bool()
        said, classes = s > 0, logits.shape[1]
        place = torch.arange(classes) * 4 + there.long() * 2 + said.long()
        confusion = torch.bincount(place.flatten(), minlength=classes * 4).reshape(classes, 2, 2).double()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(s, there.double(), reduction="none").mean(1).sum()
        probabilities = s.sigmoid()
        return cls(confusion, (said == there).all(1).double().sum(), binned(probabilities, there), loss, exact_auc(probabilities, there))

    def metrics(self) -> dict[str, float | None]:
        """accuracy (of all answers), exact_match, uar (mean of the recall of both answers), micro_f1, macro_f1, auc, auc_error, loss,
        samples. Classes that nobody has and nobody is said to have do not count in macro_f1; those all or none have not in uar and auc."""
        number = self.confusion[0].sum()
        hits, actual, predicted = self.confusion[:, 1, 1], self.confusion[:, 1].sum(1), self.confusion[:, :, 1].sum(1)
        either = (actual + predicted) > 0
        f1 = 2 * hits[either] / (actual + predicted)[either]
        both = (actual > 0) & (actual < number)
        recall = (hits / actual + self.confusion[:, 0, 0] / (number - actual))[both] / 2
        auc, error = auc_of_bins(self.scores) if bool(self.auc.isnan()) else (float(self.auc), 0.0)
        return {
            "accuracy": float((hits + self.confusion[:, 0, 0]).sum() / (number * len(hits))),
            "exact_match": float(self.right / number),
            "uar": float(recall.mean()) if len(recall) else None,
            "micro_f1": float(2 * hits.sum() / (actual + predicted).sum()) if bool(either.any()) else None,
            "macro_f1": float(f1.mean()) if bool(either.any()) else None,
            "auc": auc,
            "auc_error": error,
            "loss": float(self.loss / number),
            "samples": int(number),
        }
