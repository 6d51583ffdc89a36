"""Weights in few bits: how a matrix of numbers is stored, and made whole again.

R rows (output channels of a convolution), C numbers in a row, G groups of N = 32 in a row, the last one filled up with zeros.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

GROUP = 32
"""Numbers that share a scale in int4."""
LEVELS = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
"""What the sixteen codes of int4 stand for, times the scale: quantiles of the normal distribution (NF4 of QLoRA, Dettmers et al. 2023)."""
_AT_ONCE = 1 << 20
"""Numbers that are worked on at a time: temporary memory stays a few times 4 MB, whatever the size of a weight."""
_WHOLE = 1 << 18
"""Numbers that are whole at a time in a product: 1 MB, where whole layers would cost a head of RoBERTa-base 20 MB beside its 54."""

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""name of a tensor -> its type and shape"""


class Stored(nn.Module):
    """A weight in few bits; called, the weight itself. `of` makes one from a weight, `parts` are the tensors that a file holds."""

    kind: ClassVar[str]
    shape: tuple[int, ...]
    like: Tensor
    """without content: the type in which the weight is answered, which follows `to`"""

    def __init__(self, shape: tuple[int, ...], parts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.shape = shape
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def parts(self) -> dict[str, Tensor]:
        """The stored tensors."""
        return {name: tensor for name, tensor in self._buffers.items() if name != "like" and tensor is not None}

    def forward(self) -> Tensor:
        """The weight."""
        return self._rows(self.parts).reshape(self.shape).to(self.like.dtype)

    def rows(self, index: Tensor) -> Tensor:
        """The rows `index` of any shape: (..., C)."""
        flat = index.flatten()
        picked = self._rows({name: tensor[flat] for name, tensor in self.parts.items()})
        return picked.reshape(*index.shape, *self.shape[1:]).to(self.like.dtype)

    def linear(self, input_BC: Tensor, bias_R: Tensor | None) -> Tensor:
        """`functional.linear` with the weight (R, C): (..., R). A block of its rows at a time is whole, never all of it."""
        blocks = torch.split(torch.arange(self.shape[0], device=input_BC.device), max(1, _WHOLE // columns(self.shape)))
        outputs = []
        for index in blocks:
            rows = slice(int(index[0]), int(index[-1]) + 1)
            weight = self._rows({name: tensor[rows] for name, tensor in self.parts.items()}).to(self.like.dtype)
            outputs.append(functional.linear(input_BC, weight, None if bias_R is None else bias_R[rows]))
        return torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """`weight` in few bits. A block of rows at a time, each as if it were alone."""
        rows = weight.detach().reshape(weight.shape[0], -1)
        blocks = [cls._store(block.float()) for block in torch.split(rows, max(1, _AT_ONCE // max(1, rows.shape[1])))]
        made = cls(tuple(weight.shape), {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]})
        made.like = weight.detach().new_empty(0)
        return made

    @classmethod
    @abstractmethod
    def layout(cls, shape: tuple[int, ...]) -> Layout:
        """Types and shapes of the parts of a weight of this shape."""

    @classmethod
    @abstractmethod
    def _store(cls, rows_RC: Tensor) -> dict[str, Tensor]:
        """The parts of some rows."""

    @abstractmethod
    def _rows(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(R, C) in float32 of the parts of some rows."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002  (the signature is PyTorch's)
        # The parts go along to another device; another type is that of the answer alone.
        self.like = fn(self.like)
        for name, tensor in self.parts.items():
            self._buffers[name] = tensor.to(self.like.device)
        return self


class Promise:
    """A weight that is made whole when something is computed with it, not when its type, shape or place is asked for.

    Gemma's embedding asks for the type of its weight in every call, a quarter of a million rows.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.shape = torch.Size(stored.shape)
        self.dtype, self.device = stored.like.dtype, stored.like.device

    def whole(self) -> Tensor:
        """The weight."""
        made: Tensor = self._stored()
        return made

    def linear(self, input_BC: Tensor, bias_R: Tensor | None) -> Tensor:
        """`functional.linear` with it, of which only some rows are whole at a time."""
        return self._stored.linear(input_BC, bias_R)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.whole()[index]

    def __len__(self) -> int:
        return self.shape[0]

    def __mul__(self, other: Any) -> Tensor:
        product: Tensor = self.whole() * other
        return product

    def __add__(self, other: Any) -> Tensor:
        total: Tensor = self.whole() + other
        return total

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            return _linear(*args, **(kwargs or {}))
        args, kwargs = tree_map(lambda part: part.whole() if isinstance(part, Promise) else part, (args, kwargs or {}))
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Promise, bias: Tensor | None = None) -> Tensor:  # noqa: A002  (the names are PyTorch's)
    """`functional.linear` of a layer whose weight is stored."""
    return weight.linear(input, bias)


class Bfloat16(Stored):
    """Sixteen bits a number: float32 without its last sixteen."""

    kind = "bfloat16"

    @classmethod
    def layout(cls, shape: tuple[int, ...]) -> Layout:
        """Numbers (R, C)."""
        return {"codes": (torch.bfloat16, (shape[0], columns(shape)))}

    @classmethod
    def _store(cls, rows_RC: Tensor) -> dict[str, Tensor]:
        return {"codes": rows_RC.to(torch.bfloat16)}

    def _rows(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["codes"].float()


class Int8(Stored):
    """Eight bits a number, one scale a row, symmetric: the largest of a row is ±127."""

    kind = "int8"

    @classmethod
    def layout(cls, shape: tuple[int, ...]) -> Layout:
        """Codes (R, C), scales (R, 1)."""
        return {"codes": (torch.int8, (shape[0], columns(shape))), "scale": (torch.float32, (shape[0], 1))}

    @classmethod
    def _store(cls, rows_RC: Tensor) -> dict[str, Tensor]:
        scale_R1 = _not_zero(rows_RC.abs().amax(1, keepdim=True) / 127)
        return {"codes": (rows_RC / scale_R1).round().to(torch.int8), "scale": scale_R1}

    def _rows(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["codes"] * parts["scale"]


class Int4(Stored):
    """Four bits a number, two codes a byte; a scale for each 32, itself eight bits of a scale a row: 4.25 bits in all.

    Of four scales for a group (the largest number is at the last code, or a tenth beyond; times either sign, for the codes are not
    symmetric), each moved to its least squares, the one with the least squared error. Why so: docs/benchmarks.md.
    """

    kind = "int4"

    @classmethod
    def layout(cls, shape: tuple[int, ...]) -> Layout:
        """Codes (R, 16 G), scales (R, G), scales of the scales (R, 1)."""
        groups = -(-columns(shape) // GROUP)
        return {
            "codes": (torch.uint8, (shape[0], groups * GROUP // 2)),
            "scale": (torch.int8, (shape[0], groups)),
            "row_scale": (torch.bfloat16, (shape[0], 1)),
        }

    @classmethod
    def _store(cls, rows_RC: Tensor) -> dict[str, Tensor]:
        groups_RGN = functional.pad(rows_RC, (0, -rows_RC.shape[1] % GROUP)).reshape(len(rows_RC), -1, GROUP)
        wanted_RG1 = _least_squares(groups_RGN)
        row_R1 = _not_zero(wanted_RG1.abs().amax(1) / 127).to(torch.bfloat16)
        scale_RG1 = (wanted_RG1 / row_R1.float().unsqueeze(1)).round().clamp(-127, 127)
        pairs = _nearest(groups_RGN / _not_zero(scale_RG1 * row_R1.float().unsqueeze(1))).reshape(len(rows_RC), -1, 2)
        return {"codes": pairs[..., 0] | pairs[..., 1] << 4, "scale": scale_RG1.squeeze(2).to(torch.int8), "row_scale": row_R1}

    def _rows(self, parts: Mapping[str, Tensor]) -> Tensor:
        packed = parts["codes"]
        levels = torch.tensor(LEVELS, device=packed.device)
        # One look-up gives the two numbers of a byte.
        pairs = torch.stack([levels.repeat(16), levels.repeat_interleave(16)], 1)
        unit_RGN = functional.embedding(packed.int(), pairs).reshape(len(packed), -1, GROUP)
        scale_RG1 = (parts["scale"] * parts["row_scale"].float()).unsqueeze(2)
        return (unit_RGN * scale_RG1).flatten(1)[:, : columns(self.shape)]


KINDS: dict[str, type[Stored]] = {kind.kind: kind for kind in (Bfloat16, Int8, Int4)}


def columns(shape: tuple[int, ...]) -> int:
    """C of a weight of this shape."""
    return torch.Size(shape[1:]).numel()


def _least_squares(groups_RGN: Tensor) -> Tensor:
    """The best of four scales (R, G, 1) for each group."""
    levels = torch.tensor(LEVELS, device=groups_RGN.device)
    largest_RG1 = groups_RGN.gather(2, groups_RGN.abs().argmax(2, keepdim=True))
    best_RG1, least_RG1 = torch.zeros_like(largest_RG1), torch.full_like(largest_RG1, float("inf"))
    for share in (1.0, 0.9, -1.0, -0.9):
        unit_RGN = levels[_nearest(groups_RGN / _not_zero(largest_RG1 * share)).int()]
        scale_RG1 = (groups_RGN * unit_RGN).sum(2, keepdim=True) / _not_zero(unit_RGN.square().sum(2, keepdim=True))
        code_RGN = _nearest(groups_RGN / _not_zero(scale_RG1))
        error_RG1 = (levels[code_RGN.int()] * scale_RG1 - groups_RGN).square().sum(2, keepdim=True)
        better = error_RG1 < least_RG1
        best_RG1, least_RG1 = torch.where(better, scale_RG1, best_RG1), torch.where(better, error_RG1, least_RG1)
    return best_RG1


def _nearest(unit: Tensor) -> Tensor:
    """The code of the level that lies nearest to each number."""
    levels = torch.tensor(LEVELS, device=unit.device)
    return torch.bucketize(unit.contiguous(), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def _not_zero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)
