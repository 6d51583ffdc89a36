"""What several kinds of tasks share: opinions of modalities joined, compared, and put under a client's own class frequencies.

Legend: B batch, B_m its rows that have modality m, K classes or targets; p_m unimodal logits, s fused logits, π class frequencies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

EXPECTATIONS = 20
"""Rounds of expectation-maximisation; the guess hardly moves after ten."""


def fused_logits(
    correction: Tensor, unimodal: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, log_prior: Tensor, *, late: bool
) -> Tensor:
    """s = C_f(f) + Σ_m p_m − (M_i − 1) log π, over the modalities that enter fusion (B, K); `late = False`: C_f(f) alone.

    `entering` (B, M) has its columns in the order of `unimodal`. (Section "Fusion".)
    """
    if not late:
        return correction
    total = correction
    for column, (modality, logits) in enumerate(unimodal.items()):
        index = rows[modality]
        present = entering[index, column]
        if not bool(present.all()):
            index, logits = index[present], logits[present]
        total = total.index_add(0, index, logits)
    spare = entering.sum(1, keepdim=True).to(log_prior.dtype) - 1
    return total - spare * log_prior


def decision_transfer(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(s) ‖ softmax(p_m)) per sample (B,), s constant. (Section "One training step", ℓ_dt.)"""
    target = functional.log_softmax(teacher.detach(), dim=1)
    return functional.kl_div(functional.log_softmax(student, dim=1), target, reduction="none", log_target=True).sum(1)


def own_frequencies(logits: Tensor, log_prior: Tensor, counts: Tensor) -> Tensor:
    """π̄_u (K,): a client's class frequencies from logits (N, K) under π and the class counts (K,) of its labelled samples, in float64.

    Expectation-maximisation (Saerens, Latinne, Decaestecker 2002): the posteriors under the present guess are the next guess's counts.
    A client of few classes so learns which they are, and its soft labels are of these.
    """
    s, known = logits.to(torch.float64), counts.to(torch.float64)
    guess = smoothed(known + s.softmax(1).sum(0))
    for _ in range(EXPECTATIONS):
        guess = smoothed(known + (s + guess.log() - log_prior.to(torch.float64)).softmax(1).sum(0))
    return guess


def smoothed(counts: Tensor) -> Tensor:
    """Frequencies (K,) from counts (K,), smoothed by 0.5 per class."""
    frequencies: Tensor = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return frequencies
