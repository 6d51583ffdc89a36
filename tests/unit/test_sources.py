import inspect

import pytest
from tests.integration import small

from m2fedsa.config import Data
from m2fedsa.data import sources
from m2fedsa.data.sources import load_data
from m2fedsa.data.synthetic import synthetic
from m2fedsa.errors import ConfigError


def asked(monkeypatch, settings):
    """What a source is called with."""
    calls = {}

    def source(*, seed, clients=3, labelled_fraction=1.0, loudness=2.0):
        calls.update(seed=seed, clients=clients, labelled_fraction=labelled_fraction, loudness=loudness)
        return "data"

    monkeypatch.setattr(sources, "SOURCES", {"sounds": source})
    assert load_data(settings, seed=7) == "data"
    return calls


def test_a_source_is_given_what_it_knows(monkeypatch):
    """Common settings by their name, its own from `options`; what it does not know is left out."""
    settings = Data(source="sounds", clients=5, labelled_fraction=0.5, alpha=9.0, options={"loudness": 0.1})
    assert asked(monkeypatch, settings) == {"seed": 7, "clients": 5, "labelled_fraction": 0.5, "loudness": 0.1}
    assert asked(monkeypatch, Data(source="sounds"))["loudness"] == 2.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "sound"}, "data.source = 'sound' is not known. Did you mean sounds?"),
        ({"source": "zzz"}, "data.source = 'zzz' is not known. There are sounds."),
        ({"options": {"loudnes": 1}}, "data.options.loudnes: the source sounds has no such option. Did you mean data.options.loudness?"),
        ({"options": {"zzz": 1}}, "data.options.zzz: the source sounds has no such option. It has loudness."),
        ({"options": {"clients": 1}}, "data.options.clients: the source sounds has no such option. It has loudness."),
        ({"options": {"seed": 1}}, "data.options.seed: the source sounds has no such option. It has loudness."),
    ],
)
def test_what_there_is_not(monkeypatch, settings, said):
    with pytest.raises(ConfigError) as refusal:
        asked(monkeypatch, Data(**{"source": "sounds", **settings}))
    assert str(refusal.value) == said


def test_a_source_of_raw_files_is_told_where_processors_lie(monkeypatch):
    def source(*, seed, processors, folder):
        return processors, folder

    monkeypatch.setattr(sources, "SOURCES", {"files": source})
    settings = Data(source="files", options={"folder": "here"})
    assert load_data(settings, 0, {"image": "there"}) == ({"image": "there"}, "here")
    assert load_data(settings, 0) == ({}, "here")
    with pytest.raises(ConfigError, match=r"^data.options.processors: the source files has no such option. It has folder.$"):
        load_data(Data(source="files", options={"folder": "here", "processors": "x"}), 0)


def test_the_sources_that_ship():
    small = {"digits", "match", "synthetic", "random_shapes"}
    of_files = {"products", "spoken_digits", "hateful_memes", "meld", "epic_kitchens", "meld_text"}
    assert small | of_files == set(sources.SOURCES)


@pytest.mark.parametrize("name", sources.PATHS)
def test_what_the_user_gives_is_what_the_source_takes(name):
    known = inspect.signature(sources.SOURCES[name]).parameters
    options = {key.removeprefix("data.options.") for key in sources.PATHS[name] if key.startswith("data.options.")}
    assert options == {option for option, one in known.items() if one.default is one.empty} - set(sources.PASSED)


def test_a_source_by_name_is_the_source(tmp_path):
    config = small.config(tmp_path)
    by_name = load_data(config.data, config.seed)
    itself = synthetic(
        seed=5,
        clients=4,
        samples_per_client=10,
        classes=3,
        noise=1.5,
        evaluation_samples=12,
        multimodal_fraction=0.75,
        missing_rate=0.2,
        labelled_fraction=0.6,
    )
    assert list(by_name.clients) == list(itself.clients)
    for name, client in by_name.clients.items():
        other = itself.clients[name]
        assert client.modalities == other.modalities
        if client.train is not None:
            assert client.train.labels.tolist() == other.train.labels.tolist()
            assert client.train.presence.tolist() == other.train.presence.tolist()
