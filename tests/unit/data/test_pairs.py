"""Pairs of which neither half says anything about the label."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2fedsa.data.pairs import draw_pairs
from m2fedsa.errors import ConfigError


@given(st.integers(2, 10), st.integers(1, 13), st.integers(1, 4), st.integers(0, 3))
def test_each_sample_agrees_as_often_as_it_differs_on_either_side(kinds, size, half, seed):
    half = min(half, kinds - 1, size)
    classes = torch.arange(kinds).repeat(size)
    pairs = draw_pairs(classes, 2 * half, torch.Generator().manual_seed(seed))
    agree = classes[pairs[:, 0]] == classes[pairs[:, 1]]
    assert len(set(map(tuple, pairs.tolist()))) == len(pairs) == 2 * half * len(classes)
    for side in (0, 1):
        for answer in (True, False):
            assert Counter(pairs[agree == answer, side].tolist()) == dict.fromkeys(range(len(classes)), half)
    spread = Counter(map(tuple, classes[pairs[~agree]].tolist()))
    assert max(spread.values()) - min(spread.values()) <= half
    if size >= kinds - 1:
        assert len(spread) == kinds * (kinds - 1)


def test_order_is_drawn():
    classes = torch.arange(10).repeat(12)
    first, again, other = (draw_pairs(classes, 2, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("pairings", [0, 1, 3, 20])
def test_pairings_must_be_even_and_few_enough(pairings):
    with pytest.raises(ConfigError, match=f"pairings is {pairings}; half of the pairs agree, so it must be an even number from 2 to 18"):
        draw_pairs(torch.arange(10).repeat(12), pairings, torch.Generator())
