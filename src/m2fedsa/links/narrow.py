"""Numbers in fewer bits while they travel: bfloat16, or int8 with one scale per row.

A row is what lies together at the end of a tensor in memory: the channels of a token or, of maps that lie channel by channel, one map, and
all maps of a sample where these are so small that their scales would take more than the numbers save. A row with a number that is not
finite arrives as NaN throughout, so that nothing that diverged passes as a finite number.
"""

import math
from collections.abc import Iterable
from typing import get_args

import torch
from torch import Tensor

from m2fedsa.config import Width
from m2fedsa.models.layout import order_of
from m2fedsa.state import nbytes

WIDTHS: tuple[Width, ...] = get_args(Width)
CODES = 127
"""The largest code of int8."""
ROW = 16
"""Numbers that a row has at least, unless a sample has fewer: a scale takes four bytes."""


def narrowed(tensor: Tensor, width: Width) -> tuple[Width, list[Tensor]]:
    """The parts of a contiguous tensor that travel, and how they are to be read. Whole numbers and what is as narrow already stay as they
    are: "float32" and the tensor itself."""
    width = _width(tensor.dtype, tensor.dim(), width)
    if width == "float32":
        return width, [tensor]
    if width == "bfloat16":
        return width, [tensor.to(torch.bfloat16)]
    rows = tensor.reshape(-1, _row(tuple(tensor.shape)))
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
    rows = codes.reshape(len(scales), -1).to(torch.float32) * scales[:, None]
    return rows.reshape(codes.shape).to(dtype)


def layout(shape: tuple[int, ...], width: Width, dtype: torch.dtype) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of the parts of a tensor that travels like this."""
    if width == "float32":
        return [(dtype, shape)]
    if width == "bfloat16":
        return [(torch.bfloat16, shape)]
    return [(torch.int8, shape), (torch.float32, (math.prod(shape) // _row(shape),))]


def payload(tensors: Iterable[Tensor], width: Width) -> int:
    """Bytes of the values of some tensors as they travel."""
    if width == "float32":
        return nbytes(tensors)
    whole = 0
    for tensor in tensors:
        packed = tuple(tensor.shape[dimension] for dimension in order_of(tensor))
        parts = layout(packed, _width(tensor.dtype, tensor.dim(), width), tensor.dtype)
        whole += sum(math.prod(sizes) * kind.itemsize for kind, sizes in parts)
    return whole


def _width(dtype: torch.dtype, dimensions: int, wanted: Width) -> Width:
    """How it travels where this is wanted: whole numbers, single ones and what is as narrow already stay as they are."""
    narrow = wanted == "int8" or dtype.itemsize > 2
    return wanted if dtype.is_floating_point and dimensions and narrow else "float32"


def _row(shape: tuple[int, ...]) -> int:
    """Numbers of a row, which divide those of the tensor: the last dimension, and those before it while that makes too few, but never
    those of two samples. At least 1, for tensors without a number."""
    row = shape[-1]
    for size in shape[-2:0:-1]:
        if row >= ROW:
            break
        row *= size
    return max(row, 1)
