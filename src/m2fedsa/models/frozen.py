"""A slice of an encoder: its own tensors for real, the others on meta, where they take no memory."""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m2fedsa.errors import CutError
from m2fedsa.models.quantise import place


class Frozen(nn.Module):
    """The modules of `model` with the tensors in `owned` alone; without gradients, in evaluation mode always.

    The memory of the tensors is that of `model`, or of `stored` (as `quantise.tensors` names them) where `model` has none: nothing is
    copied. Raises `CutError` if `model` has not all of them, `WeightsError` if `stored` are not those of `model`.
    """

    def __init__(self, model: nn.Module, owned: Collection[str], stored: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.encoder = _slice(model, owned)
        if stored is not None:
            place(self.encoder, stored)
        self.eval()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  (the signature is PyTorch's)
        """Stays in evaluation mode, whatever `mode`: layer drop and dropout have no place in frozen parts."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next((tensor.device for tensor in self.parameters() if not tensor.is_meta), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, and so of its activations; the default one where it has none."""
        floats = (tensor.dtype for tensor in self.parameters() if not tensor.is_meta and tensor.is_floating_point())
        return next(floats, torch.get_default_dtype())

    def fed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encoder inputs where its tensors are, and of their type where they are no whole numbers."""
        return {name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype) for name, value in inputs.items()}

    def weights(self, except_for: Collection[str] = ()) -> dict[str, Tensor]:
        """Its floating-point parameters by their names in the encoder, for those who train them after all."""
        named = self.encoder.named_parameters()
        return {name: one.detach() for name, one in named if one.is_floating_point() and not one.is_meta and name not in except_for}

    def under(self, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """A call with other weights in place of its own, by their names in the encoder; gradients flow to them."""
        if not weights:
            return self(*args, **kwargs)
        return functional_call(self, {f"encoder.{name}": value for name, value in weights.items()}, args, kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A move to another device has nothing to move where a tensor is on meta.
        moved: Self = super()._apply(lambda tensor: tensor if tensor.is_meta else fn(tensor), recurse)  # type: ignore[no-untyped-call]  # a method of torch's
        return moved


def _slice(model: nn.Module, owned: Collection[str]) -> nn.Module:
    # deepcopy asks its memo before it copies: with every tensor in there, it copies the modules alone.
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    strange = sorted(set(owned) - set(state))
    if strange:
        raise CutError(
            f"the plan is that of another model: {type(model).__name__} has no tensor `{strange[0]}` and {len(strange) - 1} more"
        )
    memo: dict[int, Any] = {}
    # A tied tensor has several names, and is real if one of them is owned: those come first.
    for name in sorted(state, key=lambda name: name not in owned):
        tensor = state[name].detach() if name in owned else state[name].detach().to("meta")
        memo.setdefault(id(state[name]), nn.Parameter(tensor, requires_grad=False) if isinstance(state[name], nn.Parameter) else tensor)
    # What `state_dict` leaves out (position ids, window indices) is small and made by the constructor.
    for buffer in model.buffers():
        memo.setdefault(id(buffer), buffer.detach())
    made = copy.deepcopy(model, memo)
    # A cache of keys and values serves generation alone, and would be handed to modules that are elsewhere.
    if getattr(getattr(made, "config", None), "use_cache", False):
        cast(Any, made).config.use_cache = False
    return made
