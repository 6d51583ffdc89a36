"""Decoders as encoders: a text's vector is that of its last token, wherever and however much it is padded."""

import pytest
import torch
from tests.unit.models.zoo import LENGTHS, encoder, text
from tests.unit.models.zoo_decoders import DECODERS

from m2fedsa.models.cut import Head, Tail, cut, plan, specify, whole

RECURRENT = ("RecurrentGemma",)
"""Its recurrence runs over padding on the left, as transformers writes it."""
TOLERANCE = 1e-5


def sides(name: str) -> tuple[Head, Tail]:
    model = encoder(DECODERS[name])
    return cut(model, plan(model, text(), 2))


def vectors(head: Head, tail: Tail, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return tail(head(inputs), inputs["attention_mask"], specify(inputs))


def alone(head: Head, tail: Tail) -> torch.Tensor:
    """Each text without padding, in a batch of its own."""
    made = text()
    return torch.cat(
        [
            vectors(head, tail, {"input_ids": ids[None, :length], "attention_mask": torch.ones(1, length, dtype=torch.long)})
            for ids, length in zip(made["input_ids"], LENGTHS, strict=True)
        ]
    )


def padded(left: int, right: int) -> dict[str, torch.Tensor]:
    """The texts with padding to 17 tokens on one side, and some more on both."""
    made = text()
    if left:
        rolled = [
            (ids.roll(17 - length), mask.roll(17 - length))
            for ids, mask, length in zip(made["input_ids"], made["attention_mask"], LENGTHS, strict=True)
        ]
        made = {"input_ids": torch.stack([ids for ids, _ in rolled]), "attention_mask": torch.stack([mask for _, mask in rolled])}
    pad = torch.nn.functional.pad
    return {"input_ids": pad(made["input_ids"], (left, right), value=1), "attention_mask": pad(made["attention_mask"], (left, right))}


@pytest.mark.parametrize("name", DECODERS)
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    head, tail = sides(name)
    assert tail.pooling == "last"
    assert (vectors(head, tail, padded(0, 4)) - alone(head, tail)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in RECURRENT])
def test_padding_on_the_left_changes_nothing(name: str) -> None:
    head, tail = sides(name)
    inputs = padded(3, 0)
    found = vectors(head, tail, inputs)
    assert (found - alone(head, tail)).abs().max() <= TOLERANCE
    assert torch.equal(found, whole(encoder(DECODERS[name]), inputs))


def test_places_that_are_given_are_taken() -> None:
    head, tail = sides("GPT-2")
    inputs = padded(3, 0)
    inputs["position_ids"] = torch.arange(20).expand(3, 20)
    assert (vectors(head, tail, inputs) - alone(head, tail)).abs().max() > 1e-3
