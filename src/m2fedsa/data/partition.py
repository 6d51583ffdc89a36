"""Who holds which samples. Every draw depends on the seed and on nothing else.

Skews are those of Flower's partitioners. Each function returns, per client, its rows in rising order (int64); together they are all rows,
each once. N samples.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from m2fedsa.config import Data
from m2fedsa.data.samples import labelled
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive, derive_seed

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Parts = tuple[Tensor, ...]
TENTHS = 10
Growth = Literal["linear", "square", "exponential"]
_GROWTH: Mapping[str, Callable[[int, int], float]] = {
    "linear": lambda number, _: float(number),
    "square": lambda number, _: float(number**2),
    "exponential": lambda number, clients: math.exp(number - clients),
}


def partitioned(settings: Data, labels: Tensor, seed: int, groups: Sequence[str] | None = None) -> Parts:
    """The parts of `settings.clients` clients, as `settings.partition` says.

    labels (N, ...): as `Samples.labels`. groups: the value of `settings.column` of each row. `ConfigError` when a setting is out of range
    or the samples do not suffice.
    """
    clients, minimum = settings.clients, settings.minimum
    match settings.partition:
        case "dirichlet":
            return dirichlet(strata(labels), clients, settings.alpha, seed, minimum)
        case "iid":
            return iid(len(labels), clients, seed, minimum)
        case "shards":
            return shards(strata(labels), clients, settings.shards, seed, minimum)
        case "linear" | "square" | "exponential":
            return unequal(len(labels), clients, settings.partition, seed, minimum)
        case "column":
            assert groups is not None, "whoever knows the columns says what stands in this one"
            return by_column(groups, clients, seed)


def strata(labels: Tensor) -> Tensor:
    """(N,) int64: one class per sample, to draw by. Of several classes the rarest, after all classes where there is none; of numbers the
    tenth of all in which the first of them lies; -1 without a label."""
    if labels.ndim == 1 and not labels.is_floating_point():
        return labels
    known = labelled(labels)
    found = torch.full((len(labels),), -1, dtype=torch.int64)
    if labels.is_floating_point():
        order = labels[known].reshape(int(known.sum()), -1)[:, 0].argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        found[known] = place * TENTHS // max(len(order), 1)
        return found
    frequency = labels[known].sum(0)
    rarity = torch.where(labels[known] == 1, frequency, len(labels) + 1)
    found[known] = torch.where(labels[known].any(1), rarity.argmin(1), labels.shape[1])
    return found


def iid(count: int, clients: int, seed: int, minimum: int = 1) -> Parts:
    """`count` samples dealt out at random, in shares that differ by at most one. `ConfigError` when they fall below `minimum`."""
    _require_enough(count, clients, minimum)
    order = torch.randperm(count, generator=derive(seed, "partition", "iid"))
    return tuple(part.sort().values for part in order.tensor_split(clients))


def dirichlet(labels: Tensor, clients: int, alpha: float, seed: int, minimum: int = 1) -> Parts:
    """Label skew: of each class the clients hold shares drawn from Dirichlet(alpha), by Flower's `DirichletPartitioner`.

    The smaller `alpha`, the fewer classes a client has. A client short of `minimum` samples is then given random ones of
    whoever has most at that moment (Flower would draw everything again, at most ten times).

    labels (N,) int64. `ConfigError` when `alpha` is not positive or the samples do not suffice.
    """
    _require_enough(len(labels), clients, minimum)
    if not 0 < alpha < math.inf:
        raise ConfigError(f"alpha is {alpha}; the concentration of a Dirichlet distribution must be a positive number, such as 0.3")
    from flwr_datasets.partitioner import DirichletPartitioner

    drawn = derive_seed(seed, "partition", "dirichlet")
    partitioner = DirichletPartitioner(num_partitions=clients, partition_by="label", alpha=float(alpha), min_partition_size=0, seed=drawn)
    return _parts(partitioner, labels, clients, seed, minimum)


def shards(labels: Tensor, clients: int, number: int, seed: int, minimum: int = 1) -> Parts:
    """Label skew: sorted by class and cut into clients x number pieces of like size, of which each client has `number` (McMahan et al.
    2017), by Flower's `ShardPartitioner`; what does not divide is dealt out one by one.

    labels (N,) int64. `ConfigError` when the samples do not suffice.
    """
    _require_enough(len(labels), clients, max(minimum, number))
    from flwr_datasets.partitioner import ShardPartitioner

    drawn = derive_seed(seed, "partition", "shards")
    partitioner = ShardPartitioner(num_partitions=clients, partition_by="label", num_shards_per_partition=number, seed=drawn)
    order = torch.randperm(len(labels), generator=derive(seed, "partition", "order"))
    spare = len(labels) % (clients * number)
    left, dealt = order[:spare], order[spare:]
    # Flower sorts by the column itself, and may leave equal ones in any order: so each row has a place of its own.
    place = torch.empty_like(labels)
    place[dealt[labels[dealt].argsort(stable=True)]] = torch.arange(len(dealt))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specifying null_placement", FutureWarning)  # between datasets and pyarrow
        parts = _dealt(partitioner, place, dealt, clients)
    for client, row in enumerate(left.tolist()):  # Flower would leave them out
        parts[client % clients].append(row)
    return _sorted(parts)


def unequal(count: int, clients: int, growth: Growth, seed: int, minimum: int = 1) -> Parts:
    """Quantity skew: sizes that grow with the client's number, linearly, by its square or exponentially; which client is which number is
    drawn. A client short of `minimum` is then given random samples of whoever has most.

    (The sizes of Flower's partitioners of these names, which refuse a client without a sample.) `ConfigError` when the samples do not
    suffice.
    """
    _require_enough(count, clients, minimum)
    weights = [_GROWTH[growth](number, clients) for number in range(1, clients + 1)]
    sizes = [int(weight * count / sum(weights)) for weight in weights]
    sizes[-1] += count - sum(sizes)
    order = torch.randperm(count, generator=derive(seed, "partition", growth)).tolist()
    parts = [order[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    _top_up(parts, minimum)
    drawn = torch.randperm(clients, generator=derive(seed, "partition", growth, "clients")).tolist()
    return _sorted([parts[place] for place in drawn])


def by_column(groups: Sequence[str], clients: int, seed: int) -> Parts:
    """All rows of one value at one client. Of more values than clients each has several, dealt out at random so that sizes are alike: the
    largest first, to whoever has least.

    (Flower's `NaturalIdPartitioner` makes one client per value, and draws a progress bar while it does.)
    `ConfigError` when there are fewer values than clients.
    """
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(groups):
        rows.setdefault(value, []).append(row)
    values = sorted(rows)
    if len(values) < clients:
        raise ConfigError(f"data.clients = {clients}, but data.column has {len(values)} values; ask for at most {len(values)} clients")
    drawn = [values[place] for place in torch.randperm(len(values), generator=derive(seed, "partition", "column")).tolist()]
    parts: list[list[int]] = [[] for _ in range(clients)]
    for value in values if len(values) == clients else sorted(drawn, key=lambda value: -len(rows[value])):
        min(parts, key=len).extend(rows[value])
    return _sorted(parts)


def _parts(partitioner: "Partitioner", labels: Tensor, clients: int, seed: int, minimum: int) -> Parts:
    # Flower cuts each class in the order of the rows, and neighbours may be alike in more than their class
    order = torch.randperm(len(labels), generator=derive(seed, "partition", "order"))
    parts = _dealt(partitioner, labels, order, clients)
    _top_up(parts, minimum)
    return _sorted(parts)


def _dealt(partitioner: "Partitioner", labels: Tensor, order: Tensor, clients: int) -> list[list[int]]:
    """What Flower gives each client of the rows in this order."""
    from datasets import Dataset  # seconds to import, so only where it is used

    partitioner.dataset = Dataset.from_dict({"label": labels[order].tolist(), "row": order.tolist()})
    return [list(partitioner.load_partition(client)["row"]) for client in range(clients)]


def _sorted(parts: Sequence[list[int]]) -> Parts:
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
