import pytest
import torch

from m2fedsa.data.random_shapes import random_shapes
from m2fedsa.errors import ConfigError


def test_inputs_have_the_shapes_of_large_encoders():
    data = random_shapes(seed=0, clients=2, samples_per_client=3)
    assert list(data.clients) == ["client-00", "client-01", "evaluation"]
    samples = data.clients["client-01"].train
    rows = torch.tensor([2, 0])
    assert samples.inputs("image", rows)["pixel_values"].shape == (2, 3, 224, 224)
    assert samples.inputs("audio", rows)["input_values"].shape == (2, 128, 128)
    text = samples.inputs("text", rows)
    assert text["input_ids"].shape == (2, 64)
    assert text["attention_mask"].tolist() == [[1] * 32 + [0] * 32] * 2
    ids = text["input_ids"]
    assert (ids[:, 32:] == 1).all()  # RoBERTa's padding
    assert ids[:, :32].min() >= 4
    assert ids.max() < 50265
    assert [len(data.clients["evaluation"].split(split).labels) for split in ("validation", "test")] == [2, 2]


def test_nobody_has_a_sample_of_another_and_the_seed_decides():
    data, again, other = (random_shapes(seed=seed, image_size=8) for seed in (0, 0, 1))
    held = [client.split(split) for client in data.clients.values() for split in ("train", "validation", "test") if client.split(split)]
    rows = torch.cat([samples.indices for samples in held]).tolist()
    assert sorted(rows) == list(range(3 * 4 + 2 * 2))

    def first(one):
        return one.clients["client-00"].train.inputs("image", torch.tensor([0]))["pixel_values"]

    assert torch.equal(first(data), first(again))
    assert not torch.equal(first(data), first(other))


def test_samples_lack_modalities():
    data = random_shapes(seed=0, clients=2, samples_per_client=30, missing_rate=0.5, image_size=4)
    presence = data.clients["client-00"].train.presence
    assert presence.any(1).all()
    assert not presence.all()


@pytest.mark.parametrize(
    ("option", "value", "lowest"),
    [("samples_per_client", 0, 1), ("evaluation_samples", 0, 1), ("image_size", 0, 1), ("text_read", 0, 1), ("text_tokens", 31, 32)],
)
def test_values_out_of_range(option, value, lowest):
    with pytest.raises(ConfigError, match=f"^{option} is {value}; it must be at least {lowest}$"):
        random_shapes(seed=0, **{option: value})
