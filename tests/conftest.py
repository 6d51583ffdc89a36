"""What all tests share: one thread, a precision that is put back, and no deadline on a busy machine."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from tests import worlds

settings.register_profile("m2fedsa", deadline=None, print_blob=True)
settings.load_profile("m2fedsa")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float64() -> Iterator[None]:
    """A world of doubles."""
    with worlds.doubles():
        yield
