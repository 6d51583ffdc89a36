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
from m2fedsa.models.architectures import Site, architecture, block_names, feed_forward_site


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


def plan(model: nn.Module, example: Mapping[str, Tensor], block: int, blocks: Sequence[str] | None = None) -> Plan:
    """Plan the cut of `model` after its first `block` blocks (0 … n), by one forward of `example`.

    `blocks` names the blocks where `architectures.BLOCK_GLOBS` does not find them. Raises `CutError` if `block` is out of range, if no
    blocks are known, if the model is a full encoder-decoder, or if its forward never reaches the cut.
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
    trace = _watch(model, example, cut, after)
    keep = architecture(family).keep
    sides = {name: trace.side(name, keep) for name in model.state_dict()}
    owned = {side: tuple(name for name, its in sides.items() if its == side) for side in ("head", "tail", "both")}
    site = None if after else feed_forward_site(model, names[-1], family)
    shadow = trace.shadow(model, keep)
    return Plan(family, block, n, cut, after, **owned, shadow=shadow, site=site, inputs=_one_row(specify(example)))


@dataclass
class _Trace:
    """Names of modules: called before the cut, finished before it, called after it."""

    before: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    past: bool = False

    def side(self, tensor: str, keep: Sequence[str]) -> Literal["head", "tail", "both"]:
        """Who owns a tensor: by the nearest called module around it."""
        if any(tensor.startswith(f"{module}.") for module in keep):
            return "both"
        owner = tensor.rpartition(".")[0]
        while owner and owner not in self.before and owner not in self.later:
            owner = owner.rpartition(".")[0]
        if owner in self.done and owner not in self.later:
            return "head"
        return "tail" if owner in self.later and owner not in self.before else "both"

    def shadow(self, model: nn.Module, keep: Sequence[str]) -> tuple[str, ...]:
        """The topmost modules with parameters that finished before the cut and are not called after it."""
        finished = self.done - self.later - set(keep)
        topmost = {name for name in finished if not any(name.startswith(f"{other}.") for other in self.done)}
        return tuple(sorted(name for name in topmost if next(model.get_submodule(name).parameters(), None) is not None))


def _watch(model: nn.Module, example: Mapping[str, Tensor], cut: str, after: bool) -> _Trace:
    trace = _Trace()
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():

        def enter(_module: nn.Module, _args: object, name: str = name) -> None:
            trace.past = trace.past or (name == cut and not after)
            (trace.later if trace.past else trace.before).add(name)

        def leave(_module: nn.Module, _args: object, _output: object, name: str = name) -> None:
            if not trace.past:
                trace.done.add(name)
            trace.past = trace.past or (name == cut and after)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
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


def _one_row(inputs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    if len({spec.shape[0] for spec in inputs.values()}) != 1:
        return dict(inputs)
    return {name: InputSpec((1, *spec.shape[1:]), spec.dtype) for name, spec in inputs.items()}
