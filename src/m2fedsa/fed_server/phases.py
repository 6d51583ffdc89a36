"""When transfer starts. (Section "When transfer starts".)"""

from collections.abc import Sequence

PATIENCE = 10
"""rounds without progress"""
PROGRESS = 0.05
"""the least relative fall of the loss that counts as progress"""


def plateau(losses: Sequence[float]) -> bool:
    """Whether the lowest of the last `PATIENCE` losses is not at least `PROGRESS` below the lowest before them."""
    earlier, recent = losses[:-PATIENCE], losses[-PATIENCE:]
    return bool(earlier) and min(recent) > (1.0 - PROGRESS) * min(earlier)


def transfer_since(start: int | str, number: int, losses: Sequence[float], since: int | None) -> int | None:
    """The first round of the transfer phase as known before round `number`: once begun it stays; None while it has not.

    `losses`: mean fused loss of each round before `number`, over samples of several modalities.
    """
    if since is not None or start == "never":
        return since
    begins = number >= start if isinstance(start, int) else plateau(losses)
    return number if begins else None
