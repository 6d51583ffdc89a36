"""Messages as bytes and back: a fixed header, the plain values of the message, then its tensors as raw little-endian bytes.

    header   24 bytes: length of the name, number of tensors, bytes of plain values, bytes in all
    name     of the message's class
    plain    JSON: the fields that are no tensors (see `plain.py`)
    tensors  for each 80 bytes: type, width on the wire, number and order in memory of its dimensions, shape
    values   of each tensor at a multiple of 64 bytes, with zeros in between

Whatever is not exactly like this is refused; there is no code in it to run. The receiver says which messages it expects. Tensors arrive
with the type, shape, order in memory and bits that they were sent with, unless a narrower width was asked for.
"""

import json
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from m2fedsa.config import Width
from m2fedsa.errors import ProtocolError
from m2fedsa.links.narrow import WIDTHS, layout, narrowed, widened
from m2fedsa.links.plain import DTYPES, Tensors, form_of
from m2fedsa.models.layout import pack, unpack

if sys.byteorder != "little":
    raise ImportError("m2fedsa sends tensors as they lie in memory, little-endian; this machine is not.")

Message = TypeVar("Message")
_HEADER, _TENSOR = struct.Struct("<IIQQ"), struct.Struct("<BBBx8B8Q4x")
_ALIGNED, _DIMENSIONS = 64, 8
_DTYPES = list(DTYPES.values())
LARGEST_PLAIN = 16 * 2**20
"""Bytes that the plain values of a message may take."""


@dataclass(frozen=True)
class Encoded:
    """A message ready to be sent: pieces of memory, one after the other. The tensors' own memory is among them: send before it changes."""

    pieces: Sequence[bytes | memoryview]
    nbytes: int

    def whole(self) -> bytes:
        """In one piece."""
        return b"".join(self.pieces)

    def cut(self, size: int) -> Iterator[list[bytes | memoryview]]:
        """In parts of `size` bytes, the last of at most that; each as the pieces of memory that it is made of: nothing is copied."""
        part: list[bytes | memoryview] = []
        room = size
        for piece in self.pieces:
            view = memoryview(piece)
            while len(view) > room:
                yield [*part, view[:room]]
                view, part, room = view[room:], [], size
            part.append(view)
            room -= len(view)
        if part:
            yield part


def encode(message: object, width: Width = "float32") -> Encoded:
    """A dataclass of tensors and plain values as bytes; `width`: how its floats travel. `TypeError` if its class declares what cannot."""
    tensors = Tensors([])
    plain = json.dumps(form_of(type(message)).write(message, tensors), separators=(",", ":"), ensure_ascii=False).encode()
    name = type(message).__name__.encode()
    entries, values = bytearray(), []
    for tensor in tensors.all:
        described, parts = _described(tensor, width)
        entries += described
        values += parts
    start = _HEADER.size + len(name) + len(plain) + len(entries)
    pieces: list[bytes | memoryview] = []
    place = start
    for value in values:
        gap = -place % _ALIGNED
        pieces += [bytes(gap), value]
        place += gap + len(value)
    head = b"".join([_HEADER.pack(len(name), len(tensors.all), len(plain), place), name, plain, entries])
    return Encoded((head, *pieces), place)


def decode(content: Tensor | bytes, *expected: type[Message]) -> Message:
    """One of the expected messages out of bytes. `ProtocolError` for anything else; nothing is computed before all of it fits.

    `content`: (n,) uint8 at an address that is a multiple of 64, whose memory the message then shares; or bytes, which are copied.
    """
    body = content if isinstance(content, Tensor) else _copied(content)
    if len(body) < _HEADER.size:
        raise ProtocolError(f"a message of {len(body)} bytes is shorter than its header of {_HEADER.size}.")
    named, number, plain, total = _HEADER.unpack(_bytes(body, 0, _HEADER.size))
    start = _HEADER.size + named + plain + number * _TENSOR.size
    if total != len(body) or start > total or plain > LARGEST_PLAIN:
        raise ProtocolError(f"a message of {len(body)} bytes says that it has {total}, {start} of them before its values.")
    kind = _kind(_bytes(body, _HEADER.size, named), expected)
    values = _json(_bytes(body, _HEADER.size + named, plain), kind.__name__)
    tensors = Tensors(list(_values(body, start - number * _TENSOR.size, number, start, kind.__name__)))
    message: Message = form_of(kind).read(values, tensors, kind.__name__)
    if tensors.taken != number:
        raise ProtocolError(f"{kind.__name__}: has {number} tensors, but says where {tensors.taken} belong.")
    return message


def to_bytes(message: object) -> bytes:
    """A message in one piece, as it is: for files and for transports that have their own frames."""
    return encode(message).whole()


def _described(tensor: Tensor, wanted: Width) -> tuple[bytes, list[memoryview]]:
    if tensor.dtype not in _DTYPES or tensor.dim() > _DIMENSIONS:
        raise TypeError(f"a tensor of type {tensor.dtype} with {tensor.dim()} dimensions cannot travel")
    packed, order = pack(tensor.detach().cpu())
    width, parts = narrowed(packed, wanted)
    rest = (0,) * (_DIMENSIONS - tensor.dim())
    entry = _TENSOR.pack(_DTYPES.index(tensor.dtype), WIDTHS.index(width), tensor.dim(), *order, *rest, *packed.shape, *rest)
    return entry, [memory(part) for part in parts]


def _values(body: Tensor, entry: int, number: int, place: int, name: str) -> Iterator[Tensor]:
    for at in range(number):
        where = f"{name}, tensor {at}"
        code, narrow, dimensions, *numbers = _TENSOR.unpack(_bytes(body, entry + at * _TENSOR.size, _TENSOR.size))
        order, shape = numbers[:dimensions], tuple(numbers[_DIMENSIONS : _DIMENSIONS + dimensions])
        if code >= len(_DTYPES) or narrow >= len(WIDTHS) or sorted(order) != list(range(dimensions)):
            raise ProtocolError(f"{where}: there is no type {code}, width {narrow} or order {order} of {dimensions} dimensions.")
        dtype, width = _DTYPES[code], WIDTHS[narrow]
        if width != "float32" and not (dtype.is_floating_point and shape):
            raise ProtocolError(f"{where}: {shape} {dtype} cannot be narrowed to {width}.")
        parts = []
        for kind, sizes in layout(shape, width, dtype):
            place += -place % _ALIGNED
            end = place + math.prod(sizes) * kind.itemsize
            if end > len(body):
                raise ProtocolError(f"{where}: needs {end} bytes of a message that has {len(body)}.")
            parts.append(body[place:end].view(kind).view(sizes))
            place = end
        if dtype == torch.bool and bool((parts[0].view(torch.uint8) > 1).any()):
            raise ProtocolError(f"{where}: yes and no are written as 1 and 0.")
        yield unpack(widened(parts, width, dtype), order)
    if place != len(body):
        raise ProtocolError(f"{name}: {len(body) - place} bytes belong to no tensor.")


def _kind(name: bytes, expected: tuple[type[Message], ...]) -> type[Message]:
    for kind in expected:
        if kind.__name__.encode() == name:
            return kind
    awaited = " or ".join(kind.__name__ for kind in expected)
    raise ProtocolError(f"a message {name[:40].decode(errors='replace')!r} came where {awaited} was awaited.")


def _json(plain: bytes, name: str) -> Any:
    try:
        return json.loads(plain.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{name}: its plain values are no JSON ({str(error)[:80]}).") from error


def _bytes(body: Tensor, start: int, length: int) -> bytes:
    return bytes(body[start : start + length].numpy())


def _copied(content: bytes) -> Tensor:
    body = torch.empty(len(content), dtype=torch.uint8)
    memory(body)[:] = content
    return body


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, in place."""
    view: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(view)
