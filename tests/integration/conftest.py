import pytest
from tests.integration import small

from m2fedsa.client import Client


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """The folder of the tiny encoders."""
    return small.save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def settings(encoders, tmp_path_factory):
    """The TOML file of the small run."""
    return small.write(tmp_path_factory.mktemp("settings") / "small.toml", small.tables(encoders))


@pytest.fixture(scope="session")
def uninterrupted(settings, tmp_path_factory):
    """The directory of the small run, from beginning to end in one go."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert small.call("run", settings, "--out", path) == 0
    return path


@pytest.fixture
def nothing_is_trained(monkeypatch, tmp_path):
    """No client does anything, and nothing lies in the working directory but what the test itself puts there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Client, "perform", None)
