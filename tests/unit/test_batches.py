import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2fedsa.client.batches import batches, drawn, modality_dropout, teachable
from m2fedsa.config import Federation
from m2fedsa.data.samples import InMemorySamples


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def samples(labels, presence):
    return InMemorySamples({}, torch.arange(len(labels)), torch.tensor(labels), torch.tensor(presence), ("a", "b"))


BOTH, FIRST = [True, True], [True, False]


@pytest.mark.parametrize(
    ("phase", "unlabelled", "expected"),
    [("fusion", True, [0, 1]), ("fusion", False, [0, 1]), ("transfer", True, [0, 1, 2]), ("transfer", False, [0, 1])],
)
def test_who_is_drawn(phase, unlabelled, expected):
    """Labelled samples always; unlabelled ones in the transfer phase, if they have several modalities."""
    held = samples([0, 1, -1, -1], [BOTH, FIRST, BOTH, FIRST])
    assert drawn(held, phase, unlabelled).tolist() == expected
    assert teachable(held).tolist() == [False, False, True, False]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_epochs(number, size, epochs):
    """Every row once an epoch, in full batches but for its last."""
    rows = torch.arange(100, 100 + number)
    found = [batch.tolist() for batch in batches(rows, Federation(local_epochs=epochs, batch_size=size), generator())]
    each = -(-number // size)
    assert len(found) == epochs * each
    for epoch in range(epochs):
        part = found[epoch * each : (epoch + 1) * each]
        assert sorted(itertools.chain(*part)) == rows.tolist()
        assert [len(batch) for batch in part[:-1]] == [size] * (each - 1)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30))
def test_steps(number, size, steps):
    """So many batches, out of as many passes as that takes: no row a second time before every row was drawn."""
    found = [batch.tolist() for batch in batches(torch.arange(number), Federation(local_steps=steps, batch_size=size), generator())]
    assert len(found) == steps
    each = -(-number // size)
    for start in range(0, steps, each):
        part = list(itertools.chain(*found[start : start + each]))
        assert len(part) == len(set(part))
        assert start + each > steps or len(part) == number


def test_every_pass_has_its_own_order():
    settings = Federation(local_epochs=3, batch_size=50)
    first, second, third = (batch.tolist() for batch in batches(torch.arange(50), settings, generator()))
    assert len({tuple(one) for one in (first, second, third, range(50))}) == 4
    assert [batch.tolist() for batch in batches(torch.arange(50), settings, generator())] == [first, second, third]
    assert next(batches(torch.arange(50), settings, generator(1))).tolist() != first


presences = st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=20)


@given(presences, st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_modality_dropout_keeps_something_of_every_sample(presence, probability, seed):
    before = torch.tensor(presence)
    after = modality_dropout(before, probability, generator(seed))
    assert bool(after.any(1).all())
    assert not bool((after & ~before).any()), "what is absent stays absent"
    alone = before.sum(1) == 1
    assert torch.equal(after[alone], before[alone])


def test_without_modality_dropout_all_enter():
    presence = torch.tensor([BOTH, FIRST])
    assert torch.equal(modality_dropout(presence, 0.0, generator()), presence)


def test_the_share_that_modality_dropout_takes():
    """Of two modalities at p: both stay (1 − p)², one alone each half of the rest."""
    p, number = 0.4, 40000
    after = modality_dropout(torch.ones(number, 2, dtype=torch.bool), p, generator())
    share = {kind: times / number for kind, times in Counter(map(tuple, after.tolist())).items()}
    assert share[(True, True)] == pytest.approx((1 - p) ** 2, abs=0.01)
    for alone in ((True, False), (False, True)):
        assert share[alone] == pytest.approx((1 - (1 - p) ** 2) / 2, abs=0.01)
    assert (False, False) not in share


@given(st.lists(st.integers(0, 50), min_size=1, max_size=120), st.integers(1, 6))
def test_by_length_each_row_once_and_of_like_lengths(lengths, size):
    """Within a pool of eight batches no batch has a row longer than one of the next; where all
    batches are full, less padding than by chance, never more (a short one comes last, where the longest are)."""
    rows, held = torch.arange(len(lengths)), torch.tensor(lengths)
    settings = Federation(batch_size=size)
    found = [batch.tolist() for batch in batches(rows, settings, generator(), held)]
    assert sorted(itertools.chain(*found)) == rows.tolist()
    assert all(len(batch) <= size for batch in found)
    shuffled = rows[torch.randperm(len(rows), generator=generator())]
    pools = [set(pool.tolist()) for pool in torch.split(shuffled, 8 * size)]
    for pool in pools:
        mine = sorted(([lengths[row] for row in batch] for batch in found if set(batch) <= pool), key=lambda one: (min(one), max(one)))
        assert all(max(one) <= min(other) for one, other in itertools.pairwise(mine))

    def padded(parts):
        return sum(max(lengths[row] for row in part) * len(part) for part in parts)

    if len(lengths) % size == 0:
        assert padded(found) <= padded([batch.tolist() for batch in batches(rows, settings, generator())])


def test_by_length_company_changes_from_pass_to_pass():
    settings = Federation(batch_size=4, local_epochs=2)
    found = [frozenset(batch.tolist()) for batch in batches(torch.arange(64), settings, generator(), torch.arange(64) % 8)]
    assert len(found) == 32
    assert set(found[:16]) != set(found[16:])


def test_steps_by_length_are_as_many():
    found = list(batches(torch.arange(10), Federation(local_steps=7, batch_size=4), generator(), torch.arange(10)))
    assert len(found) == 7
