"""Any Hugging Face encoder as a head and a tail that together are it, to the bit, without a line of its code copied or changed.

`plan` finds out who owns what. The head is the model's own forward, stopped at the cut. The tail is the model's own forward once more,
with shadows for what it does not have, and the activation put in at the cut.

B batch, D_z width of the pooled output.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.messages import InputSpec
from m2fedsa.models.architectures import Pooling, architecture, positioned
from m2fedsa.models.head import Head
from m2fedsa.models.layout import pack, unpack
from m2fedsa.models.plan import Plan, model_type, plan, specify
from m2fedsa.models.pooling import pool
from m2fedsa.models.tail import Tail

__all__ = ["Head", "InputSpec", "Plan", "Pooling", "Tail", "cut", "pack", "plan", "specify", "unpack", "verify", "whole"]


def cut(model: nn.Module, plan: Plan, pooling: Pooling | None = None) -> tuple[Head, Tail]:
    """Both sides of `model`. `pooling` is by default that of the model's family."""
    return Head(model, plan), Tail(model, plan, pooling)


def whole(model: nn.Module, inputs: Mapping[str, Tensor], pooling: Pooling | None = None) -> Tensor:
    """z (B, D_z) of the model in one piece, without adapters: what head and tail together must equal."""
    family = model_type(model)
    known = architecture(family)
    return pool(model, model(**positioned(family, inputs)), pooling or known.pooling, inputs.get(known.mask))


@torch.no_grad()
def verify(model: nn.Module, head: Head, tail: Tail, example: Mapping[str, Tensor], pooling: Pooling | None = None) -> None:
    """Raise `CutError` unless head and tail together are `model` to the bit: its last hidden state, and z.

    Integers cannot be poisoned as NaN poisons what leaks through the cut, so every cut is verified before it is used. The activation is
    packed as on a wire.
    """
    family, name = tail.plan.model_type, type(model).__name__
    mask = example.get(architecture(family).mask)
    ours = tail.run(unpack(*pack(head(example))), mask, specify(example))
    one = model(**positioned(family, example))
    pooling = pooling or tail.pooling
    pairs = {
        "last_hidden_state": (ours.last_hidden_state, one.last_hidden_state),
        f"pooling {pooling!r}": (pool(tail.encoder, ours, pooling, mask), pool(model, one, pooling, mask)),
    }
    for what, (split, whole) in pairs.items():
        if not torch.equal(split, whole):
            again = model(**positioned(family, example))
            if not torch.equal(one.last_hidden_state, again.last_hidden_state):
                raise CutError(
                    f"{name} answers the same inputs differently each time, so no cut of it can be verified. Choose another encoder."
                )
            why = _why(tail, split, whole)
            raise CutError(f"{name}, cut after block {tail.plan.block}, is not the whole model in its {what} ({why})")


def _why(tail: Tail, split: Tensor, whole: Tensor) -> str:
    if not bool(split.isnan().any()) or bool(whole.isnan().any()):
        gap = (split - whole).abs().max()
        return f"they differ by up to {gap:.1e}: an input that stays with the client decides on what comes after the cut"
    return (
        "NaN: a module before the cut feeds what comes after it. Name it in the setting `keep`; it is, or is in, one of "
        f"{', '.join(tail.plan.shadow) or 'the inputs, which nothing can keep'}"
    )
