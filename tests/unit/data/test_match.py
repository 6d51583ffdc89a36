"""Written and spoken digit: the label is their relation and nothing else."""

from collections import Counter

import pytest
import torch
from scipy.stats import chi2_contingency

from m2fedsa.config import Data
from m2fedsa.data.digits import match as build

SIZES = {"train": 1070, "validation": 300, "test": 600}


def pairs_of(data, split):
    """(P, 2) places in the columns, (P,) labels."""
    samples = [client.split(split) for client in data.clients.values() if client.split(split) is not None]
    return torch.cat([one.indices for one in samples]), torch.cat([one.labels for one in samples])


@pytest.mark.parametrize("split", SIZES)
def test_balanced_pairs_within_the_split(match, rows, split):
    pairs, labels = pairs_of(match, split)
    digits = rows["federation"].digits
    assert len(pairs) == 2 * SIZES[split]
    assert torch.equal(labels, (digits[pairs[:, 0]] == digits[pairs[:, 1]]).long())
    assert {rows["federation"].rows[place].split for place in pairs.flatten()} == {split}


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("side", [0, 1])
def test_one_modality_says_nothing(match, rows, split, side):
    pairs, labels = pairs_of(match, split)
    for answer in (0, 1):
        assert set(Counter(pairs[labels == answer, side].tolist()).values()) == {1}
    digits = rows["federation"].digits[pairs[:, side]]
    table = [digits[labels == answer].bincount(minlength=10).tolist() for answer in (0, 1)]
    assert table[0] == table[1]
    assert chi2_contingency(table).pvalue == 1


def test_wrong_partners_are_evenly_spread(match, rows):
    pairs, labels = pairs_of(match, "train")
    digits = rows["federation"].digits[pairs[labels == 0]]
    counts = Counter(map(tuple, digits.tolist()))
    # 107 images of a digit, the rarest digit's number, over nine other digits: 11 or 12
    assert len(counts) == 90
    assert set(counts.values()) == {11, 12}


def test_an_image_is_at_one_client_with_all_its_pairs(match):
    holders = {}
    for name, client in match.clients.items():
        if client.train is not None:
            assert (client.train.labels == 1).float().mean() == 0.5
            for image in client.train.indices[:, 0].tolist():
                assert holders.setdefault(image, name) == name
    assert len(holders) == 1070


def test_evaluation_clients_hold_their_speakers_recordings(match, rows):
    for name, client in match.clients.items():
        if client.test is not None:
            assert {rows["federation"].rows[place].speaker for place in client.test.indices[:, 1]} == {name.removeprefix("speaker-")}
            assert client.test.labels.bincount().tolist() == [100, 100]
            assert client.validation.labels.bincount().tolist() == [50, 50]


def test_inputs_come_from_the_modalitys_own_row(match):
    samples = match.clients["client-00"].train
    chosen = torch.tensor([3, 0])
    for side, (modality, name) in enumerate((("image", "pixel_values"), ("audio", "input_values"))):
        expected = samples.columns[modality][name][samples.indices[chosen, side]]
        assert torch.equal(samples.inputs(modality, chosen)[name], expected)


def test_a_client_with_one_modality_gets_that_ones_rows():
    data = build(seed=0, settings=Data(clients=6, partition="iid", multimodal_fraction=0.5), pairings=4)
    assert sum(len(client.train.labels) for client in data.clients.values() if client.train is not None) == 4280
    for client in data.clients.values():
        if client.train is not None and client.modalities == ("audio",):
            assert client.train.indices.shape[1] == 1
            rows = client.train.indices[:, 0]
            assert torch.equal(
                client.train.inputs("audio", torch.arange(5))["input_values"], client.train.columns["audio"]["input_values"][rows[:5]]
            )
            break
    else:
        pytest.fail("nobody holds audio alone")
