"""Named tensors: every trainable tensor of a run lives in one flat mapping, `image.ta.update.bias` -> tensor.

Averages, checkpoints, the wire and the digest see only such mappings.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Payload of some tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def snapshot(tensors: Tensors) -> dict[str, Tensor]:
    """Detached copies that later steps do not touch."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def of_modalities(tensors: Tensors, modalities: Iterable[str], shared: Iterable[str] = ()) -> dict[str, Tensor]:
    """The tensors of these modalities, and those under the `shared` first names."""
    first = {*modalities, *shared}
    return {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in first}


def by_prefix(weights: Mapping[str, float], name: str) -> float:
    """The value of the longest key that `name` starts with; 0 if there is none."""
    found = [prefix for prefix in weights if name.startswith(prefix)]
    return weights[max(found, key=len)] if found else 0.0


def raw_bytes(tensor: Tensor) -> bytes:
    """The tensor's values, row-major and little-endian as the machine holds them."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def fingerprints(tensors: Tensors) -> dict[str, list[object]]:
    """name -> [dtype, shape, SHA-256 of the bytes]."""
    return {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(raw_bytes(tensor)).hexdigest()]
        for name, tensor in tensors.items()
    }


def digest(prints: Mapping[str, list[object]]) -> str:
    """SHA-256 over the sorted list of name, dtype, shape and SHA-256 of the bytes of every tensor."""
    listing = [[name, *prints[name]] for name in sorted(prints)]
    return hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()
