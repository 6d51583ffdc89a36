"""Who holds what: nobody is forgotten, nothing is held twice, limits hold."""

from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from m2fedsa.data.holdings import assign_modalities, draw_presence
from m2fedsa.data.partition import dirichlet, iid
from m2fedsa.errors import ConfigError

THREE = ("image", "audio", "text")


def covers(parts, count):
    return sorted(torch.cat(parts).tolist()) == list(range(count)) and all((part.diff() > 0).all() for part in parts)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5))
def test_iid_deals_everything_out_evenly(count, clients, seed):
    assume(clients <= count)
    parts = iid(count, clients, seed)
    assert len(parts) == clients
    assert covers(parts, count)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(torch.equal(*pair) for pair in zip(parts, iid(count, clients, seed), strict=True))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.sampled_from([0.02, 0.3, 5.0]), st.integers(0, 9), st.integers(1, 8), st.integers(0, 3))
def test_dirichlet_covers_every_sample_and_keeps_the_minimum(clients, alpha, spare, minimum, seed):
    count = clients * minimum + spare
    labels = torch.arange(count) % 4
    parts = dirichlet(labels, clients, alpha, seed, minimum)
    assert len(parts) == clients
    assert covers(parts, count)
    assert min(len(part) for part in parts) >= minimum
    assert all(torch.equal(*pair) for pair in zip(parts, dirichlet(labels, clients, alpha, seed, minimum), strict=True))


def test_alpha_sets_the_skew():
    labels = torch.arange(5000) % 5

    def largest_share(alpha):
        parts = dirichlet(labels, 20, alpha, seed=0)
        return sum(labels[part].bincount().max().item() / len(part) for part in parts) / 20

    # alpha to infinity: a fifth; alpha to zero: one class
    assert largest_share(1000.0) == pytest.approx(0.2, abs=0.02)
    assert largest_share(0.02) > 0.85
    assert 0.4 < largest_share(0.3) < 0.85


def test_neighbouring_rows_do_not_stay_together():
    # one class in the order of two speakers: a client with rows of one speaker only would be no draw at random
    parts = dirichlet(torch.zeros(2000, dtype=torch.int64), 4, 100.0, seed=0)
    for part in parts:
        assert (part < 1000).float().mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("partition", [lambda c, m: iid(100, c, 0, m), lambda c, m: dirichlet(torch.zeros(100), c, 1.0, 0, m)])
def test_too_many_clients_are_refused(partition):
    with pytest.raises(ConfigError, match=r"data.clients = 21 and data.minimum = 5, .* need 105 samples.* 100. Ask for at most 20"):
        partition(21, 5)
    with pytest.raises(ConfigError, match="clients is 0"):
        partition(0, 5)
    with pytest.raises(ConfigError, match="minimum is 0"):
        partition(5, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ConfigError, match="alpha is"):
        dirichlet(torch.zeros(10), 2, alpha, 0)


def test_modalities_of_twenty_clients():
    held = assign_modalities(20, THREE, 0.5, seed=0)
    # ten with all; ten go round six subsets: the four that come first twice
    once = {("audio", "text"): 1, ("image", "text"): 1}
    assert Counter(held) == {THREE: 10, ("image",): 2, ("audio",): 2, ("text",): 2, ("image", "audio"): 2, **once}
    assert held != tuple(sorted(held, key=len, reverse=True))
    assert held == assign_modalities(20, THREE, 0.5, seed=0)
    assert held != assign_modalities(20, THREE, 0.5, seed=1)


@given(st.integers(1, 60), st.sampled_from([("a",), ("a", "b"), THREE, ("a", "b", "c", "d")]), st.floats(0, 1), st.integers(0, 3))
def test_every_modality_is_held_and_in_order(clients, modalities, fraction, seed):
    try:
        held = assign_modalities(clients, modalities, fraction, seed)
    except ConfigError:
        # only singles went out, and fewer than there are modalities
        assert round(fraction * clients) == 0
        assert clients < len(modalities)
        return
    assert set().union(*held) == set(modalities)
    assert all(own == tuple(name for name in modalities if name in own) for own in held)
    partial = [own for own in held if own != modalities]
    assert all(1 <= len(own) <= 2 for own in partial)
    assert len(partial) == (0 if len(modalities) == 1 else clients - round(fraction * clients))


def test_two_modalities_leave_single_ones():
    assert Counter(assign_modalities(10, ("image", "audio"), 0.4, 0)) == {("image", "audio"): 4, ("image",): 3, ("audio",): 3}


def test_fractions_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"multimodal_fraction is 1\.2"):
        assign_modalities(10, THREE, 1.2, 0)
    with pytest.raises(ConfigError, match=r"no client would hold audio, text: 1 clients, 0 of them"):
        assign_modalities(1, THREE, 0.0, 0)
    with pytest.raises(ConfigError, match=r"missing_rate is 1"):
        draw_presence(10, 2, 1.0, torch.Generator())


def test_missing_modalities_come_at_their_rate_and_never_all():
    present = draw_presence(20_000, 3, 0.4, torch.Generator().manual_seed(0))
    assert present.any(1).all()
    # lost: 0.4, less a third of the 0.4³ that would have lost all
    assert present.float().mean(0).tolist() == pytest.approx([0.6 + 0.4**3 / 3] * 3, abs=0.015)
    assert draw_presence(50, 1, 0.9, torch.Generator()).all()
    assert draw_presence(50, 3, 0.0, torch.Generator()).all()
