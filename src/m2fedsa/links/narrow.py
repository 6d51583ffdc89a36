"""Numbers in fewer bits while they travel: bfloat16, or int8 with one scale per row.

A row is what lies along the last dimension in memory: the channels of a token. A row with a number that is not finite arrives as NaN
throughout, so that nothing that diverged passes as a finite number.
"""

import math
from collections.abc import Iterable
from typing import get_args

import torch
from torch import Tensor

from m2fedsa.config import Width
from m2fedsa.models.layout import pack

WIDTHS: tuple[Width, ...] = get_args(Width)
CODES = 127
"""The largest code of int8."""


def narrowed(tensor: Tensor, width: Width) -> tuple[Width, list[Tensor]]:
    """The parts of a contiguous tensor that travel, and how they are to be read. Whole numbers and what is narrow already stay as they
    are: "float32" and the tensor itself."""
    width = _width(tensor, width)
    if width == "float32":
        return width, [tensor]
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


def payload(tensors: Iterable[Tensor], width: Width) -> int:
    """Bytes of the values of some tensors as they travel."""
    whole = 0
    for tensor in tensors:
        packed, _ = pack(tensor.detach())
        whole += sum(math.prod(sizes) * kind.itemsize for kind, sizes in layout(tuple(packed.shape), _width(packed, width), packed.dtype))
    return whole


def _width(tensor: Tensor, wanted: Width) -> Width:
    """How it travels where this is wanted: whole numbers, single ones and what is narrow already stay as they are."""
    stays = not tensor.is_floating_point() or tensor.element_size() <= 2 or tensor.dim() == 0
    return "float32" if stays else wanted
