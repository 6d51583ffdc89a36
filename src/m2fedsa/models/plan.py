"""Which tensors each side of a cut owns, found by watching one forward of the whole model.

What finished before the cut is the head's, what starts after it the tail's; a tensor belongs to its nearest module that was called.
The plan is a small JSON of names: made once where the whole model is at hand, shipped with the slices.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from m2fedsa.errors import CutError
from m2fedsa.messages import InputSpec
from m2fedsa.models.architectures import architecture, block_names, kept_names
from m2fedsa.models.received import given, received
from m2fedsa.models.sites import Shape, Site, keeps_places, sites

Side = Literal["head", "tail", "both"]


def specify(inputs: Mapping[str, Tensor]) -> dict[str, InputSpec]:
    """What the tail is told of `inputs`."""
    return {name: InputSpec(tuple(value.shape), value.dtype) for name, value in inputs.items()}


@dataclass(frozen=True)
class Plan:
    """Where an encoder is cut and who owns what. Names are those of modules and of `state_dict`."""

    model_type: str
    block: int
    """k: the head has the embeddings and the first k blocks"""
    blocks: int
    """n"""
    cut: str
    """the module at whose entry the activation passes; after whose end, if `after` (k = n)"""
    after: bool
    head: tuple[str, ...]
    tail: tuple[str, ...]
    both: tuple[str, ...]
    shadow: tuple[str, ...]
    """modules that the tail answers for without having them"""
    site: Site | None
    """the feed-forward part of the last block, beside which TA runs; None where k = n, or where none is known"""
    inputs: Mapping[str, InputSpec] = field(hash=False)
    """one row of the example: enough to measure widths"""

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` gives an equal plan."""
        return json.dumps(asdict(self) | {"inputs": {name: [shape, str(dtype)[6:]] for name, (shape, dtype) in self.inputs.items()}})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote. Raises `CutError` if the text is not one."""
        try:
            fields: dict[str, Any] = json.loads(text)
            for name in ("head", "tail", "both", "shadow"):
                fields[name] = tuple(fields[name])
            fields["site"] = fields["site"] and Site(*fields["site"])
            fields["inputs"] = {n: InputSpec(tuple(shape), getattr(torch, dtype)) for n, (shape, dtype) in fields["inputs"].items()}
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CutError(f"this is not the plan of a cut, as Plan.to_json writes it: {error!r}") from error


def model_type(model: nn.Module) -> str:
    """The family of a model, as its configuration names it."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def plan(
    model: nn.Module, example: Mapping[str, Tensor], block: int, blocks: Sequence[str] | None = None, keep: Sequence[str] = ()
) -> Plan:
    """Plan the cut of `model` after its first `block` blocks (0 … n), by one forward of `example`.

    `blocks` names the blocks where `architectures.BLOCK_GLOBS` does not find them, `keep` the modules beyond those of the family that
    finish before the cut but feed every block. Raises `CutError` if `block` is out of range, if no blocks are known, if a name is that
    of no module, if the model is a full encoder-decoder, or if its forward never reaches the cut.
    """
    family = model_type(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and getattr(model, "decoder", None) is not None:
        raise CutError(f"{type(model).__name__} is an encoder with a decoder, which no cut serves. Give its encoder alone.")
    names = block_names(model, blocks)
    n = len(names)
    if not 0 <= block <= n:
        raise CutError(
            f"block = {block}, but {type(model).__name__} has {n} block{'s' if n > 1 else ''} (0 … {n}). "
            "Try 1: the client then keeps the embeddings and one block."
        )
    after = block == n
    cut = names[-1] if after else names[block]
    held = kept_names(model, family, keep)
    trace = _watch(model, example, cut, names[-1], after)
    trace.open(model, held)
    shadow = trace.shadow(model)
    sides = trace.sides(model, shadow)
    owned = {side: tuple(name for name, its in sides.items() if its == side) for side in ("head", "tail", "both")}
    places = () if after else sites(model, names[-1], architecture(family).site)
    site = next((place for place in places if keeps_places(place, trace.shapes)), None)
    return Plan(family, block, n, cut, after, **owned, shadow=shadow, site=site, inputs=_one_row(specify(example)))


@dataclass
class _Trace:
    """Names of modules: called before the cut, finished before it, called after it."""

    before: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    """what the tail runs for real though it finishes before the cut: the kept modules, what is in them, what they are in"""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """of the last block and what is in it"""
    past: bool = False

    def open(self, model: nn.Module, keep: Sequence[str]) -> None:
        """Take note of the modules that the tail holds for real."""
        early = [kept for kept in keep if self._only_before(self._called(kept))]
        for name, _ in model.named_modules():
            if any(f"{name}.".startswith(f"{kept}.") or f"{kept}.".startswith(f"{name}.") for kept in early):
                self.opened.add(name)

    def sides(self, model: nn.Module, shadow: Sequence[str]) -> dict[str, Side]:
        """Who owns each tensor. A second name of one (T5's `shared`) that nobody calls by lies where the first does."""
        state = model.state_dict(keep_vars=True)
        sides = {name: self._side(name, shadow) for name in state}
        called = {id(tensor): sides[name] for name, tensor in state.items() if self._called(name)}
        return {name: side if self._called(name) else called.get(id(state[name]), side) for name, side in sides.items()}

    def _side(self, tensor: str, shadow: Sequence[str]) -> Side:
        """Who owns a tensor: by the nearest called module around it. What the tail runs for real it must hold as well."""
        owner = self._called(tensor.rpartition(".")[0])
        if self._only_before(owner):
            return "head" if any(f"{owner}.".startswith(f"{name}.") for name in shadow) else "both"
        return "tail" if owner in self.later and owner not in self.before else "both"

    def _called(self, module: str) -> str:
        """The nearest called module around this one, or itself."""
        while module and module not in self.before and module not in self.later:
            module = module.rpartition(".")[0]
        return module

    def _only_before(self, module: str) -> bool:
        return module in self.done and module not in self.later

    def shadow(self, model: nn.Module) -> tuple[str, ...]:
        """The topmost modules with parameters that finished before the cut and are not called after it."""
        finished = self.done - self.later - self.opened
        topmost = {name for name in finished if not any(name.startswith(f"{other}.") for other in finished)}
        return tuple(sorted(name for name in topmost if next(model.get_submodule(name).parameters(), None) is not None))


def _watch(model: nn.Module, example: Mapping[str, Tensor], cut: str, last: str, after: bool) -> _Trace:
    trace = _Trace()
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():

        def enter(_module: nn.Module, _args: object, name: str = name) -> None:
            trace.past = trace.past or (name == cut and not after)
            (trace.later if trace.past else trace.before).add(name)

        def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, name: str = name) -> None:
            if not trace.past:
                trace.done.add(name)
            trace.past = trace.past or (name == cut and after)
            if f"{name}.".startswith(f"{last}."):
                trace.shapes[name] = (_shape(received(args, kwargs)), _shape(given(output)))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, with_kwargs=True)]
    try:
        with torch.no_grad():
            model(**example)
    finally:
        for handle in handles:
            handle.remove()
    if not trace.past:
        raise CutError(
            f"the forward of {type(model).__name__} never reaches {cut}. Name the blocks that run, in their order, with blocks = [...]."
        )
    return trace


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _one_row(inputs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    if len({spec.shape[0] for spec in inputs.values()}) != 1:
        return dict(inputs)
    return {name: InputSpec((1, *spec.shape[1:]), spec.dtype) for name, spec in inputs.items()}
