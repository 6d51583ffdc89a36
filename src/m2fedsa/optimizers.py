"""The optimiser of a party's round and the clipping of its gradients; the same on both sides."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with fresh state over parameter groups that carry their rate. Tensors without a gradient neither move nor decay."""
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def clip(parameters: Iterable[Tensor], largest: float) -> float:
    """Scale all gradients so that their common norm is at most `largest`; returns the norm before, which may be infinite or NaN."""
    return float(torch.nn.utils.clip_grad_norm_(list(parameters), largest))


def cosine(number: int, rounds: int) -> float:
    """Factor of the learning rate in round `number` (1 … rounds): 1 in the first, falling along a half cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * (number - 1) / rounds))
