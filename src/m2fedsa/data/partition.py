"""Who holds which samples and which modalities. Every draw depends on the seed and on nothing else.

N samples, M modalities.
"""

import math
from collections.abc import Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive, derive_seed

LARGEST_PROPER_SUBSET = 2


def iid(count: int, clients: int, seed: int, minimum: int = 1) -> tuple[Tensor, ...]:
    """`count` samples dealt out at random, in shares that differ by at most one.

    Returns, per client, its rows in rising order (int64). Errors: ConfigError when the shares fall below `minimum`.
    """
    _require_enough(count, clients, minimum)
    order = torch.randperm(count, generator=derive(seed, "partition", "iid"))
    return tuple(part.sort().values for part in order.tensor_split(clients))


def dirichlet(labels: Tensor, clients: int, alpha: float, seed: int, minimum: int = 1) -> tuple[Tensor, ...]:
    """Label skew: of each class the clients hold shares drawn from Dirichlet(alpha), by Flower's `DirichletPartitioner`.

    The smaller `alpha`, the fewer classes a client has. A client short of `minimum` samples is then given random ones of
    whoever has most at that moment (Flower would draw everything again, at most ten times).

    Returns, per client, its rows of `labels` (N,) in rising order (int64). Errors: ConfigError when `alpha` is not positive or
    the samples do not suffice.
    """
    _require_enough(len(labels), clients, minimum)
    if not 0 < alpha < math.inf:
        raise ConfigError(f"alpha is {alpha}; the concentration of a Dirichlet distribution must be a positive number, such as 0.3")
    from datasets import Dataset  # seconds to import, so only where it is used
    from flwr_datasets.partitioner import DirichletPartitioner

    # Flower cuts each class in the order of the rows, and neighbours may be alike in more than their class
    order = torch.randperm(len(labels), generator=derive(seed, "partition", "order"))
    partitioner = DirichletPartitioner(
        num_partitions=clients,
        partition_by="label",
        alpha=float(alpha),
        min_partition_size=0,
        seed=derive_seed(seed, "partition", "dirichlet"),
    )
    partitioner.dataset = Dataset.from_dict({"label": labels[order].tolist(), "row": order.tolist()})
    parts = [list(partitioner.load_partition(client)["row"]) for client in range(clients)]
    _top_up(parts, minimum)
    return tuple(torch.tensor(sorted(part), dtype=torch.int64) for part in parts)


def _require_enough(count: int, clients: int, minimum: int) -> None:
    if clients < 1:
        raise ConfigError(f"clients is {clients}; there must be at least 1")
    if minimum < 1:
        raise ConfigError(f"minimum is {minimum}; a client without samples cannot take part, so it must be at least 1")
    if clients * minimum > count:
        raise ConfigError(
            f"data.clients = {clients} and data.minimum = {minimum}, each client's least, need {clients * minimum} samples, but there are "
            f"{count}. Ask for at most {count // minimum} clients, or for a lower minimum."
        )


def _top_up(parts: list[list[int]], minimum: int) -> None:
    """Move samples, in place, until no client has fewer than `minimum`; the parts come in random order."""
    for part in parts:
        while len(part) < minimum:
            part.append(max(parts, key=len).pop())


def assign_modalities(clients: int, modalities: Sequence[str], multimodal_fraction: float, seed: int) -> tuple[tuple[str, ...], ...]:
    """Which modalities each client holds: the given fraction (rounded) all of them, the others in turn a single one or a pair.

    The clients are shuffled first; the others go round the proper subsets of one or two modalities, single ones first.

    Returns, per client, its modalities in the order of `modalities`. Errors: ConfigError when the fraction lies outside 0 to 1,
    when nobody would hold some modality, or when there is one modality and not everybody holds it.
    """
    if not 0 <= multimodal_fraction <= 1:
        raise ConfigError(f"multimodal_fraction is {multimodal_fraction}; it is the share of clients with all modalities, between 0 and 1")
    everything = tuple(modalities)
    sizes = range(1, min(LARGEST_PROPER_SUBSET, len(everything) - 1) + 1)
    subsets = list(chain.from_iterable(combinations(everything, size) for size in sizes)) or [everything]
    complete = round(multimodal_fraction * clients)
    order = torch.randperm(clients, generator=derive(seed, "partition", "modalities")).tolist()
    held: list[tuple[str, ...]] = [everything] * clients
    for turn, client in enumerate(order[complete:]):
        held[client] = subsets[turn % len(subsets)]
    missing = set(everything) - set(chain.from_iterable(held))
    if missing:
        raise ConfigError(
            f"no client would hold {', '.join(sorted(missing))}: {clients} clients, {complete} of them with all modalities; "
            "ask for more clients or a higher multimodal_fraction"
        )
    return tuple(held)


def draw_presence(count: int, modalities: int, missing_rate: float, generator: torch.Generator) -> Tensor:
    """(N, M) bool: each sample loses each modality with probability `missing_rate`, but keeps one, drawn at random, if it would lose all.

    Errors: ConfigError when the rate lies outside 0 to 1 (1 itself would leave every sample with one).
    """
    if not 0 <= missing_rate < 1:
        raise ConfigError(f"missing_rate is {missing_rate}; it is a probability of at least 0 and below 1")
    if modalities == 1 or missing_rate == 0:
        return torch.ones(count, modalities, dtype=torch.bool)
    present = torch.rand(count, modalities, generator=generator) >= missing_rate
    kept = torch.randint(modalities, (count,), generator=generator)
    lost_all = ~present.any(1)
    present[lost_all, kept[lost_all]] = True
    return present
