"""The client's side of a cut: the model's own forward, stopped.

B batch, T tokens, D_h width at the end of the head; maps (B, D_h, H, W) from convolutional encoders.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.architectures import architecture
from m2fedsa.models.frozen import Frozen
from m2fedsa.models.plan import Plan


class _Reached(BaseException):
    """Ends the head's forward at the cut. Not an `Exception`, so that no `except` within a model swallows it."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class Head(Frozen):
    """The embeddings and first k blocks of an encoder."""

    width: int
    """D_h"""
    axis: int
    """the dimension of D_h: -1 for tokens, 1 for maps"""
    mask_argument: str | None
    """the input whose values travel to the tail as its `mask`; None if the encoder is given none"""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__(model, {*plan.head, *plan.both})
        self.plan = plan
        mask = architecture(plan.model_type).mask
        self.mask_argument = mask if mask in plan.inputs else None
        module = self.encoder.get_submodule(plan.cut)
        if plan.after:
            module.register_forward_hook(lambda _module, _args, output: _stop(_first(output)))
        else:
            module.register_forward_pre_hook(lambda _module, args, kwargs: _stop(received(args, kwargs)), with_kwargs=True)
        hidden = self({name: torch.zeros(shape, dtype=dtype, device=self.device) for name, (shape, dtype) in plan.inputs.items()})
        self.axis = 1 if hidden.dim() == 4 else -1
        self.width = hidden.shape[self.axis]

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """h (B, T, D_h), before MA, from the encoder's keyword arguments. Raises `CutError` if the forward never reaches the cut."""
        try:
            self.encoder(**inputs)
        except _Reached as reached:
            return reached.hidden
        name = type(self.encoder).__name__
        raise CutError(f"the forward of {name} ended without reaching `{self.plan.cut}`: is the plan that of another model?")


def _stop(hidden: Tensor) -> None:
    raise _Reached(hidden)


def _first(output: Any) -> Any:
    """The hidden state in what a block puts out: itself, or the first of a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def received(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hidden state in what a block receives."""
    if not args and "hidden_states" not in kwargs:
        raise CutError(f"the block after the cut is given {sorted(kwargs)}, but a positional argument or `hidden_states` is needed")
    return args[0] if args else kwargs["hidden_states"]
