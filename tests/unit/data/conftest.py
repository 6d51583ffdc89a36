"""The two embedded tasks as they are by default, built once per process."""

import pytest

from m2fedsa.data import digits as tasks
from m2fedsa.data.digits_pack import read_digits


@pytest.fixture(scope="session")
def digits():
    return tasks.digits(seed=0)


@pytest.fixture(scope="session")
def match():
    return tasks.match(seed=0)


@pytest.fixture(scope="session")
def rows():
    return {name: read_digits(name) for name in ("public", "federation")}
