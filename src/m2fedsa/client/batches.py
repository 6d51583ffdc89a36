"""Which samples a client draws, in which order, and which of their modalities enter fusion."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from m2fedsa.config import Federation
from m2fedsa.data.samples import Samples, labelled
from m2fedsa.messages import Phase

POOL = 8
"""Batches whose samples are sorted by length together."""


def drawn(samples: Samples, phase: Phase, unlabelled: bool) -> Tensor:
    """(n,) int64: the samples of a phase: labelled ones; in the transfer phase also unlabelled ones of several modalities."""
    take = labelled(samples.labels)
    if phase == "transfer" and unlabelled:
        take = take | teachable(samples)
    return take.nonzero().squeeze(1)


def teachable(samples: Samples) -> Tensor:
    """(N,) bool: samples without a label that have several modalities."""
    taught: Tensor = ~labelled(samples.labels) & (samples.presence.sum(1) > 1)
    return taught


def even_odds(rows: Tensor, labels: Tensor) -> Tensor:
    """(n,): how often a draw takes each of these rows so that all classes among them are drawn alike, unlabelled ones as before.
    labels (N,) int64."""
    own = labels[rows]
    known = own >= 0
    counts = torch.bincount(own[known])
    weights = torch.ones(len(rows), dtype=torch.float64)
    weights[known] = known.sum() / ((counts > 0).sum() * counts[own[known]]).double()
    return weights


def batches(
    rows: Tensor, settings: Federation, generator: torch.Generator, lengths: Tensor | None = None, odds: Tensor | None = None
) -> Iterator[Tensor]:
    """Batches of rows: `local_epochs` passes, each in a new order; or `local_steps` batches out of as many passes as it takes.

    `lengths` (N,), by row: samples of like length share a batch. `odds` (n,), by place in `rows`: a pass draws as many rows as there are,
    each by its odds, again and again.
    """
    if settings.local_steps is None:
        for _ in range(settings.local_epochs):
            yield from _pass(rows, settings.batch_size, generator, lengths, odds)
        return
    left = settings.local_steps
    while left > 0:
        for batch in _pass(rows, settings.batch_size, generator, lengths, odds)[:left]:
            yield batch
            left -= 1


def _pass(rows: Tensor, size: int, generator: torch.Generator, lengths: Tensor | None, odds: Tensor | None) -> Sequence[Tensor]:
    """All rows once, or drawn, in batches. By length: sorted within pools of several batches, so that company changes from pass to pass."""
    if odds is None:
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
    else:
        shuffled = rows[torch.multinomial(odds, len(rows), replacement=True, generator=generator)]
    if lengths is None:
        return torch.split(shuffled, size)
    ordered = [pool[lengths[pool].argsort(stable=True)] for pool in torch.split(shuffled, size * POOL)]
    made = [batch for pool in ordered for batch in torch.split(pool, size)]
    return [made[place] for place in torch.randperm(len(made), generator=generator).tolist()]


def modality_dropout(presence: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """(B, M) bool: presence with each modality of a sample left out with this probability, never all of them."""
    if probability == 0.0:
        return presence
    draws = torch.rand(presence.shape, generator=generator).masked_fill(~presence, -1.0)
    keep = (draws >= probability) & presence
    # Where all were drawn out, the one with the largest draw stays.
    rescued = torch.zeros_like(presence).scatter_(1, draws.argmax(1, keepdim=True), True)
    return torch.where(keep.any(1, keepdim=True), keep, rescued)
