"""Batches cut to the length of their longest text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds

from m2fedsa.messages import InputSpec
from m2fedsa.models.cut import cut, plan, specify
from m2fedsa.models.padding import MULTIPLE, shortened, takes_no_notice


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_no_word_is_cut_off_and_no_batch_is_longer_than_it_must_be(lengths):
    mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    hidden = torch.arange(40.0)[None, :, None].expand(len(lengths), 40, 2)
    specs = {"ids": InputSpec((len(lengths), 40), torch.int64), "bias": InputSpec((len(lengths), 7), torch.float32)}
    h, m, s = shortened(hidden, mask, specs)
    assert m.sum() == mask.sum()
    assert h.shape[1] == m.shape[1] == s["ids"].shape[1] == min(40, -(-max(1, *lengths) // MULTIPLE) * MULTIPLE)
    assert torch.equal(h, hidden[:, : h.shape[1]])
    assert s["bias"].shape == (len(lengths), 7)


def test_padding_on_the_left_stays():
    mask = torch.tensor([[0] * 10 + [1] * 10])
    assert shortened(torch.zeros(1, 20, 2), mask, {})[1].shape == (1, 20)


def test_what_has_no_mask_or_one_of_something_else_stays():
    hidden = torch.zeros(2, 20, 3)
    assert shortened(hidden, None, {})[0] is hidden
    assert shortened(hidden, torch.ones(2, 160), {})[0] is hidden


def test_a_sample_gets_the_same_features_in_short_company():
    """And to 1e-5 the same gradient at the cut."""
    model = worlds.encoders(("text",))["text"]
    table, _ = worlds.columns(6)
    inputs = table["text"]
    inputs["attention_mask"][:] = (torch.arange(worlds.TEXT_LENGTH) < torch.tensor([[3], [5], [2], [8], [1], [4]])).long()
    head, tail = cut(model, plan(model, inputs, 1))
    assert takes_no_notice(head, tail, inputs)
    hidden, mask = head(inputs), inputs["attention_mask"]
    found = []
    for arguments in ((hidden, mask, specify(inputs)), shortened(hidden, mask, specify(inputs))):
        leaf = arguments[0].detach().clone().requires_grad_()
        z = tail(leaf, *arguments[1:])
        z.square().sum().backward()
        found.append((z.detach(), leaf.grad))
    (long, by_long), (short, by_short) = found
    assert by_short.shape[1] == 8 < by_long.shape[1]
    assert torch.allclose(long, short, atol=1e-5, rtol=0)
    assert torch.allclose(by_long[:, :8], by_short, atol=1e-5, rtol=1e-4)
    assert float(by_long[:, 8:].abs().max()) < 1e-6


def test_an_encoder_that_looks_at_its_padding_is_left_alone(monkeypatch):
    """One whose pooling averages over padding as well."""
    model = worlds.encoders(("text",))["text"]
    table, _ = worlds.columns(2)
    head, tail = cut(model, plan(model, table["text"], 1))
    assert takes_no_notice(head, tail, table["text"])
    forward = type(tail).forward
    monkeypatch.setattr(type(tail), "forward", lambda self, hidden, mask, inputs: self.run(hidden, mask, inputs)[0].mean(1))
    assert not takes_no_notice(head, tail, table["text"])
    monkeypatch.setattr(type(tail), "forward", forward)


def test_an_image_is_not_a_text():
    model = worlds.encoders(("image",))["image"]
    table, _ = worlds.columns(2)
    assert not takes_no_notice(*cut(model, plan(model, table["image"], 1)), table["image"])


@pytest.mark.parametrize("length", [1, MULTIPLE])
def test_texts_that_cannot_be_shortened(length):
    model = worlds.encoders(("text",))["text"]
    table, _ = worlds.columns(2)
    inputs = {name: value[:, :length] for name, value in table["text"].items()}
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    assert not takes_no_notice(*cut(model, plan(model, inputs, 1)), inputs)
