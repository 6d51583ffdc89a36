"""The order of dimensions in memory survives a wire."""

import itertools

import pytest
import torch

from m2fedsa.models.layout import pack, unpack


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_dimensions_comes_back(order: tuple[int, ...]) -> None:
    tensor = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).permute(order)
    packed, kept = pack(tensor)
    assert packed.is_contiguous()
    back = unpack(packed.clone(), kept)
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_contiguous_tensors_are_not_copied() -> None:
    tensor = torch.randn(2, 1, 4)
    packed, order = pack(tensor)
    assert packed is tensor
    assert order == (0, 1, 2)


def test_channels_last_stays_channels_last() -> None:
    maps = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    packed, order = pack(maps)
    assert order == (0, 2, 3, 1)
    assert unpack(packed, order).is_contiguous(memory_format=torch.channels_last)


def test_views_with_gaps_and_repeats_keep_their_numbers() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    for view in (base[:, ::2], base[:1].expand(3, 6), base.T[1:3]):
        packed, order = pack(view)
        assert torch.equal(unpack(packed, order), view)
