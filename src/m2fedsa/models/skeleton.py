"""An encoder without its weights: the modules that its configuration tells of, every tensor on meta, where it takes no memory."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from m2fedsa.errors import WeightsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LIBRARY = "transformers.models."
_OURS = "m2fedsa.models.tabular"


class _Unfilled(TorchFunctionMode):
    """Memory that is asked for without content is never given: it is what weights are made of, and they come later or not at all."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def kind_of(model: nn.Module) -> str:
    """Where the class of `model` is defined. `WeightsError` if that is not transformers: another machine could not build it."""
    kind = type(model)
    if not kind.__module__.startswith(_LIBRARY) and kind.__module__ != _OURS:
        raise WeightsError(f"{kind.__module__}.{kind.__qualname__} is not a class of transformers, so that no slice of it could be loaded.")
    return f"{kind.__module__}.{kind.__qualname__}"


def skeleton(config: Path | Any, kind: str, absent: Sequence[str] = ()) -> "PreTrainedModel":
    """An encoder of class `kind` with every weight on meta; what its constructor computes (position ids, rotary tables) is real.

    config: the folder with its config.json, or the configuration. absent: modules that it does not have though its configuration asks
    for them. `WeightsError` if the installed transformers has no such class, or if the configuration is not one for it.
    """
    module, _, name = kind.rpartition(".")
    try:
        if not module.startswith(_LIBRARY) and module != _OURS:
            raise ImportError(f"it is not a class of {_LIBRARY}*")
        made_of = getattr(importlib.import_module(module), name)
        read = made_of.config_class.from_pretrained(config, local_files_only=True) if isinstance(config, Path) else config
        with _Unfilled():
            model: PreTrainedModel = made_of(read)
    except (ImportError, AttributeError, OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"{config}: no {name} could be built from its configuration ({type(error).__name__}: {reason}). "
            "Use the version of transformers that source.json names, or cut the encoder again."
        ) from error
    for path in absent:
        owner, _, child = path.rpartition(".")
        setattr(model.get_submodule(owner), child, None)
    memo: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for own, tensor in part._parameters.items():
            if tensor is not None:
                # Tied weights stay tied.
                part._parameters[own] = memo.setdefault(id(tensor), nn.Parameter(tensor.detach().to("meta"), requires_grad=False))
    model.train(False)
    return model


def missing_modules(model: nn.Module, bare: nn.Module) -> tuple[str, ...]:
    """The topmost modules that `bare` has and `model` has not. `WeightsError` if it is the other way round anywhere."""
    ours, theirs = ({name for name, _ in one.named_modules()} for one in (model, bare))
    if ours - theirs:
        raise WeightsError(
            f"{type(model).__name__} has a module {min(ours - theirs)} that its configuration does not tell of, so that no slice of it "
            "could be loaded. Save it with its own configuration."
        )
    absent = theirs - ours
    return tuple(sorted(name for name in absent if name.rpartition(".")[0] not in absent))


def hollow(model: "PreTrainedModel") -> "PreTrainedModel":
    """Let a model on meta run for real, in place: on zeros that nobody wrote, for which the system gives no memory (Linux: one page for
    all). What it computes is as much as ever."""
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and tensor.is_meta:
                module._parameters[name] = nn.Parameter(_untouched(tensor), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = _untouched(buffer)
    return model


def _untouched(tensor: Tensor) -> Tensor:
    # PyTorch would write its zeros.
    return torch.from_numpy(np.zeros(tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype))
