"""A researcher's own parts, each an object with a documented interface, passed to `run`; nothing is inherited."""

import json
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from tests import worlds
from tests.integration import small
from tests.integration.in_memory import MODALITIES, Stops, run
from torch import nn
from torch.nn import functional

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.data.synthetic import synthetic
from m2fedsa.errors import ConfigError, Interrupted, RunDirectoryError
from m2fedsa.losses import Losses, step_loss
from m2fedsa.storage import Store

# --- a researcher's own loss ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FocalLoss:
    """Σ_m mean (1 − q)^γ ce_m, and the same for the fused logits; q is the probability of the right class. (Lin et al. 2017.)"""

    gamma: float

    def __call__(self, predictions, phase, weights):
        total, reported = predictions.fused.sum() * 0, {}
        logits = {**predictions.unimodal, "fused": predictions.fused}
        for name, values in logits.items():
            labels = predictions.labels if name == "fused" else predictions.labels[predictions.rows[name]]
            ce = functional.cross_entropy(values + predictions.adjustment, labels, reduction="none")
            mean = ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()
            total, reported[name] = total + mean, (mean.detach(), len(labels))
        return Losses(total, reported)


def test_own_loss():
    plain, same, focal = run(), run(loss=FocalLoss(0.0)), run(loss=FocalLoss(2.0))
    for name in ("fused", "image", "text"):
        assert same.history[0]["loss"][name] == pytest.approx(plain.history[0]["loss"][name], rel=1e-4)
        assert focal.history[0]["loss"][name] < plain.history[0]["loss"][name]
    assert focal.digest != plain.digest


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
    settings = worlds.config(MODALITIES, federation__rounds=1, averaging__rules="[]")
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


# --- a researcher's own data set ------------------------------------------------------------------------------------------------------


def test_own_data():
    """Tensors as they come, in a dozen lines."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    columns = {
        "photo": {"pixel_values": torch.randn(60, 1, 8, 8, generator=draw) + 2 * labels[:, None, None, None]},
        "title": {"input_ids": torch.randint(3, 32, (60, 8), generator=draw), "attention_mask": torch.ones(60, 8, dtype=torch.int64)},
    }

    def part(rows):
        return InMemorySamples.whole({name: {k: v[rows] for k, v in one.items()} for name, one in columns.items()}, labels[rows])

    sites = {f"site-{number}": ClientData(("photo", "title"), train=part(slice(10 * number, 10 * number + 10))) for number in range(4)}
    sites["hospital"] = ClientData(("photo", "title"), test=part(slice(40, 60)))
    data = FederatedData(("no", "yes"), ("photo", "title"), sites)
    settings = Config.from_mapping(
        {
            "modalities": {name: {"encoder": "object", "adapter_width": 4} for name in ("photo", "title")},
            "fusion": {"width": 8, "heads": 2, "feed_forward": 8},
            "federation": {"rounds": 2},
        }
    )
    result = m2fedsa.run(settings, data=data, encoders={"photo": small.vit(), "title": small.bert()})
    assert result.metrics["photo"]["accuracy"] > 0.8
    assert result.metrics["photo"]["samples"] == 20
    assert result.validation is None
    assert set(result.per_client) == set(sites)


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


class SeriesConfig(transformers.PretrainedConfig):
    model_type = "series"


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden_states):
        return hidden_states + self.mlp(self.norm(hidden_states))


class SeriesEncoder(transformers.PreTrainedModel):
    """Of a kind that no library has: a series of 16 numbers as four tokens."""

    config_class = SeriesConfig

    def __init__(self, config):
        super().__init__(config)
        self.entry, self.layers = nn.Linear(4, 6), nn.ModuleList([Block(6) for _ in range(3)])
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, values):
        hidden = self.entry(values.unflatten(1, (4, 4)))
        for layer in self.layers:
            hidden = layer(hidden)
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)


def test_own_encoder(tmp_path):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 2
    columns = {"series": {"values": torch.randn(24, 16, generator=draw) + labels[:, None]}}
    samples = InMemorySamples.whole(columns, labels)
    data = FederatedData(("down", "up"), ("series",), {"ann": ClientData(("series",), train=samples, test=samples)})
    settings = Config.from_mapping({"modalities": {"series": {"encoder": "object", "adapter_width": 4}}, "federation": {"rounds": 1}})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SeriesEncoder(SeriesConfig())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = m2fedsa.run(settings, data=data, encoders={"series": model}, out=tmp_path / "run")
    assert result.metrics["series"]["accuracy"] > 0.7
    # One block of 6 → 12 → 6 with its norm, and the entry; nothing of it moved.
    assert result.ledger["series"]["client"]["frozen"]["parameters"] == (4 * 6 + 6) + 12 + (6 * 12 + 12) + (12 * 6 + 6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- what the run directory tells of them ---------------------------------------------------------------------------------------------


def test_a_run_with_own_parts_says_so_and_is_not_repeated_without_them(tmp_path, capsys):
    """Otherwise config.toml would promise a digest that it does not give."""
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(worlds.config(MODALITIES), loss=FocalLoss(2.0), sampler=in_turn, progress=Stops(1), out=path)
    kept = Config.from_file(path / "config.toml")
    assert kept.data.source == "object"
    assert kept.data.clients == 2
    assert {one.encoder for one in kept.modalities.values()} == {"object"}
    assert kept.objects.loss == f"{FocalLoss.__module__}.FocalLoss"
    assert kept.objects.sampler == f"{in_turn.__module__}.in_turn"
    assert kept.objects.average is None
    assert "objects.loss" in small.refused(capsys, "run", "--resume", path)
    assert "objects.loss" in small.refused(capsys, "run", path / "config.toml", "--out", tmp_path / "again")
    with pytest.raises(RunDirectoryError, match=r"objects.loss: '.*FocalLoss' -> unset"):
        run(worlds.config(MODALITIES), sampler=in_turn, out=path, resume=True)
    with pytest.raises(ConfigError, match="it was not passed"):
        run(kept)
    resumed = run(worlds.config(MODALITIES), loss=FocalLoss(2.0), sampler=in_turn, out=path, resume=True)
    assert resumed.digest == run(worlds.config(MODALITIES), loss=FocalLoss(2.0), sampler=in_turn).digest


def test_other_data_is_noticed_on_resume(tmp_path):
    with pytest.raises(Interrupted):
        run(progress=Stops(1), out=tmp_path / "run")
    other = worlds.federated({"ann": (MODALITIES, 8), "bob": (MODALITIES, 9)}, modalities=MODALITIES)
    with pytest.raises(RunDirectoryError, match=r"the data is not that of this run any more \(client bob: .*train 8.* -> .*train 9"):
        run(data=other, out=tmp_path / "run", resume=True)
