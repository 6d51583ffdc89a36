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
from m2fedsa.models.architectures import Pooling, architecture
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
    known = architecture(model_type(model))
    return pool(model, model(**inputs), pooling or known.pooling, inputs.get(known.mask))


@torch.no_grad()
def verify(model: nn.Module, head: Head, tail: Tail, example: Mapping[str, Tensor], pooling: Pooling | None = None) -> None:
    """Raise `CutError` unless head and tail together are `model` to the bit: its last hidden state, its pooler's output, z.

    Integers cannot be poisoned as NaN poisons what leaks through the cut, so every cut is verified before it is used. The activation is
    packed as on a wire.
    """
    mask = example.get(architecture(tail.plan.model_type).mask)
    hidden = unpack(*pack(head(example)))
    ours, theirs = tail.run(hidden, mask, specify(example)), model(**example)
    pooling = pooling or tail.pooling
    pairs = {
        "last_hidden_state": (ours.last_hidden_state, theirs.last_hidden_state),
        "pooler_output": (getattr(ours, "pooler_output", None), getattr(theirs, "pooler_output", None)),
        f"pooling {pooling!r}": (pool(tail.encoder, ours, pooling, mask), pool(model, theirs, pooling, mask)),
    }
    for name, (split, one) in pairs.items():
        if one is None or torch.equal(split, one):
            continue
        leak = bool(split.isnan().any()) and not bool(one.isnan().any())
        why = "NaN: a module before the cut feeds what comes after it; name it in `keep` in models/architectures.py"
        why = why if leak else f"they differ by up to {(split - one).abs().max():.1e}"
        raise CutError(f"{type(model).__name__}, cut after block {tail.plan.block}, is not the whole model in its {name} ({why})")
