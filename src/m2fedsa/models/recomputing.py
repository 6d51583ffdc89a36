"""Less memory on the main server: blocks of a tail that are computed again on the way back instead of keeping what gradients need."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from m2fedsa.models.architectures import block_names
from m2fedsa.models.tail import Tail


def recompute(tail: Tail, blocks: Sequence[str] | None = None) -> None:
    """Let every block of the tail but the last keep its input alone. Features and gradients stay the same to the bit.

    The last one is the first on the way back: it would be computed twice for nothing, and the task adapter's dropout lies in it.
    `blocks`: their names, where they are not known.
    """
    names = block_names(tail.encoder, blocks)
    for name in names[tail.plan.block : -1]:
        _again(tail.encoder.get_submodule(name))


def _again(block: nn.Module) -> None:
    forward = block.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Frozen and in evaluation mode: nothing is drawn at random in there.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    block.forward = twice
