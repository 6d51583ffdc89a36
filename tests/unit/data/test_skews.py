"""Skews of class, of size and by a column; which modalities clients hold; who evaluates."""

import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2fedsa.config import Config, Data
from m2fedsa.data.digits import digits
from m2fedsa.data.holdings import assign_subsets, draw_presence
from m2fedsa.data.partition import by_column, partitioned, shards, strata, unequal
from m2fedsa.data.samples import InMemorySamples, labelled, without_labels
from m2fedsa.data.spread import Table, keep_labels, spread
from m2fedsa.errors import ConfigError

THREE = ("image", "audio", "text")
EVERY = ["dirichlet", "iid", "shards", "linear", "square", "exponential", "column"]


def covers(parts, count):
    return sorted(torch.cat(parts).tolist()) == list(range(count)) and all((part.diff() > 0).all() for part in parts)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(EVERY), st.integers(1, 8), st.integers(2, 5), st.integers(0, 9), st.integers(0, 2**40))
def test_everything_is_held_once(partition, clients, minimum, spare, seed):
    count = clients * minimum + spare
    said = Data(partition=partition, clients=clients, minimum=minimum, column="who")
    groups = [f"p{row % (clients + 1)}" for row in range(count)]
    parts = partitioned(said, torch.arange(count) % 3, seed, groups)
    assert len(parts) == clients
    assert covers(parts, count)
    if partition != "column":
        assert min(len(part) for part in parts) >= minimum
    assert all(torch.equal(*pair) for pair in zip(parts, partitioned(said, torch.arange(count) % 3, seed, groups), strict=True))


def test_two_shards_are_two_classes_at_most_three():
    """Ten classes of a hundred in twenty shards of fifty: each lies within one class, so two of them hold two classes at the most."""
    labels = torch.arange(1000) % 10
    for part in shards(labels, 10, 2, seed=0):
        assert len(part) == 100
        assert len(labels[part].unique()) <= 2


def test_what_does_not_divide_into_shards_is_not_lost():
    parts = shards(torch.arange(107) % 4, 10, 2, seed=1)
    assert covers(parts, 107)
    assert sorted(len(part) for part in parts) == [10] * 3 + [11] * 7


@pytest.mark.parametrize(("growth", "wanted"), [("linear", [10, 20, 30, 40]), ("square", [3, 13, 30, 54])])
def test_sizes_grow(growth, wanted):
    """Of 100: shares of 1, 2, 3, 4 tenths; of 1, 4, 9, 16 thirtieths, what rounding leaves with the largest."""
    assert sorted(len(part) for part in unequal(100, 4, growth, seed=0)) == wanted


def test_exponential_sizes_keep_the_minimum():
    sizes = sorted(len(part) for part in unequal(2000, 9, "exponential", seed=0, minimum=8))
    assert sizes[0] == 8
    assert 0.5 < sizes[-1] / 2000 < 0.7  # (1 - 1/e) of all


def test_who_is_large_is_drawn():
    largest = {max(range(6), key=lambda place, seed=seed: len(unequal(300, 6, "square", seed)[place])) for seed in range(12)}
    assert len(largest) > 2


def test_by_column():
    groups = list("aabbbcdddd")
    assert [part.tolist() for part in by_column(groups, 4, seed=0)] == [[0, 1], [2, 3, 4], [5], [6, 7, 8, 9]]
    two = by_column(groups, 2, seed=0)
    assert covers(two, 10)
    assert [len(part) for part in two] == [5, 5]  # d and c, b and a
    for part in two:
        assert all(set(part.tolist()) >= {row for row in range(10) if groups[row] == groups[one]} for one in part.tolist())
    with pytest.raises(ConfigError, match=r"data.clients = 5, but data.column has 4 values; ask for at most 4"):
        by_column(groups, 5, seed=0)


def test_a_column_of_the_digits():
    said = Data(partition="column", column="speaker", clients=6)
    data = digits(seed=0, settings=said)
    assert len([client for client in data.clients.values() if client.train is not None]) == 6
    with pytest.raises(ConfigError, match=r"data.column = 'spaeker' is no column that clients can be made by; there are speaker"):
        digits(seed=0, settings=said.model_copy(update={"column": "spaeker"}))
    with pytest.raises(ConfigError, match=r"data.column is unset"):
        Config.from_mapping({"data": {"partition": "column"}, "modalities": {"image": {"encoder": "x"}}})


# Computed once; Flower's draws (dirichlet, shards) are those of NumPy's PCG64, the others those of torch's Mersenne Twister.
KNOWN = {
    "dirichlet": "d52158da",
    "iid": "6432b868",
    "shards": "e8abb3e9",
    "linear": "239fb448",
    "square": "7a709050",
    "exponential": "1f806410",
    "column": "9aa221e8",
}


@pytest.mark.parametrize("partition", EVERY)
def test_the_same_seed_gives_the_same_partition_on_any_machine(partition):
    said = Data(partition=partition, clients=7, minimum=3, column="who")
    groups = [f"p{row % 11}" for row in range(500)]
    parts = partitioned(said, torch.arange(500) % 6, 12, groups)
    told = ";".join(",".join(map(str, part.tolist())) for part in parts)
    assert hashlib.sha256(told.encode()).hexdigest()[:8] == KNOWN[partition]


# --- labels of all kinds ------------------------------------------------------------------------------------------------------------


def test_classes_to_draw_by():
    many = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [-1, -1, -1], [1, 0, 1], [1, 1, 0]])
    assert strata(many).tolist() == [1, 0, 3, -1, 2, 1]  # class 2 is rarest, then 1; no class at all is a kind of its own
    numbers = torch.tensor([[float(value)] for value in range(20)] + [[float("nan")]])
    assert strata(numbers.flip(0)).tolist() == [-1, *(value // 2 for value in reversed(range(20)))]
    assert torch.equal(strata(torch.tensor([2, -1])), torch.tensor([2, -1]))


@pytest.mark.parametrize(
    "labels", [torch.arange(40) % 3, torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(0)), torch.rand(40, 2)]
)
def test_labels_are_kept_whole(labels):
    kept = keep_labels(labels, 0.25, seed=0)
    assert int(labelled(kept).sum()) == 10
    assert torch.equal(kept[labelled(kept)], labels[labelled(kept)])
    assert bool(labelled(labels).all())
    assert not bool(labelled(without_labels(labels, torch.ones(40, dtype=torch.bool))).any())


# --- modalities ---------------------------------------------------------------------------------------------------------------------


def test_subsets_by_their_fractions():
    held = assign_subsets(10, THREE, {"all": 0.5, "text+image": 0.25, "audio": 0.25}, seed=0)
    assert Counter(held) == {THREE: 5, ("image", "text"): 3, ("audio",): 2}
    assert held == assign_subsets(10, THREE, {"all": 0.5, "text+image": 0.25, "audio": 0.25}, seed=0)
    assert held != assign_subsets(10, THREE, {"all": 0.5, "text+image": 0.25, "audio": 0.25}, seed=1)


@given(st.integers(1, 60), st.lists(st.integers(1, 20), min_size=3, max_size=3), st.integers(0, 5))
def test_numbers_of_clients_are_rounded_shares(clients, weights, seed):
    shares = [weight / sum(weights) for weight in weights]
    held = Counter(assign_subsets(clients, ("a", "b"), dict(zip(("a+b", "a", "b"), shares, strict=True)), seed)) if clients > 20 else None
    if held is not None:
        assert sum(held.values()) == clients
        for subset, share in zip((("a", "b"), ("a",), ("b",)), shares, strict=True):
            assert abs(held[subset] - share * clients) < 1


@pytest.mark.parametrize(
    ("holdings", "said"),
    [
        ({"image+sound": 1.0}, 'data.holdings."image[+]sound": sound is no modality of the data; write image[+]audio[+]text or a part'),
        ({"image": 0.5, "all": 0.6}, "data.holdings add up to 1.1; the fractions of all clients together must be 1"),
        ({"image+text": 0.5, "text+image": 0.5}, "is told twice"),
        ({"image": 1.0}, "no client would hold audio, text"),
    ],
)
def test_holdings_that_cannot_be(holdings, said):
    with pytest.raises(ConfigError, match=said):
        assign_subsets(4, THREE, holdings, seed=0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_missing_rates_by_modality(rate):
    present = draw_presence(20_000, 3, torch.tensor([0.0, rate, 0.3]), torch.Generator().manual_seed(0))
    assert present[:, 0].all()
    assert present[:, 1].float().mean().item() == pytest.approx(1 - rate, abs=0.02)
    assert present[:, 2].float().mean().item() == pytest.approx(0.7, abs=0.02)


def test_a_rate_of_no_modality():
    with pytest.raises(ConfigError, match=r"data.missing_rates.sound: the data has no such modality, but image, audio, text"):
        digits(seed=0, settings=Data(clients=5, missing_rates={"sound": 0.5}))


# --- who evaluates ------------------------------------------------------------------------------------------------------------------


def test_each_client_on_its_own():
    said = Data(clients=6, evaluation="clients", held_out=(0.1, 0.25), missing_rate=0.4)
    data = digits(seed=0, settings=said)
    whole = digits(seed=0, settings=Data(clients=6, missing_rate=0.4))
    assert sorted(data.clients) == [f"client-{number:02d}" for number in range(6)]
    for name, client in data.clients.items():
        rows = {split: client.split(split).indices.tolist() for split in ("train", "validation", "test")}
        before = whole.clients[name].train
        assert sorted(row for its in rows.values() for row in its) == before.indices.tolist()
        assert len(rows["test"]) == round(0.25 * len(before.labels))
        assert len(rows["validation"]) == round(0.1 * len(before.labels))
        has = dict(zip(before.indices.tolist(), before.presence.tolist(), strict=True))
        assert client.test.presence.tolist() == [has[row] for row in rows["test"]]


class Column:
    def inputs(self, rows):
        return {"values": rows[:, None].float()}

    def look(self):
        raise AssertionError


def test_rows_that_lack_a_modality_by_themselves():
    """Nobody is given what a row has not; a row that would lose the last of what it has keeps that."""
    presence = torch.tensor([[True, False], [True, True]]).repeat(50, 1)
    table = Table(("a", "b"), {"image": Column(), "text": Column()}, torch.arange(100) % 2, ["train"] * 100, [""] * 100, presence=presence)
    data = spread(table, Data(clients=4, partition="iid", missing_rate=0.5, holdings={"all": 0.5, "text": 0.5}), seed=0)
    for client in data.clients.values():
        natural = presence[client.train.indices][:, [("image", "text").index(name) for name in client.modalities]]
        assert not bool((client.train.presence & ~natural).any())
        assert bool(client.train.presence.any(1).all())
        if client.modalities == ("text",):
            assert (client.train.indices % 2 == 1).all()
    assert data.notes == ("2 of 4 clients have training samples of one class only: client-02 (b), client-03 (b)",)
    nothing = Table(("a", "b"), table.columns, table.labels, table.splits, table.evaluators, presence=torch.tensor([[True, False]] * 100))
    data = spread(nothing, Data(clients=4, partition="iid", holdings={"all": 0.5, "text": 0.5}), seed=0)
    assert data.notes == ("2 of 4 clients have no sample with the modalities that they hold",)


def test_whole_keeps_labels_of_every_kind():
    columns = {"image": {"x": torch.zeros(2, 3)}}
    assert InMemorySamples.whole(columns, [1, 0]).labels.dtype == torch.int64
    assert InMemorySamples.whole(columns, [[0.5], [1.5]]).labels.tolist() == [[0.5], [1.5]]
