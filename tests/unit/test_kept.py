import pytest
import torch
from tests import worlds

from m2fedsa.client.kept import CHUNK, KeptOutputs
from m2fedsa.models.cut import Head, plan


@pytest.fixture
def head():
    return made("text")


def made(modality):
    model = worlds.encoders((modality,))[modality].requires_grad_(False)
    table, _ = worlds.columns(2)
    return Head(model, plan(model, table[modality], 1))


def held(number, presence=None, modalities=("image", "text")):
    table, labels = worlds.columns(number)
    return worlds.samples(table, labels, torch.arange(number), modalities, presence)


def test_outputs_are_those_of_the_head(head):
    """Of the chunk that a sample lies in, to the bit."""
    samples, kept = held(CHUNK + 5), KeptOutputs()
    hidden, mask, inputs = kept.get("train", "text", samples, head).rows(torch.tensor([CHUNK + 1, 0, 3]))
    first, second = (head(samples.inputs("text", rows)) for rows in (torch.arange(CHUNK), torch.arange(CHUNK, CHUNK + 5)))
    assert torch.equal(hidden, torch.stack([second[1], first[0], first[3]]))
    assert torch.equal(mask, samples.inputs("text", torch.tensor([CHUNK + 1, 0, 3]))["attention_mask"])
    assert {name: tuple(spec) for name, spec in inputs.items()} == {
        "input_ids": ((3, worlds.TEXT_LENGTH), torch.int64),
        "attention_mask": ((3, worlds.TEXT_LENGTH), torch.int64),
    }
    assert not hidden.requires_grad


def test_they_do_not_depend_on_who_asks_first(head):
    samples = held(2 * CHUNK)
    rows = torch.tensor([40, 2, 33])
    one, other = KeptOutputs(), KeptOutputs()
    one.get("train", "text", samples, head).rows(torch.arange(CHUNK))
    assert torch.equal(one.get("train", "text", samples, head).rows(rows)[0], other.get("train", "text", samples, head).rows(rows)[0])


def test_samples_without_the_modality_take_no_place(head):
    presence = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    samples, kept = held(4, presence), KeptOutputs()
    found = kept.get("train", "text", samples, head)
    assert found.place.tolist() == [-1, 0, 1, 2]
    assert len(found.outputs.hidden) == len(found.outputs.mask) == 3
    assert torch.equal(found.rows(torch.tensor([3, 1]))[0], head(samples.inputs("text", torch.tensor([1, 2, 3])))[[2, 0]])


def test_each_is_computed_once(head):
    """Samples times modalities, for each split of its own, whatever is asked for how often."""
    presence = torch.tensor([[True, False], [True, True], [False, True]])
    samples, kept, image = held(3, presence), KeptOutputs(), made("image")
    for _ in range(3):
        kept.get("train", "text", samples, head)
        kept.get("train", "image", samples, image)
    assert kept.computed == 4
    kept.get("test", "text", held(7), head)
    assert kept.computed == 11


def test_an_encoder_without_mask():
    _, mask, inputs = KeptOutputs().get("train", "image", held(3), made("image")).rows(torch.tensor([1]))
    assert mask is None
    assert {name: tuple(spec) for name, spec in inputs.items()} == {"pixel_values": ((1, 1, 8, 8), torch.float32)}
