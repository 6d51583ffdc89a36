"""The digits as a federated task: who holds which rows, which labels are kept, what never changes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from m2fedsa.config import Data
from m2fedsa.data.digits import digits as build
from m2fedsa.data.digits import few_labels
from m2fedsa.data.samples import UNLABELLED
from m2fedsa.data.spread import keep_labels
from m2fedsa.errors import ConfigError

DIGEST = """
import hashlib
from m2fedsa.data.digits import digits
from tests.unit.data.test_digits import digest
print(digest(digits(seed=0)))
"""


def training(data):
    return {name: client for name, client in data.clients.items() if client.train is not None}


def evaluating(data):
    return {name: client for name, client in data.clients.items() if client.train is None}


def digest(data):
    total = hashlib.sha256()
    for name, client in data.clients.items():
        for samples in filter(None, (client.train, client.validation, client.test)):
            total.update(f"{name} {client.modalities}".encode())
            tensors = [samples.labels, samples.presence]
            for modality in client.modalities:
                tensors += samples.inputs(modality, torch.arange(len(samples.labels))).values()
            for tensor in tensors:
                total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def test_the_same_seed_gives_the_same_bits_in_another_process(digits):
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.split()[-1] == digest(digits)


def test_shapes(digits):
    assert digits.classes == tuple("0123456789")
    assert digits.modalities == ("image", "audio", "text")
    test = digits.clients["speaker-theo"].test
    shapes = {
        name: tuple(tensor.shape) for modality in digits.modalities for name, tensor in test.inputs(modality, torch.arange(7)).items()
    }
    assert shapes == {"pixel_values": (7, 1, 28, 28), "input_values": (7, 64, 40), "input_ids": (7, 18), "attention_mask": (7, 18)}


def test_every_row_has_one_holder(digits, rows):
    clients = training(digits)
    assert list(clients) == [f"client-{number:02d}" for number in range(20)]
    places = torch.cat([client.train.indices for client in clients.values()])
    assert sorted(rows["federation"].numbers[place] for place in places) == [
        row.row for row in rows["federation"].rows if row.part == "clients"
    ]
    assert min(len(client.train.labels) for client in clients.values()) >= 8
    assert all(client.validation is None and client.test is None for client in clients.values())


def test_evaluation_clients_are_the_speakers(digits, rows):
    federation = rows["federation"]
    clients = evaluating(digits)
    assert list(clients) == [f"speaker-{name}" for name in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")]
    for name, client in clients.items():
        for split, samples, size in (("validation", client.validation, 50), ("test", client.test, 100)):
            assert {(federation.rows[place].speaker, federation.rows[place].split) for place in samples.indices} == {(name[8:], split)}
            assert samples.labels.bincount().tolist() == [size // 10] * 10
            assert samples.presence.all()
        assert client.modalities == ("image", "audio", "text")


def test_half_of_the_clients_hold_all_modalities(digits):
    assert sum(len(client.modalities) == 3 for client in training(digits).values()) == 10
    for client in training(digits).values():
        assert client.train.modalities == client.modalities
        assert client.train.presence.shape == (len(client.train.labels), len(client.modalities))


def test_labels_are_the_rows_digits(digits, rows):
    for client in digits.clients.values():
        for samples in filter(None, (client.train, client.validation, client.test)):
            assert torch.equal(samples.labels, rows["federation"].digits[samples.indices])


@pytest.fixture(scope="module")
def few():
    return few_labels(seed=0, settings=Data(clients=7, partition="iid", multimodal_fraction=1.0, missing_rate=0.3, labelled_fraction=0.1))


def test_noise_depends_on_neither_partition_nor_clients(digits, few):
    columns, others = (data.clients["speaker-theo"].test.columns for data in (digits, few))
    for modality, arguments in columns.items():
        for name, column in arguments.items():
            assert torch.equal(column, others[modality][name])


def test_missing_modalities(few):
    presence = torch.cat([client.train.presence for client in training(few).values()])
    assert presence.any(1).all()
    assert presence.float().mean().item() == pytest.approx(0.7 + 0.3**3 / 3, abs=0.03)
    assert all(client.test.presence.all() for client in evaluating(few).values())


def test_one_label_in_ten(few):
    labels = torch.cat([client.train.labels for client in training(few).values()])
    assert (labels != UNLABELLED).sum() == 119
    # of 122, 131, 107, ... training rows of the digits 0, 1, 2, ...
    assert labels[labels != UNLABELLED].bincount().tolist() == [12, 13, 11, 13, 11, 12, 12, 12, 12, 11]
    assert all((client.test.labels >= 0).all() and (client.validation.labels >= 0).all() for client in evaluating(few).values())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 3))
def test_kept_labels_are_exact_and_even(labels, fraction, seed):
    labels = torch.tensor(labels)
    assume(round(fraction * len(labels)) > 0)
    kept = keep_labels(labels, fraction, seed)
    assert (kept >= 0).sum() == round(fraction * len(labels))
    assert torch.equal(kept[kept >= 0], labels[kept >= 0])
    for value in labels.unique():
        assert abs((kept == value).sum() - fraction * (labels == value).sum()) <= 1


def test_an_idle_client_costs_its_indices(digits):
    train = digits.clients["client-00"].train
    assert all(train.columns is client.train.columns for client in training(digits).values())
    own = [train.indices, train.labels, train.presence]
    assert sum(tensor.untyped_storage().nbytes() for tensor in own) <= len(train.labels) * (8 + 8 + 3)


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"labelled_fraction is 0"):
        build(seed=0, settings=Data(labelled_fraction=0.0))
    with pytest.raises(ConfigError, match=r"data.clients = 151 and data.minimum = 8, .* need 1208 samples, but there are 1192"):
        build(seed=0, settings=Data(clients=151))
