"""Numbers: mean absolute and root mean squared error in the units of the labels, R², Pearson's correlation.

K targets, N samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NumberTally:
    """Sums over the samples of one subset of modalities, each (K,) float64."""

    number: Tensor
    absolute: Tensor
    """Σ |ŷ − y|"""
    squared: Tensor
    """Σ (ŷ − y)²"""
    actual: Tensor
    """Σ (y − shift)"""
    actual_squared: Tensor
    predicted: Tensor
    """Σ (ŷ − shift)"""
    predicted_squared: Tensor
    product: Tensor
    """Σ (y − shift)(ŷ − shift)"""
    shift: Tensor
    """what is subtracted before squaring, so that digits are not lost; the same for all clients"""

    @classmethod
    def of(cls, predictions: Tensor, labels: Tensor, shift: Tensor) -> "NumberTally":
        """Count N samples with predictions and labels (N, K) float64."""
        y, p, gap = labels - shift, predictions - shift, predictions - labels
        number = torch.full_like(shift, float(len(labels)))
        sums = (gap.abs().sum(0), gap.square().sum(0), y.sum(0), y.square().sum(0), p.sum(0), p.square().sum(0), (y * p).sum(0))
        return cls(number, *sums, shift)

    def metrics(self) -> dict[str, float | None]:
        """r2, pearson, mae, rmse, each the mean over the targets, loss (half of the squared error) and samples. A target that is always
        the same has neither r2 nor pearson, and predictions that are have no pearson."""
        number = self.number
        actual = self.actual_squared - self.actual**2 / number
        predicted = self.predicted_squared - self.predicted**2 / number
        product = self.product - self.actual * self.predicted / number
        varies = actual > 1e-12 * self.actual_squared
        both = varies & (predicted > 1e-12 * self.predicted_squared)
        r2, pearson = (1 - self.squared / actual)[varies], (product / (actual * predicted).sqrt())[both]
        return {
            "r2": float(r2.mean()) if len(r2) else None,
            "pearson": float(pearson.mean()) if len(pearson) else None,
            "mae": float((self.absolute / number).mean()),
            "rmse": float((self.squared / number).sqrt().mean()),
            "loss": float((0.5 * self.squared / number).mean()),
            "samples": int(number[0]),
        }
