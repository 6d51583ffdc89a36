"""The main server's side of a cut: the model's own forward once more, with the activation put in at the cut.

B batch, T tokens, D_h width at the end of the head, D_in and D_out widths of the last feed-forward part, D_z width of the pooled output.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.messages import InputSpec
from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.frozen import Frozen
from m2fedsa.models.plan import Plan
from m2fedsa.models.pooling import at_token, pool, token_of
from m2fedsa.models.received import given, instead, received, replaced
from m2fedsa.models.shadow import Blanks, Shadow
from m2fedsa.models.sites import Site


class _Slot:
    """What a call of the tail lays ready for its hooks; empty between calls."""

    hidden: Tensor | None = None
    adapter: nn.Module | None = None
    received: Tensor | None = None
    token: Tensor | None = None


class Tail(Frozen):
    """The remaining blocks of an encoder, and its pooling. An adapter is passed with each call; nothing of it stays.

    One call at a time: activation and adapter lie in a slot of the tail while it runs.
    """

    width: int
    """D_z"""
    takes_adapter: bool
    """whether there is a feed-forward part for TA to run beside: not at k = n, nor where the family's is unknown"""
    mask_argument: str | None
    """the input whose values are given with each call as its `mask`; None if the encoder has none"""
    narrow: bool = False
    """whether the last feed-forward part, and TA beside it, compute the pooled token alone (`one_token.py`)"""
    _width_in: int
    _width_out: int

    def __init__(self, model: nn.Module, plan: Plan, pooling: Pooling | None = None, stored: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(model, {*plan.tail, *plan.both}, stored)
        self.plan = plan
        self.pooling: Pooling = pooling or architecture(plan.model_type).pooling
        self.takes_adapter = plan.site is not None
        mask = architecture(plan.model_type).mask
        self.mask_argument = mask if mask in plan.inputs else None
        self._slot = _Slot()
        self._blanks = Blanks()
        for name in plan.shadow:
            Shadow(self.encoder.get_submodule(name), self._blanks)
        self._open_cut()
        self._open_site()
        self._measure()

    def forward(self, hidden: Tensor, mask: Tensor | None, inputs: Mapping[str, InputSpec], adapter: nn.Module | None = None) -> Tensor:
        """z (B, D_z) = pool(tail(hidden; adapter)).

        hidden: (B, T, D_h), what the head put out, after MA. mask: the values of the attention mask, None if the encoder has none.
        inputs: shape and type of each of the encoder's inputs; their values never come here. adapter: TA_m, which receives what the
        last feed-forward part receives and is added to what that puts out. Gradients flow to `hidden` and to the adapter. Raises
        `CutError` if an adapter is given where there is no place for one, or if a mask is missing.
        """
        return pool(self.encoder, self.run(hidden, mask, inputs, adapter), self.pooling, mask)

    def run(self, hidden: Tensor, mask: Tensor | None, inputs: Mapping[str, InputSpec], adapter: nn.Module | None = None) -> Any:
        """The model's own output, before it is pooled; arguments and errors as in `forward`."""
        if adapter is not None:
            self._site()
        if mask is None and self.mask_argument in inputs:
            raise CutError(f"the encoder has an input {self.mask_argument}, whose values the tail needs too. Pass them as its mask.")
        slot = self._slot
        assert slot.hidden is None, "a tail serves one call at a time"
        slot.hidden, slot.adapter = hidden.transpose(0, architecture(self.plan.model_type).rows), adapter
        slot.token = token_of(self.pooling, mask, len(hidden)).to(hidden.device) if self.narrow else None
        try:
            return self._encode(mask, inputs, hidden.device)
        finally:
            slot.hidden = slot.adapter = slot.received = slot.token = None

    @property
    def width_in(self) -> int:
        """D_in. Raises `CutError` where there is no place for TA."""
        self._site()
        return self._width_in

    @property
    def width_out(self) -> int:
        """D_out. Raises `CutError` where there is no place for TA."""
        self._site()
        return self._width_out

    @property
    def axis(self) -> int:
        """The dimension of D_in and D_out: -1 for tokens, 1 for maps. Raises `CutError` where there is no place for TA."""
        return self._site().axis

    def _site(self) -> Site:
        if self.plan.site is not None:
            return self.plan.site
        name, n = type(self.encoder).__name__, self.plan.blocks
        if self.plan.after:
            raise CutError(
                f"block = {n} leaves {name} no block for a task adapter to run in. Cut at 0 … {n - 1}, or set task_adapter = false."
            )
        raise CutError(
            f"no feed-forward part is known in the blocks of {name}, beside which a task adapter could run. "
            "Set task_adapter = false, or add its place to SITES in models/sites.py."
        )

    def _encode(self, mask: Tensor | None, inputs: Mapping[str, InputSpec], device: torch.device) -> Any:
        self._blanks.device = device
        arguments = {name: self._blanks.blank(shape, dtype) for name, (shape, dtype) in inputs.items()}
        if mask is not None:
            assert self.mask_argument is not None
            arguments[self.mask_argument] = mask
        return self.encoder(**arguments)

    def _open_cut(self) -> None:
        slot, module = self._slot, self.encoder.get_submodule(self.plan.cut)

        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            return None if slot.hidden is None else replaced(args, kwargs, slot.hidden)

        def leave(_module: nn.Module, _args: object, output: Any) -> Any:
            return None if slot.hidden is None else instead(output, slot.hidden)

        if self.plan.after:
            module.register_forward_hook(leave)
        else:
            module.register_forward_pre_hook(enter, with_kwargs=True)

    def _open_site(self) -> None:
        slot, site = self._slot, self.plan.site
        if site is None:
            return

        def receive(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if slot.token is not None:
                args, kwargs = replaced(args, kwargs, at_token(received(args, kwargs), slot.token))
            slot.received = received(args, kwargs) if slot.adapter is not None else None
            return None if slot.token is None else (args, kwargs)

        def add(_module: nn.Module, _args: object, output: Any) -> Any:
            return None if slot.adapter is None else instead(output, given(output) + slot.adapter(slot.received))

        self.encoder.get_submodule(site.first).register_forward_pre_hook(receive, with_kwargs=True)
        self.encoder.get_submodule(site.last).register_forward_hook(add)

    @torch.no_grad()
    def _measure(self) -> None:
        """Run on NaN alone, of one row: every width shows itself."""
        inputs, site, handles = self.plan.inputs, self.plan.site, []
        spec = None if self.mask_argument is None else inputs[self.mask_argument]
        mask = None if spec is None else torch.ones(spec.shape, dtype=spec.dtype, device=self.device)
        if site is not None:

            def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._width_in = received(args, kwargs).shape[site.axis]

            def leave(_module: nn.Module, _args: object, output: Any) -> None:
                self._width_out = given(output).shape[site.axis]

            handles.append(self.encoder.get_submodule(site.first).register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(self.encoder.get_submodule(site.last).register_forward_hook(leave))
        try:
            self.width = pool(self.encoder, self._encode(mask, inputs, self.device), self.pooling, mask).shape[1]
        finally:
            for handle in handles:
                handle.remove()
