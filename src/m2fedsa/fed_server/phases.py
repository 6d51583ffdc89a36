"""When transfer starts. (Section "When transfer starts".)"""

import itertools
import statistics
from collections.abc import Sequence

PATIENCE = 10
"""rounds without progress"""
PROGRESS = 0.05
"""the least relative fall of the loss that counts as progress"""
EVEN = 0.3
"""the largest coefficient of variation at which the authors' code calls steps even"""


def plateau(losses: Sequence[float]) -> bool:
    """Whether the lowest of the last `PATIENCE` losses is not at least `PROGRESS` below the lowest before them."""
    earlier, recent = losses[:-PATIENCE], losses[-PATIENCE:]
    return bool(earlier) and min(recent) > (1.0 - PROGRESS) * min(earlier)


def even_steps(losses: Sequence[float]) -> bool:
    """The rule of the authors' code: whether the last `PATIENCE` changes of the loss, whatever their sign, are of nearly one size."""
    last = losses[-PATIENCE - 1 :]
    if len(last) <= PATIENCE:
        return False
    changes = [abs(after - before) for before, after in itertools.pairwise(last)]
    return statistics.stdev(changes) < EVEN * statistics.fmean(changes)


def transfer_since(start: int | str, number: int, losses: Sequence[float], since: int | None) -> int | None:
    """The first round of the transfer phase as known before round `number`: once begun it stays; None while it has not.

    `losses`: mean fused loss of each round before `number`, over samples of several modalities.
    """
    if since is not None or start == "never":
        return since
    rule = even_steps if start == "authors" else plateau
    begins = number >= start if isinstance(start, int) else rule(losses)
    return number if begins else None
