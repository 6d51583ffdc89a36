"""Batches without the padding that nobody needs.

A client keeps its texts padded to its longest one. A batch needs no more tokens than its own longest text has: what lies behind is cut
off, and a sample's result stays the same within rounding, if its encoder takes no notice of masked tokens. Whether it does is tried.

B batch, T tokens, D_h width at the cut.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from m2fedsa.messages import InputSpec
from m2fedsa.models.cut import Head, Tail, specify

MULTIPLE = 8
"""Lengths are rounded up to it: few shapes are met again and again."""
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""relative; what rounding may make of a sum of fewer terms (MiniLM on titles of products: 9e-7). Wider types are coarser."""


def shortened(hidden: Tensor, mask: Tensor | None, inputs: Mapping[str, InputSpec]) -> tuple[Tensor, Tensor | None, dict[str, InputSpec]]:
    """Hidden states (B, T, D_h), mask (B, T) and input shapes without the tokens behind the last that any sample of the batch has."""
    if mask is None or not per_token(hidden, mask):
        return hidden, mask, dict(inputs)
    whole = mask.shape[1]
    used = int(mask.any(0).nonzero().max()) + 1 if bool(mask.any()) else 1
    length = min(whole, -(-used // MULTIPLE) * MULTIPLE)
    if length == whole:
        return hidden, mask, dict(inputs)
    specs = {
        name: InputSpec((spec.shape[0], length, *spec.shape[2:]), spec.dtype) if spec.shape[1:2] == (whole,) else spec
        for name, spec in inputs.items()
    }
    return hidden[:, :length], mask[:, :length], specs


def per_token(hidden: Tensor, mask: Tensor) -> bool:
    """Whether the mask speaks of the tokens at the cut; that of a sound's samples speaks of something else."""
    return mask.dim() == 2 and hidden.dim() == 3 and mask.shape == hidden.shape[:2]


@torch.no_grad()
def takes_no_notice(head: Head, tail: Tail, example: Mapping[str, Tensor]) -> bool:
    """Whether the encoder gives a text of half the length the same features with its padding and without."""
    name = head.mask_argument
    if name is None or name not in example or example[name].dim() != 2 or example[name].shape[1] <= MULTIPLE:
        return False
    mask = torch.ones_like(example[name])
    mask[:, mask.shape[1] // 2 :] = 0
    inputs = {**example, name: mask}
    hidden, specs = head(inputs), specify(inputs)
    if not per_token(hidden, mask):
        return False
    long = tail(hidden, mask, specs)
    try:
        short = tail(*shortened(hidden, mask, specs))
    except (RuntimeError, ValueError, IndexError):
        return False
    gap = (long - short).abs().max()
    return bool(gap <= _TOLERANCE.get(long.dtype, 0.05) * long.abs().max())
