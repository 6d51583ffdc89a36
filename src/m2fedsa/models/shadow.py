"""Modules that are elsewhere, and answer all the same: with NaN of the right shape.

The tail runs the model's own forward from its very start. What finished before the cut it does not have; a shadow stands in, so that
masks, rotary tables, shifted windows and stage sizes still come from the model's own code. NaN is the safety net: whatever leaks from
before the cut makes the output NaN instead of silently wrong.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

_REMEMBERED = 64
"""Input shapes that a shadow remembers; batches and paddings of a run are far fewer."""


class Blanks:
    """Tensors without content: NaN, or zero where the type has no NaN. All of one type are views of one memory, never filled twice."""

    def __init__(self) -> None:
        self._memory: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def blank(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A contiguous tensor of NaN or zeros. Models may write into it: the next one then comes from fresh memory."""
        size = torch.Size(shape).numel()
        memory = self._memory.get((dtype, device))
        if memory is None or memory.numel() < size or memory._version:
            empty = float("nan") if dtype.is_floating_point or dtype.is_complex else 0
            # A tensor born in inference mode could not take part in autograd later.
            with torch.inference_mode(False):
                memory = self._memory[dtype, device] = torch.full((size,), empty, dtype=dtype, device=device)
        return memory[:size].view(shape)


class _Input(NamedTuple):
    """Stands, in a remembered answer, for an input that was handed through."""

    place: int


class Shadow:
    """The forward of a module whose tensors are elsewhere. Its answers come from the module's own code, run on meta tensors.

    An answer is remembered by the shapes and values of what it was asked, so that a call costs next to nothing.
    """

    def __init__(self, module: nn.Module, blanks: Blanks) -> None:
        module.to("meta")
        self._forward = module.forward
        self._blanks = blanks
        self._answers: dict[tuple[object, ...], Any] = {}
        # The module itself stays in its place: others may read its attributes, e.g. the type of its weights.
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module would answer, as NaN; inputs that it hands through come back as they are."""
        leaves, tree = tree_flatten((args, kwargs))
        question = (tree, *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves))
        if question not in self._answers:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[question] = self._ask(leaves, tree)
        device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), torch.device("cpu"))

        def fill(part: Any) -> Any:
            if isinstance(part, _Input):
                return leaves[part.place]
            return self._blanks.blank(part.shape, part.dtype, device) if isinstance(part, Tensor) else part

        return tree_map(fill, self._answers[question], is_leaf=lambda part: isinstance(part, _Input))

    def _ask(self, leaves: list[Any], tree: Any) -> Any:
        shapes = [leaf.detach().to("meta") if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(shapes, tree)
        with torch.no_grad():
            answer = self._forward(*args, **kwargs)
        inputs = {id(shape): _Input(place) for place, shape in enumerate(shapes) if isinstance(shape, Tensor)}
        return tree_map(lambda part: inputs.get(id(part), part), answer)
