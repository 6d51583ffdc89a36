"""Modules that are elsewhere, and answer all the same: with NaN of the right shape.

The tail runs the model's own forward from its very start. What finished before the cut it does not have; a shadow stands in, so that
masks, rotary tables, shifted windows and stage sizes still come from the model's own code. NaN is the safety net: whatever leaks from
before the cut makes the output NaN instead of silently wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from m2fedsa.errors import CutError

_REMEMBERED = 1024
"""Input shapes that a shadow remembers: batch sizes times lengths of texts, of which a run with many clients has hundreds."""


class Blanks:
    """Tensors without content: NaN, or zero where the type has no NaN. All of one type are views of one memory, never filled twice.

    They lie on `device`, which whoever runs the model sets.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._memory: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def blank(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor of NaN or zeros. Models may write into it: the next one then comes from fresh memory."""
        size = torch.Size(shape).numel()
        memory = self._memory.get((dtype, self.device))
        if memory is None or memory.numel() < size or memory._version:
            empty = float("nan") if dtype.is_floating_point or dtype.is_complex else 0
            # A tensor born in inference mode could not take part in autograd later.
            with torch.inference_mode(False):
                memory = self._memory[dtype, self.device] = torch.full((size,), empty, dtype=dtype, device=self.device)
        return memory[:size].view(shape)


class _Input(NamedTuple):
    """Stands, in a remembered answer, for an input that was handed through."""

    place: int


class _Answer(NamedTuple):
    output: Any
    """on meta"""
    hands_through: bool


class Shadow:
    """The forward of a module whose tensors are elsewhere. Its answers come from the module's own code, run on meta tensors.

    An answer is remembered by the shapes and values of what it was asked, so that a call costs next to nothing. What cannot run on meta,
    because a value decides on a shape within, runs on zeros that take no memory. Raises `CutError` if it cannot run on these either.
    """

    def __init__(self, module: nn.Module, blanks: Blanks) -> None:
        module.to("meta")
        self._module = module
        self._forward = module.forward
        self._blanks = blanks
        self._answers: dict[tuple[object, object], _Answer] = {}
        # The module itself stays in its place: others may read its attributes, e.g. the type of its weights.
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module would answer, as NaN; inputs that it hands through come back as they are."""
        question = (_sign(args), _sign(kwargs))
        answer = self._answers.get(question)
        if answer is None:
            if len(self._answers) >= _REMEMBERED:
                del self._answers[next(iter(self._answers))]
            answer = self._answers[question] = self._ask(args, kwargs)
        given = tree_leaves((args, kwargs)) if answer.hands_through else []

        def fill(part: Any) -> Any:
            if isinstance(part, _Input):
                return given[part.place]
            return self._blanks.blank(part.shape, part.dtype) if isinstance(part, Tensor) else part

        return tree_map(fill, answer.output, is_leaf=lambda part: isinstance(part, _Input))

    def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Answer:
        leaves, tree = tree_flatten((args, kwargs))
        try:
            shapes = [leaf.detach().to("meta") if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            output = self._run(*tree_unflatten(shapes, tree))
        except Exception:  # what a model's own code raises on meta is anything
            shapes = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            output = self._on_zeros(*tree_unflatten(shapes, tree))
        inputs = {id(shape): _Input(place) for place, shape in enumerate(shapes) if isinstance(shape, Tensor)}
        hands_through = any(id(part) in inputs for part in tree_leaves(output))

        def shape(part: Any) -> Any:
            return inputs.get(id(part), part.to("meta") if isinstance(part, Tensor) else part)

        return _Answer(tree_map(shape, output), hands_through)

    @torch.no_grad()
    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._forward(*args, **kwargs)

    def _on_zeros(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            with _zeros(self._module, self._blanks.device):
                return self._run(args, kwargs)
        except Exception as error:
            name, reason = type(self._module).__name__, str(error).strip().partition("\n")[0]
            raise CutError(
                f"{name}, which the tail does not have, cannot be asked for the shape of its answer ({type(error).__name__}: {reason}). "
                "Name it in `keep`, or cut before it."
            ) from error


@contextmanager
def _zeros(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Zeros in the place of the module's tensors: one number for each, or one expert's or one channel's, however large they are."""
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for table in tables:
            replaced += [(table, name, tensor) for name, tensor in table.items() if tensor is not None]
    try:
        for table, name, tensor in replaced:
            # Grouped products want strides within a matrix.
            table[name] = torch.zeros(tensor.shape[1:] if tensor.dim() > 2 else (), dtype=tensor.dtype, device=device).expand(tensor.shape)
        yield
    finally:
        for table, name, tensor in replaced:
            table[name] = tensor


def _sign(part: Any) -> object:
    """What of an argument decides on the shape of the answer. Far cheaper than a flattened tree."""
    if isinstance(part, Tensor):
        return part.shape, part.dtype
    if isinstance(part, dict):
        return tuple((name, _sign(value)) for name, value in part.items())
    if isinstance(part, (tuple, list)):
        return tuple(_sign(value) for value in part)
    return part if part is None or isinstance(part, (bool, int, float, str)) else repr(part)
