"""Which modalities a client holds, and which of them a sample has. Every draw depends on the seed and on nothing else.

N samples, M modalities.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor

from m2fedsa.config import Data
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

LARGEST_PROPER_SUBSET = 2
EVERYTHING = "all"


def held_by(settings: Data, modalities: Sequence[str], seed: int) -> tuple[tuple[str, ...], ...]:
    """Which modalities each of `settings.clients` clients holds: by `holdings`, or by `multimodal_fraction` where that is empty."""
    if settings.holdings:
        return assign_subsets(settings.clients, modalities, settings.holdings, seed)
    return assign_modalities(settings.clients, modalities, settings.multimodal_fraction, seed)


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


def assign_subsets(clients: int, modalities: Sequence[str], fractions: Mapping[str, float], seed: int) -> tuple[tuple[str, ...], ...]:
    """Which modalities each client holds: `fractions` of the clients hold a subset, written `image+text` or `all`; who is who is drawn.

    Numbers of clients are rounded by the largest remainder. `ConfigError` for a modality that there is not, a subset told twice, fractions
    that do not add up to 1, and a modality that nobody would hold.
    """
    everything, shares = tuple(modalities), dict[tuple[str, ...], float]()
    for name, fraction in fractions.items():
        named = everything if name == EVERYTHING else tuple(part.strip() for part in name.split("+"))
        strange = [part for part in named if part not in everything]
        subset = tuple(modality for modality in everything if modality in named)
        if strange or len(subset) < len(named):
            raise ConfigError(
                f'data.holdings."{name}": {(strange or [name])[0]} is no modality of the data; write {"+".join(everything)} or a part'
            )
        if subset in shares:
            raise ConfigError(f'data.holdings."{name}": this subset of the modalities is told twice')
        shares[subset] = fraction
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"data.holdings add up to {sum(shares.values()):g}; the fractions of all clients together must be 1")
    exact = [clients * fraction for fraction in shares.values()]
    numbers = [int(share + 1e-9) for share in exact]
    for place in sorted(range(len(exact)), key=lambda place: numbers[place] - exact[place])[: clients - sum(numbers)]:
        numbers[place] += 1
    dealt = [subset for subset, number in zip(shares, numbers, strict=True) for _ in range(number)]
    missing = set(everything) - set(chain.from_iterable(dealt))
    if missing:
        raise ConfigError(f"no client would hold {', '.join(sorted(missing))}: data.holdings give it to none of {clients} clients")
    order = torch.randperm(clients, generator=derive(seed, "partition", "modalities")).tolist()
    held: list[tuple[str, ...]] = [()] * clients
    for client, subset in zip(order, dealt, strict=True):
        held[client] = subset
    return tuple(held)


def rates_of(settings: Data, held: Sequence[str]) -> float | Tensor:
    """The missing rate of these modalities, one for all or (M,); `ConfigError` for a modality that there is not is the caller's."""
    if not settings.missing_rates:
        return settings.missing_rate
    return torch.tensor([settings.missing_rates.get(name, settings.missing_rate) for name in held])


def draw_presence(count: int, modalities: int, missing_rate: float | Tensor, generator: torch.Generator) -> Tensor:
    """(N, M) bool: each sample loses each modality with probability `missing_rate` (one for all, or (M,)), but keeps one, drawn at random,
    if it would lose all.

    Errors: ConfigError when a rate lies outside 0 to 1 (1 itself would leave every sample with one).
    """
    rates = torch.as_tensor(missing_rate)
    if not bool(((rates >= 0) & (rates < 1)).all()):
        raise ConfigError(f"missing_rate is {missing_rate}; it is a probability of at least 0 and below 1")
    if modalities == 1 or not bool(rates.any()):
        return torch.ones(count, modalities, dtype=torch.bool)
    present = torch.rand(count, modalities, generator=generator) >= missing_rate
    kept = torch.randint(modalities, (count,), generator=generator)
    lost_all = ~present.any(1)
    present[lost_all, kept[lost_all]] = True
    return present
