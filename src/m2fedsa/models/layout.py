"""The order of a tensor's dimensions in memory is data: it picks the kernel, and with it the last bits.

ConvNeXt hands on maps with their channels last; a contiguous copy of them changes its output by 4e-7.
"""

from collections.abc import Sequence

from torch import Tensor


def pack(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The same numbers as a contiguous tensor, and the order of dimensions that it now has: what goes on a wire.

    `order[i]` is the dimension of `tensor` that became dimension i. A contiguous tensor is returned as it is.
    """
    order = order_of(tensor)
    return (tensor if tensor.is_contiguous() else tensor.permute(order).contiguous()), order


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """The order of dimensions in memory, the outermost first."""
    if tensor.is_contiguous():
        return tuple(range(tensor.dim()))
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda dimension: (-strides[dimension], dimension)))


def unpack(contiguous: Tensor, order: Sequence[int]) -> Tensor:
    """The tensor that `pack` was given: same shape, same order in memory. A view."""
    return contiguous.permute([order.index(dimension) for dimension in range(len(order))])
