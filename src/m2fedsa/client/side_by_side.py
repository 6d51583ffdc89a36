"""What a client sums where all modalities of a sample count at once: features φ side by side, or the fused feature.

Legend: n labelled samples, K classes or targets, D width of φ, F fusion width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.client.sweep import Chunk, Sweep, pooled_features
from m2fedsa.messages import ALL, ClassSums, GlobalView, Summed
from m2fedsa.tasks import Task
from m2fedsa.tasks.task import Targets
from m2fedsa.warm_start import Moments


@dataclass(frozen=True)
class SideBySide:
    """Labelled samples that have at least one modality."""

    rows: Tensor
    """(n,) int64, ascending"""
    features: Tensor
    """φ (n, D), float64"""
    logits: Tensor
    """(n, K), float64: what is corrected by W φ, under the frequencies of the data"""

    @classmethod
    def of(cls, what: Summed, sweep: Sweep, chunks: Sequence[Chunk], view: GlobalView) -> "SideBySide":
        """`joint`: φ = [z_m of all modalities of the run, zero where one lacks; 1 for each that is there], corrects the prior.
        `fused`: φ = [f, 1], corrects s."""
        made = _joint if what == "joint" else _fused
        rows, features, logits = made(sweep, chunks)
        # Where classes count alike logits assume even frequencies; what is left unexplained is so under those of the data.
        return cls(rows, features, logits.double() - view.weights.double().log())

    def sums(self, what: Summed, task: Task, hard: Targets, inner: Tensor, half: Tensor) -> ClassSums:
        """Of the samples of a half (n,): with the labels of `joint`, which the fed server centres, or with what s leaves unexplained."""
        labels = hard.values[self.rows][:, : task.outputs]
        values = labels if what == "joint" else task.residual(self.logits, inner).double()
        return Moments.sums(self.features[half], functional.pad(values[half], (0, 1), value=1.0))

    def losses(self, task: Task, inner: Tensor, half: Tensor, weight: Tensor, scales: Sequence[float]) -> Tensor:
        """(scales,), or (scales, K): the loss of logits + scale W φ, summed over a half."""
        correction, labels = self.features[half] @ weight.T, inner[half]
        return torch.stack([task.judged(self.logits[half] + scale * correction, labels) for scale in scales])


def _joint(sweep: Sweep, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor, Tensor]:
    pooled = pooled_features(chunks)
    rows = torch.unique(torch.cat([found for found, _ in pooled.values()]))
    blocks, there = [], []
    for modality in sweep.blueprint.modalities:
        block, present = torch.zeros(len(rows), sweep.blueprint.widths[modality].pooled, dtype=torch.float64), torch.zeros(len(rows))
        if modality in pooled:
            found, z = pooled[modality]
            places = torch.searchsorted(rows, found)
            block[places], present[places] = z.double(), 1.0
        blocks.append(block)
        there.append(present.double())
    return rows, torch.cat([*blocks, torch.stack(there, 1)], 1), sweep.log_prior.expand(len(rows), -1)


def _fused(sweep: Sweep, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor, Tensor]:
    rows, logits = sweep.logits([ALL], chunks)[ALL]
    order = rows.argsort()
    fused = torch.cat([chunk.reply.fused[ALL].cpu() for chunk in chunks]).double()
    return rows[order], functional.pad(fused, (0, 1), value=1.0)[order], logits[order]
