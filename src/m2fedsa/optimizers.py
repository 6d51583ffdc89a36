"""The optimiser of a party's round and the clipping of its gradients; the same on both sides."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from m2fedsa.config import RESERVED_NAMES as SHARED


def adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with fresh state over parameter groups that carry their rate. Tensors without a gradient neither move nor decay."""
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def clip(parameters: Iterable[Tensor], largest: float) -> float:
    """Scale all gradients so that their common norm is at most `largest`; returns the norm before.

    Where that is infinite or NaN nothing is scaled: the gradient at fault can still be told from the others.
    """
    gradients = list(parameters)
    norm = torch.nn.utils.get_total_norm([tensor.grad for tensor in gradients if tensor.grad is not None])
    if math.isfinite(float(norm)):
        torch.nn.utils.clip_grads_with_norm_(gradients, largest, norm)
    return float(norm)


def attract(trained: Mapping[str, Tensor], anchors: Mapping[str, Tensor], proximal: float) -> None:
    """Add μ (w − w₀) to the gradients: that of μ/2 ‖w − w₀‖², w₀ the tensors that the round began with. (FedProx, Li et al. 2020.)"""
    for name, parameter in trained.items():
        assert parameter.grad is not None
        parameter.grad.add_(parameter.detach() - anchors[name], alpha=proximal)


def culprit(trained: Mapping[str, Tensor]) -> str:
    """Whose gradient is not finite: `modality image (image.ta.up.weight)`, or the part that belongs to none."""
    for name, parameter in sorted(trained.items()):
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            first = name.partition(".")[0]
            return f"{'the fused part' if first in SHARED else f'modality {first}'} ({name})"
    return "all modalities together (their norm overflows)"


def cosine(number: int, rounds: int) -> float:
    """Factor of the learning rate in round `number` (1 … rounds): 1 in the first, falling along a half cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * (number - 1) / rounds))
