"""The client's side of a cut: the model's own forward, stopped.

B batch, T tokens, D_h width at the end of the head; maps (B, D_h, H, W) from convolutional encoders.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.architectures import architecture, positioned
from m2fedsa.models.frozen import Frozen
from m2fedsa.models.plan import Plan
from m2fedsa.models.received import given, received


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

    def __init__(self, model: nn.Module, plan: Plan, stored: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(model, {*plan.head, *plan.both}, stored)
        self.plan = plan
        mask = architecture(plan.model_type).mask
        self.mask_argument = mask if mask in plan.inputs else None
        module = self.encoder.get_submodule(plan.cut)
        if plan.after:
            module.register_forward_hook(lambda _module, _args, output: self._stop(given(output)))
        else:
            module.register_forward_pre_hook(lambda _module, args, kwargs: self._stop(received(args, kwargs)), with_kwargs=True)
        rows = {shape[0] for shape, _ in plan.inputs.values()}
        hidden = self({name: torch.zeros(shape, dtype=dtype, device=self.device) for name, (shape, dtype) in plan.inputs.items()})
        self.axis = 1 if hidden.dim() == 4 and not architecture(plan.model_type).channels else -1
        self.width = hidden.shape[self.axis]
        if len(rows) == 1 and hidden.shape[0] not in rows:
            raise CutError(
                f"what passes into `{plan.cut}` of {type(model).__name__} has the shape {tuple(hidden.shape)} for {rows.pop()} sample, but "
                "its first dimension must count samples. Name other blocks, with blocks = [...]."
            )

    def forward(self, inputs: Mapping[str, Tensor], graph: bool = False) -> Tensor:
        """h (B, T, D_h), before MA, from the encoder's keyword arguments; `graph`: for weights that train, see `under`. Raises `CutError`
        if the forward never reaches the cut."""
        try:
            with torch.set_grad_enabled(graph):
                self.encoder(**positioned(self.plan.model_type, inputs))
        except _Reached as reached:
            return reached.hidden
        name = type(self.encoder).__name__
        raise CutError(f"the forward of {name} ended without reaching `{self.plan.cut}`: is the plan that of another model?")

    def _stop(self, hidden: object) -> None:
        if not isinstance(hidden, Tensor) or not hidden.is_floating_point() or hidden.dim() < 2:
            raise CutError(
                f"what passes at `{self.plan.cut}` of {type(self.encoder).__name__} is {type(hidden).__name__}, but one hidden state must, "
                "as the first argument of a block or as its `hidden_states`. Name other blocks, with blocks = [...]."
            )
        raise _Reached(hidden.transpose(0, architecture(self.plan.model_type).rows))
