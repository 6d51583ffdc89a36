"""What a view of a sample is made of."""

import hashlib
import typing

import pytest
import torch
from tests import worlds

import m2fedsa
from m2fedsa.client.augment import KINDS, disturbed
from m2fedsa.config import Modality
from m2fedsa.data.samples import ClientData, FederatedData
from m2fedsa.errors import ConfigError
from m2fedsa.models.cut import Head
from m2fedsa.reporting.summary import compute
from m2fedsa.state import raw_bytes


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(number=40):
    return torch.randn(number, 3, 16, 16, generator=draw(9)) + 5


def view(kind, value, name="pixel_values", seed=0):
    return disturbed([kind], "m", {name: value}, draw(seed))[name]


def test_a_flip_is_its_own_inverse_and_hits_half():
    value = pictures(200)
    found = view("flip", value)
    mirrored, same = (
        torch.tensor([torch.equal(one, two) for one, two in zip(found, other, strict=True)]) for other in (value.flip(-1), value)
    )
    assert bool((mirrored ^ same).all())
    assert 70 < int(mirrored.sum()) < 130


def test_a_shift_moves_by_an_eighth_at_most_and_leaves_zeros():
    value = pictures()
    for one, two in zip(view("shift", value), value, strict=True):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(
                one[:, max(down, 0) : 16 + min(down, 0), max(right, 0) : 16 + min(right, 0)],
                two[:, max(-down, 0) : 16 - max(down, 0), max(-right, 0) : 16 - max(right, 0)],
            )
            and int((one == 0).sum()) == 3 * (256 - (16 - abs(down)) * (16 - abs(right)))
        ]
        assert len(places) == 1


def test_what_is_erased_is_a_rectangle():
    value = pictures()
    gone = (view("erase", value) == 0).all(1)
    assert bool(gone.any())
    for one in gone:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns)
        assert int(rows.sum()) <= 8
        assert int(columns.sum()) <= 8


@pytest.mark.parametrize(("kind", "axis"), [("frames", 1), ("bands", 2)])
def test_masks_of_spectrograms(kind, axis):
    value = torch.rand(40, 20, 12, generator=draw(2)) + 1
    found = view(kind, value, "input_values")
    gone = (found == 0).all(3 - axis)
    assert torch.equal(found == 0, gone[:, :, None].expand_as(value) if axis == 1 else gone[:, None, :].expand_as(value))
    assert int(gone.sum(1).max()) <= value.shape[axis] // 4
    assert all(int(one.int().diff().abs().sum()) <= 2 for one in gone)  # one stretch


def test_noise_is_a_tenth():
    value = pictures()
    ratio = (view("noise", value) - value).flatten(1).std(1) / value.flatten(1).std(1)
    assert ratio.tolist() == pytest.approx([0.1] * 40, rel=0.2)


def test_tokens_are_dropped_by_the_mask():
    inputs = {"input_ids": torch.arange(400).reshape(4, 100), "attention_mask": torch.ones(4, 100, dtype=torch.int64)}
    inputs["attention_mask"][:, 60:] = 0
    found = disturbed(["drop"], "m", inputs, draw())
    assert torch.equal(found["input_ids"], inputs["input_ids"])
    assert bool(found["attention_mask"][:, 0].all())
    assert not bool(found["attention_mask"][:, 60:].any())
    assert 10 < int((found["attention_mask"][:, :60] == 0).sum()) < 40


@pytest.mark.parametrize("kind", KINDS)
def test_equal_draws_equal_views_and_samples_stay_as_they_are(kind):
    value, name = (pictures(), "pixel_values") if kind in ("flip", "shift", "erase") else (torch.rand(40, 20, 12), "input_values")
    if kind == "drop":
        value, name = torch.ones(40, 9, dtype=torch.int64), "attention_mask"
    before = value.clone()
    assert torch.equal(view(kind, value, name), view(kind, value, name))
    assert not torch.equal(view(kind, value, name), view(kind, value, name, seed=1))
    assert torch.equal(value, before)


def test_a_kind_that_does_not_fit_is_told():
    with pytest.raises(
        ConfigError, match=r'modalities.m.augment: "flip" is for pictures, but the encoder takes input_ids \(5,\); leave it out'
    ):
        disturbed(["flip"], "m", {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}, draw())


def test_the_settings_know_every_kind():
    known = Modality.model_fields["augment"].annotation
    assert set(typing.get_args(typing.get_args(known)[0])) == set(KINDS)


# --- in a run -----------------------------------------------------------------------------------------------------------------------


class Listening:
    """A head that remembers the digest of each sample that it was given."""

    def __init__(self, monkeypatch):
        self.given = []
        original = Head.under

        def under(head, weights, inputs, **more):
            self.given += [hashlib.sha256(raw_bytes(one)).hexdigest() for one in next(iter(inputs.values()))]
            return original(head, weights, inputs, **more)

        monkeypatch.setattr(Head, "under", under)


def played(monkeypatch, rounds, **settings):
    """A run of one client with pictures alone, of twelve training samples; what its head was given, and how it ended."""
    table, labels = worlds.columns(20)
    rows = torch.arange(20)
    train, rest = (worlds.samples(table, labels[part], part, ("image",)) for part in (rows[:12], rows[12:]))
    data = FederatedData(worlds.CLASSES, ("image",), {"ann": ClientData(("image",), train=train, validation=rest, test=rest)})
    config = worlds.config(("image",), federation__rounds=rounds, evaluation__every=100, **settings)
    with monkeypatch.context() as patch:
        listening = Listening(patch)
        result = m2fedsa.run(config, data=data, encoders=worlds.encoders(("image",)))
    clean = {hashlib.sha256(raw_bytes(one)).hexdigest() for one in train.columns["image"]["pixel_values"]}
    return [one for one in listening.given if one not in {*clean}], listening.given, result.digest


AUGMENT = {"modalities__image__augment": '["flip", "shift", "noise"]'}


def test_views_are_drawn_once_and_their_outputs_kept(monkeypatch):
    """Three views: the sample and two others, twelve each, whose outputs serve ten rounds; and again to the same digest."""
    disturbed_ones, given, digest = played(monkeypatch, 10, **AUGMENT, modalities__image__augment_views=3)
    own = [one for one in disturbed_ones if disturbed_ones.count(one) == 1]
    evaluated = 8  # the samples of validation and test, none of which is disturbed
    assert len(set(own)) >= 2 * 12
    assert len(given) <= 12 * 3 + 2 * evaluated + 6  # and a few that the cut and the ledger look at
    assert played(monkeypatch, 10, **AUGMENT, modalities__image__augment_views=3)[2] == digest


def test_each_step_disturbs_anew(monkeypatch):
    """No view is given twice, and the head runs for every visit: twelve samples in each of five rounds."""
    disturbed_ones, _, digest = played(monkeypatch, 5, **AUGMENT, modalities__image__augment_views=0)
    fresh = [one for one in disturbed_ones if disturbed_ones.count(one) == 1]
    assert len(fresh) >= 5 * 12
    assert played(monkeypatch, 5, **AUGMENT, modalities__image__augment_views=0)[2] == digest
    assert played(monkeypatch, 5)[2] != digest


def test_one_view_is_the_sample_itself(monkeypatch):
    assert played(monkeypatch, 2, **AUGMENT, modalities__image__augment_views=1)[2] == played(monkeypatch, 2)[2]


def test_what_it_costs_is_told():
    """A head of 10 operations beside 2 of the rest, twenty visits: run once, four times, or in each visit."""
    side = {"frozen": {}, "trainable": {}, "flops": {"forward": 11.0, "backward": 1.0, "head": 10.0}}
    ledger = {"image": {"client": side, "whole": side}}

    def cost(**settings):
        return compute(ledger, worlds.config(("image",), federation__rounds=20, **settings), 5).client

    assert cost() == pytest.approx(12 - 10 * 19 / 20)
    assert cost(**AUGMENT) == pytest.approx(12 - 10 * 16 / 20)
    assert cost(**AUGMENT, modalities__image__augment_views=0) == pytest.approx(12)
