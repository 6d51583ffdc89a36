"""The generated task: learnable, reproducible, cheap."""

import tracemalloc

import pytest
import torch

from m2fedsa.data.samples import UNLABELLED
from m2fedsa.data.synthetic import synthetic
from m2fedsa.errors import ConfigError


def test_shapes_and_sizes():
    data = synthetic(clients=5, samples_per_client=7, seed=0, modalities=("image", "audio", "text"), classes=4, evaluation_samples=12)
    assert list(data.clients) == ["client-00", "client-01", "client-02", "client-03", "client-04", "evaluation"]
    assert len(data.classes) == 4
    train = data.clients["client-03"].train
    shapes = {name: tuple(value.shape) for modality in data.modalities for name, value in train.inputs(modality, torch.arange(3)).items()}
    assert shapes == {"pixel_values": (3, 1, 8, 8), "input_values": (3, 16, 8), "input_ids": (3, 8), "attention_mask": (3, 8)}
    held = torch.cat([client.train.indices for client in data.clients.values() if client.train is not None])
    evaluation = data.clients["evaluation"]
    assert sorted([*held.tolist(), *evaluation.validation.indices.tolist(), *evaluation.test.indices.tolist()]) == list(range(35 + 24))
    assert evaluation.test.labels.bincount().tolist() == [3] * 4


def test_nearest_class_mean_tells_the_classes():
    data = synthetic(clients=10, samples_per_client=30, seed=0, modalities=("image", "audio", "text"), evaluation_samples=300)
    trains = [client.train for client in data.clients.values() if client.train is not None]
    test = data.clients["evaluation"].test
    for modality, name in (("image", "pixel_values"), ("audio", "input_values")):
        x = torch.cat([train.inputs(modality, torch.arange(30))[name] for train in trains]).flatten(1)
        y = torch.cat([train.labels for train in trains])
        means = torch.stack([x[y == value].mean(0) for value in range(3)])
        nearest = torch.cdist(test.inputs(modality, torch.arange(300))[name].flatten(1), means).argmin(1)
        assert (nearest == test.labels).float().mean() > 0.95
    text = test.inputs("text", torch.arange(300))["input_ids"]
    common = torch.stack([text[test.labels == value].mode(0).values for value in range(3)])
    assert ((text[:, None] == common).sum(2).argmax(1) == test.labels).float().mean() > 0.9


def test_same_seed_same_task():
    first, again, other = (synthetic(clients=3, samples_per_client=4, seed=seed).clients["client-01"].train for seed in (0, 0, 1))
    for modality, name in (("image", "pixel_values"), ("text", "input_ids")):
        values = [one.inputs(modality, torch.arange(4))[name] for one in (first, again, other)]
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


def test_missing_labels_and_modalities():
    data = synthetic(clients=40, samples_per_client=50, seed=0, multimodal_fraction=0.5, missing_rate=0.2, labelled_fraction=0.3)
    trains = [client.train for client in data.clients.values() if client.train is not None]
    assert sum(len(train.modalities) == 2 for train in trains) == 20
    labels = torch.cat([train.labels for train in trains])
    assert (labels != UNLABELLED).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert all(train.presence.any(1).all() for train in trains)


def test_ten_thousand_clients_cost_a_few_kilobytes_each():
    tracemalloc.start()
    data = synthetic(clients=10_000, samples_per_client=16, seed=0)
    objects, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    train = data.clients["client-0042"].train
    assert train is data.clients["client-0042"].split("train")
    own = sum(tensor.untyped_storage().nbytes() for tensor in (train.indices, train.labels, train.presence))
    assert own + objects / 10_000 < 3_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 0}, "clients is 0"),
        ({"samples_per_client": 0}, "samples_per_client is 0"),
        ({"classes": 1}, "classes is 1"),
        ({"noise": -1.0}, "noise is -1"),
        ({"labelled_fraction": 0.0}, "labelled_fraction is 0"),
        ({"modalities": ("image", "smell")}, "modalities are"),
        ({"modalities": ("image", "image")}, "modalities are"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**({"clients": 3, "samples_per_client": 4, "seed": 0} | settings))
