"""safetensors files of any size, tensor by tensor: neither writing nor reading holds more than the tensors themselves.

The library's own `save_file` copies every tensor to bytes first.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2fedsa.errors import StorageError, WeightsError
from m2fedsa.models.stored import Layout

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_CHUNK = 1 << 24
_LARGEST_HEADER = 100_000_000


def write_tensors(path: Path, layout: Layout, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Write a file with the tensors of `layout`, which `tensors` gives in any order; returns its SHA-256.

    Flushed to the disk. `StorageError` if that refuses; a part may then stand there.
    """
    places: dict[str, tuple[int, int]] = {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Numbers of more bytes first, so that each tensor lies at a multiple of its own.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda one: (-one[1][0].itemsize, one[0])):
        begin, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        places[name] = begin, end
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    written: set[str] = set()
    try:
        with path.open("w+b") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor in tensors:
                assert layout[name] == (tensor.dtype, tuple(tensor.shape)), name
                file.seek(8 + len(text) + places[name][0])
                file.write(content(tensor))
                written.add(name)
            assert written == set(layout), "every tensor of the layout is written"
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}. Nothing written earlier is lost.") from error
    return digest.hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file of which the SHA-256 is known. `WeightsError` if it is missing, cut short, or another."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size):
                raise WeightsError(f"{path}: is not a safetensors file, or was cut short. Copy it again, or cut the encoder again.")
            text = file.read(length)
            digest = hashlib.sha256(length.to_bytes(8, "little") + text)
            found: dict[str, Tensor] = {}
            for name, (dtype, shape) in _entries(path, text):
                found[name] = torch.empty(shape, dtype=dtype)
                memory = content(found[name])
                # A read may give less than was asked for: the file is shorter.
                got = file.readinto(memory)
                if got != len(memory):
                    raise WeightsError(f"{path}: was cut short within {name}. Copy it again, or cut the encoder again.")
                digest.update(memory)
            digest.update(file.read())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}. Copy the slice again, or cut the encoder again.") from error
    _check_digest(path, digest, sha256)
    return found


def map_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """As `read_tensors`, but mapped: the system reads what is looked at, and forgets it where memory is short. The file must stay."""
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}. Cut the encoder again.") from error
    length = int.from_bytes(memory[:8], "little")
    _check_digest(path, hashlib.sha256(memory), sha256)
    found: dict[str, Tensor] = {}
    place = 8 + length
    for name, (dtype, shape) in _entries(path, memory[8:place]):
        count = torch.Size(shape).numel()
        found[name] = (
            torch.frombuffer(memory, dtype=dtype, count=count, offset=place).view(shape) if count else torch.empty(shape, dtype=dtype)
        )
        place += count * dtype.itemsize
    return found


def _check_digest(path: Path, found: Any, sha256: str) -> None:
    if found.hexdigest() != sha256:
        raise WeightsError(
            f"{path}: was altered: its SHA-256 is {found.hexdigest()[:16]}…, but {sha256[:16]}… stands beside it. "
            "Copy it again, or cut the encoder again."
        )


def content(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row; those of a contiguous one are its own memory."""
    numbers: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def _entries(path: Path, header: bytes) -> list[tuple[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Name, type and shape of each tensor in the order in which they lie, without a hole."""
    try:
        listed = sorted((entry["data_offsets"], name, entry) for name, entry in json.loads(header).items() if name != "__metadata__")
        entries = [(name, (_TYPES[entry["dtype"]], tuple(entry["shape"]))) for _, name, entry in listed]
        end = 0
        for (offsets, _, _), (_, (dtype, shape)) in zip(listed, entries, strict=True):
            begin, end = end, end + dtype.itemsize * torch.Size(shape).numel()
            if offsets != [begin, end]:
                raise ValueError(offsets)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its header is not that of a safetensors file. Copy it again, or cut the encoder again.") from error
    return entries
