"""Less work in the last block: its feed-forward part, and the task adapter beside it, for the pooled token alone.

What that part gives is added to the hidden state of all tokens. Asked about one token it gives (B, 1, D), and the sum spreads that over all
of them: wrong for every token but the pooled one, which is the only one that is read. Attention stays whole, for it mixes them.

Sums of a product of another shape are rounded in another way, so features equal the whole encoder's within rounding, not to the bit.

B batch, T tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from m2fedsa.messages import InputSpec
from m2fedsa.models.cut import Head, Tail, specify
from m2fedsa.models.pooling import at_token, token_of
from m2fedsa.models.received import given

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""relative to the largest feature; wider types are coarser"""


def narrow(head: Head, tail: Tail, example: Mapping[str, Tensor]) -> bool:
    """Let the tail compute the pooled token alone from its last feed-forward part on, if nothing else of that part is read.

    Whether it is read is seen by the gradients of the features of `example`: those of all other tokens must be zero. Where they are not,
    or where the part is none of tokens, the tail stays as it was. A tail is verified before: of what it puts out, only the pooled
    features are right after.
    """
    hidden, mask, specs = head(example), example.get(head.mask_argument or ""), specify(example)
    places_B = token_of(tail.pooling, mask, len(hidden)).to(hidden.device)
    if tail.plan.site is None or tail.pooling == "mean" or not _reads_one(tail, hidden, mask, specs, places_B):
        return False
    with torch.no_grad():
        whole = tail(hidden, mask, specs)
        tail.narrow = True
        try:
            gap = (tail(hidden, mask, specs) - whole).abs().max()
            tail.narrow = bool(gap <= TOLERANCE.get(whole.dtype, 0.05) * whole.abs().max())
        except (RuntimeError, ValueError, IndexError):
            # A sum that does not spread one token over all of them.
            tail.narrow = False
    return tail.narrow


def _reads_one(tail: Tail, hidden: Tensor, mask: Tensor | None, specs: Mapping[str, InputSpec], places_B: Tensor) -> bool:
    """Whether of what the last feed-forward part gives, features depend on the tokens at `places_B` alone."""
    assert tail.plan.site is not None
    seen: list[Tensor] = []

    def see(_module: object, _args: object, output: Any) -> None:
        seen.append(given(output))
        seen[-1].retain_grad()

    handle = tail.encoder.get_submodule(tail.plan.site.last).register_forward_hook(see)
    try:
        z_BD = tail(hidden.requires_grad_(), mask, specs)
    finally:
        handle.remove()
    # Any direction but the sum, which normalisations take away.
    directions = torch.linspace(-1, 2, z_BD.numel(), device=z_BD.device).reshape(z_BD.shape).to(z_BD.dtype)
    z_BD.backward(directions)
    gradient = seen[-1].grad
    if gradient is None or gradient.dim() != 3 or gradient.shape[0] != len(hidden) or not bool(gradient.any()):
        return False
    total = gradient.ne(0).any(2).sum()
    return bool(total == at_token(gradient, places_B).ne(0).any(2).sum())
