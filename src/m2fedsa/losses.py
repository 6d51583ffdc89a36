"""The losses of a step, on the client.

Legend: B batch, B_m its rows that have modality m, K classes or targets; p_m unimodal logits, s fused logits. Unimodal logits estimate the
posterior under the global class frequencies π; `adjustment` is log(π_u/π), with which a client's own frequencies π_u take π's place.
What these words mean where a sample has several classes, or numbers, is said by `tasks`.

A researcher's own loss is any callable of the form of `Loss`: it receives `Predictions` and returns `Losses`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.data.samples import labelled
from m2fedsa.messages import Phase
from m2fedsa.tasks import Task


@dataclass(frozen=True)
class Predictions:
    """What a client holds after one forward, and what it knows of its batch."""

    unimodal: Mapping[str, Tensor]
    """p_m (B_m, K)"""
    rows: Mapping[str, Tensor]
    """(B_m,) int64: the batch's rows that have modality m"""
    fused: Tensor
    """s (B, K)"""
    counts: Tensor
    """M_i (B,): how many modalities of the sample entered fusion"""
    labels: Tensor
    """as `Samples.labels`: (B,) int64, `UNLABELLED` where there is none; (B, K) where there are several classes, or numbers, these in units
    of the global standard deviation around the global mean"""
    adjustment: Tensor
    """(K,): log(π_u/π); zero where the loss is not prior-adjusted. Of numbers (2, K), see `tasks.Regression`"""
    teachers: Mapping[str, Tensor]
    """m -> s̄ + log(π̄_u/π) (B, K): fixed teacher logits of unlabelled samples, NaN elsewhere; no modality where there are none"""
    teacher_adjustments: Mapping[str, Tensor]
    """m -> (K,): log(π̄_u/π), for the student"""
    task: Task
    """what a label is, and what follows from it"""
    weights: Tensor
    """(K,) of classes in the supervised loss; ones unless classes are to count alike"""
    variances: Mapping[str, Tensor]
    """how uncertain p_m and, under `fused`, s are, where that is no part of them; empty for classes"""
    teacher_weights: Mapping[str, Tensor] = field(default_factory=dict)
    """m -> (B,): how much a sample that has a teacher counts, of no meaning elsewhere; no modality where they count alike"""

    def adjusted(self, name: str) -> Tensor:
        """p_m of this modality, or s for `fused`, under the client's own class frequencies."""
        logits = self.fused if name == "fused" else self.unimodal[name]
        return self.task.adjusted(logits, self.adjustment, self.variances.get(name))


@dataclass(frozen=True)
class Losses:
    """`total` is differentiated; the others are reported: per-sample means over the samples they are of, with their number."""

    total: Tensor
    """() with a graph, also for a batch without a label"""
    reported: Mapping[str, tuple[Tensor, int]]
    """name -> (mean, samples): one per modality, `fused`, and `fused_multimodal`, of labelled samples of several modalities alone; no
    entry where there was no such sample"""


class Loss(Protocol):
    """The loss of one batch in one phase, with the weights λ of the transfer phase.

    It reports what `Losses.reported` names: `transfer.start = "plateau"` watches `fused_multimodal` and never begins without it. Labels may
    be missing, in the transfer phase for a whole batch. λ1 and λ2 are its own to use; the main server adds λ3 times the term at
    feature level. (A complete example: docs/own_parts.md.)
    """

    def __call__(self, predictions: Predictions, phase: Phase, weights: tuple[float, float, float]) -> Losses:
        """See the class."""


LEAST_DIVISOR = 1.0
"""Of the decision-level term: its divisor tends to zero on well-fitted samples, and the term would run away."""


def step_loss(
    predictions: Predictions, phase: Phase, weights: tuple[float, float, float], *, least_divisor: float = LEAST_DIVISOR
) -> Losses:
    """The loss of the specification. (Section "One training step", step 3.)

    Fusion phase: Σ_m ce_m + ce_s. Transfer phase: Σ_m [λ1 (ce_m + ce_s / M_i) + λ2 ℓ_dt,m], to which the main server adds λ3 ℓ_ft,m;
    and for unlabelled samples Σ_m mean KL(s̄ ‖ p_m), both under the client's soft class frequencies.
    """
    task, labels, counts = predictions.task, predictions.labels, predictions.counts
    known = labelled(labels)
    zero = predictions.fused.sum() * 0.0
    total, reported = zero, {}
    fused_ce = task.losses(predictions.adjusted("fused"), labels, predictions.weights)
    fused_mean = _mean(fused_ce, known)
    if fused_mean is not None:
        reported["fused"] = (fused_mean.detach(), int(known.sum()))
        several = known & (counts > 1)
        mean_several = _mean(fused_ce.detach(), several)
        if mean_several is not None:
            reported["fused_multimodal"] = (mean_several, int(several.sum()))
        if phase == "fusion":
            total = total + fused_mean
    for modality, index in predictions.rows.items():
        own = known[index]
        ce = _mean(task.losses(predictions.adjusted(modality), labels[index], predictions.weights), own)
        if ce is not None:
            reported[modality] = (ce.detach(), int(own.sum()))
        if phase == "fusion":
            total = total if ce is None else total + ce
        else:
            total = total + _transfer(predictions, modality, ce, fused_ce, fused_mean, weights, least_divisor)
    return Losses(total, reported)


def paper_loss(predictions: Predictions, phase: Phase, weights: tuple[float, float, float]) -> Losses:
    """The same with ℓ_dt,m as the paper has it (`transfer.form = "paper"`): divided by ce_m + ce_s, however small."""
    return step_loss(predictions, phase, weights, least_divisor=0.0)


def _transfer(
    predictions: Predictions,
    modality: str,
    ce: Tensor | None,
    fused_ce: Tensor,
    fused_mean: Tensor | None,
    weights: tuple[float, float, float],
    least_divisor: float,
) -> Tensor:
    """One modality's share of the transfer phase's loss, without the feature-level term."""
    index, logits = predictions.rows[modality], predictions.unimodal[modality]
    known, counts = labelled(predictions.labels)[index], predictions.counts[index]
    share = logits.sum() * 0.0
    if ce is not None and fused_mean is not None:
        fused_share = _mean(fused_ce[index] / counts, known)
        assert fused_share is not None
        share = share + weights[0] * (ce + fused_share)
        taught = _mean(predictions.task.divergence(predictions.fused[index], logits), known & (counts > 1))
        if taught is not None:
            share = share + weights[1] * taught / (ce + fused_mean).detach().clamp(min=least_divisor)
    if modality in predictions.teachers:
        share = share + _unlabelled(predictions, modality)
    return share


def _unlabelled(predictions: Predictions, modality: str) -> Tensor:
    """Mean KL(softmax((s̄ + log π̄_u/π) / τ) ‖ softmax(p_m + log π̄_u/π)) over the rows that have a teacher, by their weights."""
    teacher, logits = predictions.teachers[modality][predictions.rows[modality]], predictions.unimodal[modality]
    student = predictions.task.adjusted(logits, predictions.teacher_adjustments[modality], predictions.variances.get(modality))
    apart, taught = predictions.task.divergence(teacher.nan_to_num(), student), ~teacher[:, 0].isnan()
    mean = _mean(apart, taught)
    if mean is None:
        return logits.sum() * 0.0
    if modality in predictions.teacher_weights:
        weights = predictions.teacher_weights[modality][predictions.rows[modality]][taught]
        return (weights * apart[taught]).sum() / weights.sum()
    return mean


def _mean(values: Tensor, mask: Tensor) -> Tensor | None:
    """Mean of the values under the mask; None where it is empty."""
    number = int(mask.sum())
    return None if number == 0 else torch.where(mask, values, 0.0).sum() / number


def feature_transfer(token: Tensor, teacher: Tensor) -> Tensor:
    """ℓ_ft,m = 1 − mean cos(t_m, f_att), f_att constant; both (B, F). The main server computes it. (Section "One training step".)"""
    return 1.0 - functional.cosine_similarity(token, teacher.detach(), dim=1).mean()
