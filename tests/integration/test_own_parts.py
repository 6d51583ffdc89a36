"""A researcher's own parts, each an object with a documented interface, passed to `run`; nothing is inherited."""

import contextlib
import functools
import importlib
import inspect
import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests import worlds
from tests.integration import small
from tests.integration.in_memory import MODALITIES, Stops, run

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.samples import ClientData, FederatedData
from m2fedsa.data.synthetic import synthetic
from m2fedsa.errors import ConfigError, Interrupted, RunDirectoryError
from m2fedsa.losses import Losses, Predictions, step_loss
from m2fedsa.messages import ClientInfo
from m2fedsa.storage import Store
from m2fedsa.tasks import SingleLabel

# --- the page of examples -------------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "own_parts.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


@functools.cache
def example(heading):
    """What an example of docs/own_parts.md leaves behind when it is run as it stands, in a folder where nothing else is."""
    names = {"__name__": "own_parts"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), torch.random.fork_rng():
        exec(compile(EXAMPLES[heading], f"docs/own_parts.md, {heading}", "exec"), names)
        assert list(Path().iterdir()) == []
    return names


def test_the_page_has_an_example_of_each_part():
    assert list(EXAMPLES) == ["Data", "Encoder", "Loss", "Averaging rule", "Client sampler", "Tracker"]
    assert PAGE.count("```python") == len(EXAMPLES)


def test_the_page_names_what_there_is():
    """Each argument in the table is one of `run`, each interface can be imported by the name that is told."""
    arguments = inspect.signature(m2fedsa.run).parameters
    rows = re.findall(r"^\| \[.*?\| `(\w+)=.*?\| .*?`([\w.]+)` \|$", PAGE, re.MULTILINE)
    assert {argument for argument, _ in rows} == {"data", "encoders", "loss", "average", "sampler", "trackers"}
    for argument, interface in rows:
        assert argument in arguments
        module, _, name = interface.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


# --- a researcher's own loss ----------------------------------------------------------------------------------------------------------


def test_own_loss(monkeypatch):
    """The page's focal loss is the cross-entropy where γ is 0, and smaller where it is not."""
    names = example("Loss")
    monkeypatch.setitem(names, "GAMMA", 0.0)
    plain, same = run(), run(loss=names["focal_loss"])
    monkeypatch.setitem(names, "GAMMA", 2.0)
    focal = run(loss=names["focal_loss"])
    for name in ("fused", "image", "text"):
        assert same.history[0]["loss"][name] == pytest.approx(plain.history[0]["loss"][name], rel=1e-4)
        assert focal.history[0]["loss"][name] < plain.history[0]["loss"][name]
    assert focal.digest != plain.digest


def test_own_loss_where_nine_of_ten_have_no_label_in_both_phases():
    history = example("Loss")["result"].history
    assert [record["phase"] for record in history] == ["fusion", "transfer"]
    assert all(set(record["loss"]) == {"fused", "image", "audio", "text"} for record in history)


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
def test_what_own_loss_reports(monkeypatch, phase):
    """As the loss of the package reports it: samples with a label, and of several modalities; nothing where there are none."""
    names, draw = example("Loss"), torch.Generator().manual_seed(0)
    monkeypatch.setitem(names, "GAMMA", 0.0)
    for labels, reported in (([1, -1, 0, 2], {"fused": 3, "fused_multimodal": 2, "image": 2, "text": 3}), ([-1] * 4, {})):
        logits = {name: torch.randn(3, 3, generator=draw, requires_grad=True) for name in ("image", "text")}
        fused = torch.randn(4, 3, generator=draw, requires_grad=True)
        rows = {"image": torch.tensor([0, 1, 2]), "text": torch.tensor([0, 2, 3])}
        counts, shift = torch.tensor([2.0, 1.0, 2.0, 1.0]), torch.tensor([0.1, -0.3, 0.2])
        predictions = Predictions(logits, rows, fused, counts, torch.tensor(labels), shift, {}, {}, SingleLabel(3), torch.ones(3), {})
        ours, theirs = names["focal_loss"](predictions, phase, (0.6, 0.2, 0.2)), step_loss(predictions, phase, (0.6, 0.2, 0.2))
        ours.total.backward()
        assert {name: number for name, (_, number) in ours.reported.items()} == reported
        assert {name: number for name, (_, number) in theirs.reported.items()} == reported
        for name, (value, _) in theirs.reported.items():
            torch.testing.assert_close(ours.reported[name][0], value.detach())


def test_a_loss_of_nothing_moves_nothing():
    """Only what the loss says trains: with a constant one, and no decay, everything stays at its start."""

    def nothing(predictions, phase, weights):
        found = step_loss(predictions, phase, weights)
        return Losses(found.total * 0, found.reported)

    settings = worlds.config(MODALITIES, optimizer__weight_decay=0.0)
    assert run(settings, loss=nothing).digest == run(settings.override(["federation.rounds=0"])).digest
    assert run(settings).digest != run(settings, loss=nothing).digest


# --- a researcher's own averaging rule ------------------------------------------------------------------------------------------------


@dataclass
class Median:
    """The coordinate-wise median of the clients: a few that lie cannot move it far. (Yin et al. 2018.)"""

    seen: dict = field(default_factory=dict)

    def __call__(self, name, values, previous):
        stacked = torch.stack([value for _, value, _ in values])
        self.seen[name] = ([client for client, _, _ in values], [samples for _, _, samples in values])
        return stacked.quantile(0.5, dim=0)


def test_own_averaging_rule(tmp_path):
    """It averages on both servers what clients trained, and the round's tensors are what it says, bit for bit."""
    clients = {"ann": (MODALITIES, 8), "bob": (MODALITIES, 4), "cyd": (("image",), 6)}
    settings = worlds.config(MODALITIES, federation__rounds=1, averaging__rules='[{pattern = "*", over = "clients"}]')
    data = worlds.federated(clients, modalities=MODALITIES)
    rule, kept = Median(), {}

    def keeping(name, values, previous):
        kept[name] = rule(name, values, previous)
        return kept[name]

    run(settings, data=data, average=keeping, out=tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "checkpoint" / "manifest.json").read_text())
    tensors = {}
    for party in ("fed_server", "main_server"):
        tensors |= Store(tmp_path / "run" / "checkpoint" / party).read(1, manifest[party])
    assert all(torch.equal(tensors[name], value) for name, value in kept.items())
    assert {"image.ma.up.weight", "image.ta.up.weight", "text.token.weight", "fused.classifier.bias"} <= set(kept)
    assert rule.seen["image.ma.up.weight"][0] == ["ann", "bob", "cyd"]
    assert rule.seen["text.ma.up.weight"][0] == ["ann", "bob"]
    text = data.clients["bob"].train.presence[:, 1]
    assert rule.seen["text.ma.up.weight"][1] == [8, int(text.sum())]


def test_the_averaging_rule_of_the_page():
    """One that lies does not count, whichever way it lies; of two clients it is the mean."""
    rule, previous = example("Averaging rule")["trimmed_mean"], torch.zeros(2)
    values = [("ann", torch.tensor([1.0, 2.0]), 5), ("bob", torch.tensor([3.0, 4.0]), 5), ("eve", torch.tensor([1e6, -1e6]), 5)]
    assert rule("x", values, previous).tolist() == [3.0, 2.0]
    assert rule("x", values[:2], previous).tolist() == [2.0, 3.0]
    assert rule("x", values[:1], previous).tolist() == [1.0, 2.0]
    assert rule("x", values, previous).dtype == previous.dtype
    assert 0.2 < example("Averaging rule")["result"].metrics["fused"]["accuracy"] <= 1.0


# --- a researcher's own sampler -------------------------------------------------------------------------------------------------------


def in_turn(round_number, eligible, number, generator):
    """One after the other."""
    return [eligible[(round_number - 1) % len(eligible)].name]


def most_labels(round_number, eligible, number, generator):
    """Whoever has the most labels."""
    return [client.name for client in sorted(eligible, key=lambda client: -client.labelled)[:number]]


def test_own_sampler():
    clients = {"ann": (MODALITIES, 4), "bob": (MODALITIES, 9), "cyd": (("text",), 6)}
    settings = worlds.config(MODALITIES, federation__rounds=4, federation__clients_per_round=2)
    data = worlds.federated(clients, modalities=MODALITIES)
    assert [record["clients"] for record in run(settings, data=data, sampler=in_turn).history] == [["ann"], ["bob"], ["cyd"], ["ann"]]
    assert [record["clients"] for record in run(settings, data=data, sampler=most_labels).history] == [["bob", "cyd"]] * 4


def test_the_sampler_of_the_page():
    sampler, draw = example("Client sampler")["by_labels"], torch.Generator().manual_seed(0)
    clients = [ClientInfo(name, ("image",), 10, labelled, 0, 0, 0) for name, labelled in (("ann", 0), ("bob", 1), ("cyd", 9))]
    assert sampler(1, clients, 3, draw) == ["bob", "cyd"]
    assert sampler(1, clients, None, draw) == ["bob", "cyd"]
    first = [sampler(1, clients, 1, draw)[0] for _ in range(200)]
    assert "ann" not in first
    assert 0.8 < first.count("cyd") / 200 < 0.97
    history = example("Client sampler")["result"].history
    assert all(len(set(record["clients"])) == 2 for record in history)


# --- a researcher's own data set ------------------------------------------------------------------------------------------------------


def test_own_data():
    names = example("Data")
    result = names["result"]
    assert result.metrics["photo"]["accuracy"] > 0.8
    # The referee's last sample has no label, its first no title.
    assert (result.metrics["photo"]["samples"], result.metrics["title"]["samples"]) == (19, 18)
    assert result.validation["fused"]["samples"] == 19
    assert set(result.per_client) == set(names["clients"])


class Lazy:
    """Samples that are made when they are asked for; the interface is `data.samples.Samples`, and nothing is inherited."""

    def __init__(self, samples):
        self._samples, self.calls = samples, 0

    @property
    def modalities(self):
        return self._samples.modalities

    @property
    def labels(self):
        return self._samples.labels

    @property
    def presence(self):
        return self._samples.presence

    def inputs(self, modality, rows):
        self.calls += 1
        assert bool(self.presence[rows, self.modalities.index(modality)].all()), "asked only for what is there"
        return self._samples.inputs(modality, rows)


def test_own_samples(encoders):
    """A data set that only keeps to the interface gives the same bits."""
    settings = small.config(encoders)
    data = synthetic(
        seed=5, clients=4, samples_per_client=10, classes=3, noise=1.5, evaluation_samples=12, multimodal_fraction=0.75, missing_rate=0.2
    )
    lazy = {}
    for name, client in data.clients.items():
        splits = {split: Lazy(client.split(split)) for split in ("train", "validation", "test") if client.split(split) is not None}
        lazy[name] = ClientData(client.modalities, **splits)
    ours = m2fedsa.run(settings, data=FederatedData(data.classes, data.modalities, lazy))
    assert ours.digest == m2fedsa.run(settings, data=data).digest
    assert all(samples.calls > 0 for client in lazy.values() for samples in (client.train, client.test) if samples is not None)


# --- a researcher's own encoder -------------------------------------------------------------------------------------------------------


def test_own_encoder():
    """One block of 6 → 12 → 6 with its norm, and the entry, lie with the client; nothing of the encoder moved."""
    names = example("Encoder")
    result = names["result"]
    assert result.metrics["sensor"]["accuracy"] > 0.7
    assert result.ledger["sensor"]["client"]["frozen"]["parameters"] == (4 * 6 + 6) + 12 + (6 * 12 + 12) + (12 * 6 + 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = names["SeriesEncoder"](names["SeriesConfig"]())
    moved = names["encoder"].state_dict()
    assert all(torch.equal(value, moved[name]) for name, value in drawn.state_dict().items())


# --- what the run directory tells of them ---------------------------------------------------------------------------------------------


def test_the_tracker_of_the_page(capsys):
    """The first line, then the figures of the warm start, of the round and of the end."""
    example.cache_clear()
    result = example("Tracker")["result"]
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["step", "digits", "seed 0"]
    (loss,) = [float(value) for step, name, value in lines[1:] if name == "loss/fused"]
    assert loss == result.history[0]["loss"]["fused"]
    assert {step for step, *_ in lines[1:]} == {"0", "1", "end"}
    assert float(lines[-1][2]) == result.metrics["fused"]["accuracy"]


def test_a_run_with_own_parts_says_so_and_is_not_repeated_without_them(tmp_path, capsys):
    """Otherwise config.toml would promise a digest that it does not give."""
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(worlds.config(MODALITIES), loss=example("Loss")["focal_loss"], sampler=in_turn, progress=Stops(1), out=path)
    kept = Config.from_file(path / "config.toml")
    assert kept.data.source == "object"
    assert kept.data.clients == 2
    assert {one.encoder for one in kept.modalities.values()} == {"object"}
    assert kept.objects.loss == "own_parts.focal_loss"
    assert kept.objects.sampler == f"{in_turn.__module__}.in_turn"
    assert kept.objects.average is None
    assert "objects.loss" in small.refused(capsys, "run", "--resume", path)
    assert "objects.loss" in small.refused(capsys, "run", path / "config.toml", "--out", tmp_path / "again")
    with pytest.raises(RunDirectoryError, match=r"objects.loss: 'own_parts.focal_loss' -> unset"):
        run(worlds.config(MODALITIES), sampler=in_turn, out=path, resume=True)
    with pytest.raises(ConfigError, match="it was not passed"):
        run(kept)
    resumed = run(worlds.config(MODALITIES), loss=example("Loss")["focal_loss"], sampler=in_turn, out=path, resume=True)
    assert resumed.digest == run(worlds.config(MODALITIES), loss=example("Loss")["focal_loss"], sampler=in_turn).digest


def test_other_data_is_noticed_on_resume(tmp_path):
    with pytest.raises(Interrupted):
        run(progress=Stops(1), out=tmp_path / "run")
    other = worlds.federated({"ann": (MODALITIES, 8), "bob": (MODALITIES, 9)}, modalities=MODALITIES)
    with pytest.raises(RunDirectoryError, match=r"the data is not that of this run any more \(client bob: .*train 8.* -> .*train 9"):
        run(data=other, out=tmp_path / "run", resume=True)
