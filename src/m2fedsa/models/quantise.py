"""Frozen weights in few bits: what a client stores of its head, and computes with.

A weight is made whole when its module is called and dropped after, so that one layer at a time is in float; of an embedding only the rows
that are asked for. Weights of linear, embedding and convolution modules are stored in few bits; norms, biases and loose tensors stay.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from m2fedsa.errors import WeightsError
from m2fedsa.models.stored import GROUP, KINDS, Bfloat16, Int8, Layout, Promise, Stored, columns
from m2fedsa.state import nbytes

HeadDtype = Literal["float32", "bfloat16", "int8", "int4"]
HEAD_DTYPES: tuple[HeadDtype, ...] = get_args(HeadDtype)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Rows(nn.Embedding):
    """Looks up rows without making the weight whole."""

    stored: Stored

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name is PyTorch's)
        """(..., C)."""
        return self.stored.rows(input)


def quantise(model: nn.Module, dtype: HeadDtype) -> None:
    """Store the weights of a head at `dtype`, in place. "float32" leaves them alone; tensors on meta are not this slice's, and stay so."""
    done: dict[int, Stored] = {}
    for module in list(model.modules()):
        weight = module._parameters.get("weight")
        kind = None if weight is None else scheme(module, dtype)
        if kind is None or weight is None or weight.is_meta:
            continue
        if id(weight) not in done:
            done[id(weight)] = kind.of(weight)
        put(module, done[id(weight)])


def in_float32(model: nn.Module) -> None:
    """Let a model in half precision compute in float32, in place: its weights stay as they lie, and are made whole one layer at a time."""
    done: dict[int, Stored | nn.Parameter] = {}
    for module in list(model.modules()):
        if isinstance(module, Stored):
            continue
        for name, tensor in list(module._parameters.items()):
            if tensor is None or tensor.dtype not in (torch.bfloat16, torch.float16):
                continue
            if id(tensor) not in done:
                large = name == "weight" and scheme(module, "bfloat16") is not None
                rows = tensor.detach().reshape(len(tensor), -1) if large else tensor.detach()
                done[id(tensor)] = (
                    Bfloat16(tuple(tensor.shape), {"codes": rows}) if large else nn.Parameter(rows.float(), requires_grad=False)
                )
            new = done[id(tensor)]
            if isinstance(new, Stored):
                put(module, new)
            else:
                module._parameters[name] = new
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.dtype in (torch.bfloat16, torch.float16):
                module._buffers[name] = buffer.float()


def scheme(module: nn.Module, dtype: HeadDtype) -> type[Stored] | None:
    """How the weight of `module` is stored at `dtype`; None if it stays as it is."""
    weight = module._parameters.get("weight")
    # GPT-2's Conv1D is a linear layer whose weight lies on its side.
    linear = isinstance(module, (nn.Linear, nn.Embedding)) or type(module).__name__ == "Conv1D"
    if dtype == "float32" or weight is None or not (linear or isinstance(module, _CONVOLUTIONS)):
        return None
    if not weight.is_floating_point() or weight.dim() < 2:
        return None
    # Convolutions are few bytes and lose most: MobileNetV2's first six blocks are off by 60 % in four bits, by 9 % in eight.
    return Int8 if dtype == "int4" and (not linear or columns(tuple(weight.shape)) < GROUP) else KINDS[dtype]


def put(module: nn.Module, stored: Stored) -> None:
    """Let `module` compute with a stored weight in place of its own."""
    kind = type(module)
    del module._parameters["weight"]
    module.stored = stored
    bases: tuple[type, ...] = (kind,)
    if isinstance(module, nn.Embedding):
        # Behind the family's own class, so that its `super().forward` ends here.
        bases = (_Rows,) if kind is nn.Embedding else (kind, _Rows)
    # Models ask for `module.weight` outside of its forward too, e.g. for its type.
    module.__class__ = type(kind.__name__, bases, {"weight": property(lambda self: Promise(self.stored)), "__module__": kind.__module__})


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """name -> tensor, as a file holds a slice: `module.weight` in float, else `module.weight.int8`, `module.weight.scale` …

    A tensor with several names has the first alone; what is on meta is not this slice's.
    """
    found: dict[str, Tensor] = {}
    for name, _, tensor in _owned(model):
        found |= {part_name(name, tensor.kind, p): v for p, v in tensor.parts.items()} if isinstance(tensor, Stored) else {name: tensor}
    return found


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """name -> tensor of everything that a slice owns, weights in few bits made whole; a tensor with several names has the first alone."""
    return {name: tensor() if isinstance(tensor, Stored) else tensor for name, _, tensor in _owned(model)}


def stored_layout(model: nn.Module, dtype: HeadDtype) -> Layout:
    """Types and shapes of what `tensors` would give after `quantise(model, dtype)`, from shapes alone."""
    found: Layout = {}
    for name, module, tensor in _owned(model):
        kind = scheme(module, dtype) if name.endswith("weight") and not isinstance(tensor, Stored) else None
        if isinstance(tensor, Stored):
            found |= {part_name(name, tensor.kind, part): (value.dtype, tuple(value.shape)) for part, value in tensor.parts.items()}
        elif kind is None or tensor is not module._parameters.get("weight"):
            found[name] = (tensor.dtype, tuple(tensor.shape))
        else:
            found |= {part_name(name, kind.kind, part): entry for part, entry in kind.layout(tuple(tensor.shape)).items()}
    return found


def stored_bytes(model: nn.Module, dtype: HeadDtype = "float32") -> int:
    """Bytes that a slice stores at `dtype`, buffers included, without the few kilobytes of names in its file.

    What is stored in few bits already counts as it is.
    """
    return sum(kind.itemsize * torch.Size(shape).numel() for kind, shape in stored_layout(model, dtype).values())


def weights(model: nn.Module) -> tuple[int, int]:
    """(numbers, bytes) of the weights that a slice holds, however many bits they are stored in; without buffers."""
    owned = [tensor for _, _, tensor in _owned(model) if isinstance(tensor, (Stored, nn.Parameter))]
    kept = [list(tensor.parts.values()) if isinstance(tensor, Stored) else [tensor] for tensor in owned]
    return sum(torch.Size(tensor.shape).numel() for tensor in owned), sum(nbytes(parts) for parts in kept)


def part_name(name: str, kind: str, part: str) -> str:
    """What a part of the stored weight `name` is called in a file."""
    return f"{name}.{kind if part == 'codes' else part}"


def _owned(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor | Stored]]:
    """Name, module and tensor of everything that `state_dict` would name and that is not on meta; each once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, Stored):
            continue
        here: dict[str, Tensor | Stored | None] = {**module._parameters}
        here |= {name: tensor for name, tensor in module._buffers.items() if name not in module._non_persistent_buffers_set}
        if isinstance(stored := module._modules.get("stored"), Stored):
            here["weight"] = stored
        for name, tensor in here.items():
            if tensor is None or id(tensor) in seen or (isinstance(tensor, Tensor) and tensor.is_meta):
                continue
            seen.add(id(tensor))
            yield f"{path}.{name}".lstrip("."), module, tensor


def place(model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Give a model on meta the tensors of its slice, named as `tensors` names them; they are not copied.

    `WeightsError` for a tensor that has no place, or one of another shape.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        whole = weight_name(name)
        parts.setdefault(whole, {})[name[len(whole) + 1 :]] = tensor
    homes = _homes(model)
    for name, its in parts.items():
        module, old = _at(model, name)
        if module is None or old is None:
            raise WeightsError(f"{name} has no place in {type(model).__name__}: are weights and configuration those of one encoder?")
        new = _stored(name, its, tuple(old.shape)) if "" not in its else its[""]
        if isinstance(new, Tensor) and new.shape != old.shape:
            raise WeightsError(f"{name} has the shape {tuple(new.shape)}, but {type(model).__name__} needs {tuple(old.shape)}")
        real = nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) and isinstance(new, Tensor) else new
        for home, own in homes[id(old)]:
            if isinstance(real, Stored):
                put(home, real)
            elif isinstance(real, nn.Parameter):
                home._parameters[own] = real
            else:
                home._buffers[own] = real


def weight_name(part: str) -> str:
    """The tensor to which one in a file belongs: what `part_name` was given, or the tensor itself."""
    base, _, last = part.rpartition(".")
    return base if base.endswith("weight") and last in {*KINDS, "scale", "row_scale"} else part


def _stored(name: str, its: Mapping[str, Tensor], shape: tuple[int, ...]) -> Stored:
    kinds = [kind for kind in its if kind in KINDS]
    if len(kinds) == 1:
        kind = KINDS[kinds[0]]
        named = {"codes" if part == kind.kind else part: tensor for part, tensor in its.items()}
        if {part: (tensor.dtype, tuple(tensor.shape)) for part, tensor in named.items()} == kind.layout(shape):
            return kind(shape, named)
    told = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in its.items())
    raise WeightsError(f"{name} {shape} is not stored as any of {', '.join(KINDS)} stores it (found {told})")


def _at(model: nn.Module, name: str) -> tuple[nn.Module | None, Tensor | None]:
    owner, _, own = name.rpartition(".")
    module = dict(model.named_modules()).get(owner)
    return module, None if module is None else {**module._parameters, **module._buffers}.get(own)


def _homes(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where each tensor is: a tied one in several modules."""
    homes: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for own, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                homes.setdefault(id(tensor), []).append((module, own))
    return homes
