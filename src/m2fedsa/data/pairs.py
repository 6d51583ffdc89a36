"""Pairs of two modalities whose relation is the label, drawn so that neither one alone says anything about it."""

import torch
from torch import Tensor

from m2fedsa.errors import ConfigError


def draw_pairs(classes: Tensor, pairings: int, generator: torch.Generator) -> Tensor:
    """Pair N samples with each other: the first partner gives one modality, the second another.

    Every sample is the first partner of `pairings` pairs and the second of as many. In half of either the partners are of the same
    class; in the other half the partner's classes are as evenly spread over the others as counting allows. No pair comes twice.

    classes: (N,) int64, every class equally often. Returns (N * pairings, 2) int64.
    Errors: ConfigError when `pairings` is odd or asks for more different pairs than there are.
    """
    values, counts = torch.unique(classes, return_counts=True)
    kinds, size = len(values), int(counts[0])
    assert (counts == size).all(), "classes differ in size"
    most = 2 * min(kinds - 1, size)
    if pairings % 2 or not 2 <= pairings <= most:
        raise ConfigError(f"pairings is {pairings}; half of the pairs agree, so it must be an even number from 2 to {most}")
    members = torch.stack([(classes == value).nonzero()[:, 0] for value in values])
    first, second = (_shuffled(members, generator) for _ in range(2))
    kind, place = torch.arange(kinds)[:, None], torch.arange(size)[None, :]
    pairs = []
    for turn in range(pairings // 2):
        same = second[kind, (place + turn) % size]
        # a bijection: the sample at a place meets the one at the same place of another class, each place its own step between classes
        other = second[(kind + 1 + (place + turn) % (kinds - 1)) % kinds, place]
        pairs += [torch.stack([first, partner], -1).reshape(-1, 2) for partner in (same, other)]
    return torch.cat(pairs)


def _shuffled(members: Tensor, generator: torch.Generator) -> Tensor:
    """(K, size) with each row in an order of its own."""
    return torch.stack([row[torch.randperm(len(row), generator=generator)] for row in members])


def even_classes(classes: Tensor, generator: torch.Generator) -> Tensor:
    """(int64, sorted) which of N samples to keep so that every class is as frequent as the rarest."""
    values, counts = torch.unique(classes, return_counts=True)
    size = int(counts.min())
    members = ((classes == value).nonzero()[:, 0] for value in values)
    return torch.cat([own[torch.randperm(len(own), generator=generator)][:size] for own in members]).sort().values
