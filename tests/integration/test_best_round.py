"""A run that stops by itself, and one whose best round is the outcome: the same whether it was interrupted or not."""

import json

import pytest
from tests.integration import small

import m2fedsa
from m2fedsa.checkpoint import Manifest
from m2fedsa.errors import Interrupted

SETTINGS = ["federation.rounds=6", "evaluation.keep_best=true", "evaluation.metric=loss", "federation.warm_start=false"]
"""Without a warm start, which would be the best round here."""


class Leaving:
    """Somebody who presses Ctrl-C after a round."""

    def __init__(self, after=None):
        self.after = after

    def __getattr__(self, name):
        return lambda *_args, **_kwargs: None

    def round_done(self, record):
        if record["round"] == self.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return small.save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def config(encoders):
    return small.config(encoders).override(SETTINGS)


def losses(history):
    return {record["round"]: record["metrics"]["fused"]["loss"] for record in history}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    return m2fedsa.run(config, out=tmp_path_factory.mktemp("runs") / "whole")


def test_the_outcome_is_the_best_round(whole, config):
    told = losses(whole.history)
    best = min(told, key=told.__getitem__)
    assert whole.record["best_round"] == best
    assert best < 6, "a best round that is the last one proves nothing; take another seed"
    assert whole.validation["fused"]["loss"] == told[best]
    shorter = m2fedsa.run(config.override([f"federation.rounds={best}"]))
    assert shorter.digest == whole.digest  # the schedule is constant: what came later does not matter
    assert shorter.metrics == whole.metrics


def test_files_of_the_best_and_the_last_round_alone_are_kept(whole):
    checkpoint = whole.directory / "checkpoint"
    rounds = {f"round-{number:06d}.safetensors" for number in (whole.record["best_round"], 6)}
    for party in ("fed_server", "main_server"):
        assert {path.name for path in (checkpoint / party).iterdir()} == rounds
    for client in (checkpoint / "clients").iterdir():
        assert len(list(client.iterdir())) <= 2
    assert Manifest.read(checkpoint).chosen.digest == whole.digest
    assert m2fedsa.load(whole.directory, client="client-00") is not None


@pytest.mark.parametrize("after", [1, 3, 5])
def test_interrupted_and_resumed(whole, config, tmp_path, after):
    with pytest.raises(Interrupted):
        m2fedsa.run(config, out=tmp_path / "run", progress=Leaving(after))
    again = m2fedsa.run(config, out=tmp_path / "run", resume=True)
    assert again.digest == whole.digest
    assert again.record["best_round"] == whole.record["best_round"]
    assert again.metrics == whole.metrics


def test_resumed_when_it_was_over(whole, config):
    before = json.loads((whole.directory / "result.json").read_text())
    again = m2fedsa.run(config, out=whole.directory, resume=True)
    assert again.digest == whole.digest
    assert again.record["best_round"] == before["best_round"]


def test_without_a_directory(whole, config):
    again = m2fedsa.run(config)
    assert again.digest == whole.digest
    assert again.metrics == whole.metrics


def test_a_run_stops_by_itself(whole, config, tmp_path):
    """After as many validations without a better one as its patience; and so does one that was interrupted just before."""
    told = losses(whole.history)
    end = next(number for number in told if number - min((one for one in told if one <= number), key=told.__getitem__) >= 2)
    patient = config.override(["evaluation.patience=2"])
    with pytest.raises(Interrupted):
        m2fedsa.run(patient, out=tmp_path / "run", progress=Leaving(end))
    again = m2fedsa.run(patient, out=tmp_path / "run", resume=True)
    assert again.rounds == end
    assert end < 6
    straight = m2fedsa.run(patient)
    assert straight.rounds == end
    assert straight.digest == again.digest
    assert straight.metrics == again.metrics


def test_the_warm_start_can_be_the_best_round(config, tmp_path):
    """Rates that ruin what the closed form gave: the outcome is that of no round, of every party; and so it is when resumed."""
    ruinous = config.override(["optimizer.learning_rate=1.0", "federation.rounds=3", "federation.warm_start=true"])
    none = m2fedsa.run(ruinous.override(["federation.rounds=0"]))
    with pytest.raises(Interrupted):
        m2fedsa.run(ruinous, out=tmp_path / "run", progress=Leaving(2))
    found = m2fedsa.run(ruinous, out=tmp_path / "run", resume=True)
    assert found.record["best_round"] == 0
    assert (found.digest, found.metrics) == (none.digest, none.metrics)
    patient = m2fedsa.run(ruinous.override(["evaluation.patience=1"]))
    assert (patient.rounds, patient.digest) == (1, none.digest)
