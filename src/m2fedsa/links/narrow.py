"""Numbers in fewer bits while they travel: bfloat16, or int8 with one scale per row.

A row is what lies along the last dimension in memory: the channels of a token. A row with a number that is not finite arrives as NaN
throughout, so that nothing that diverged passes as a finite number.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Width = Literal["float32", "bfloat16", "int8"]
"""How numbers travel in one direction; `float32`: as they were computed, to the bit."""
WIDTHS: tuple[Width, ...] = get_args(Width)
CODES = 127
"""The largest code of int8."""


def narrowed(tensor: Tensor, width: Width) -> tuple[Width, list[Tensor]]:
    """The parts of a contiguous tensor that travel, and how they are to be read. Whole numbers and what is narrow already stay as they
    are: "float32" and the tensor itself."""
    if width == "float32" or not tensor.is_floating_point() or tensor.element_size() <= 2 or tensor.dim() == 0:
        return "float32", [tensor]
    if width == "bfloat16":
        return width, [tensor.to(torch.bfloat16)]
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.numel() else tensor.reshape(0, 1)
    scales = rows.abs().amax(1).float() / CODES if len(rows) else torch.zeros(0)
    divisors = torch.where(scales > 0, scales, 1.0)  # NaN and rows of zeros: the scale tells
    codes = (rows / divisors[:, None]).round().nan_to_num(0.0).clamp(-CODES, CODES).to(torch.int8)
    return width, [codes.reshape(tensor.shape), scales]


def widened(parts: list[Tensor], width: Width, dtype: torch.dtype) -> Tensor:
    """What `narrowed` was given, up to rounding, in its own type."""
    if width == "float32":
        return parts[0]
    if width == "bfloat16":
        return parts[0].to(dtype)
    codes, scales = parts
    if not codes.numel():
        return codes.to(dtype)
    rows = codes.reshape(-1, codes.shape[-1]).to(torch.float32) * scales[:, None]
    return rows.reshape(codes.shape).to(dtype)


def layout(shape: tuple[int, ...], width: Width, dtype: torch.dtype) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of the parts of a tensor that travels like this."""
    if width == "float32":
        return [(dtype, shape)]
    if width == "bfloat16":
        return [(torch.bfloat16, shape)]
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return [(torch.int8, shape), (torch.float32, (rows if shape and shape[-1] else 0,))]
