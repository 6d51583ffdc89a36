"""Blocks that are computed again on the way back: the same bits, less kept."""

import pytest
import torch
from tests import worlds
from torch.autograd.graph import saved_tensors_hooks

from m2fedsa.models.adapter import Adapter
from m2fedsa.models.cut import cut, plan, specify
from m2fedsa.models.recomputing import recompute


@pytest.mark.parametrize("modality", worlds.MODALITIES)
def test_the_same_bits_and_less_kept(modality: str) -> None:
    model = worlds.encoders((modality,))[modality].requires_grad_(False)
    table, _ = worlds.columns(4)
    inputs = table[modality]
    planned = plan(model, inputs, 0)
    found = []
    for again in (False, True):
        head, tail = cut(model, planned)
        if again:
            recompute(tail)
        adapter = Adapter(tail.width_in, tail.width_out, 5, 0.3)
        torch.nn.init.ones_(adapter.up.weight)
        adapter.dropout.generator = torch.Generator().manual_seed(2)
        hidden = head(inputs).requires_grad_()
        kept = {}

        def keep(tensor: torch.Tensor, kept=kept) -> torch.Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            z = tail(hidden, inputs.get("attention_mask"), specify(inputs), adapter)
        z.square().sum().backward()
        found.append((z.detach(), hidden.grad, adapter.down.weight.grad, sum(kept.values())))
    (z, hidden, down, much), (same_z, same_hidden, same_down, little) = found
    assert torch.equal(z, same_z)
    assert torch.equal(hidden, same_hidden)
    assert torch.equal(down, same_down)
    assert float(down.abs().max()) > 0
    assert little < 0.6 * much


def test_without_gradients_nothing_is_wrapped() -> None:
    model = worlds.encoders(("text",))["text"]
    table, _ = worlds.columns(2)
    head, tail = cut(model, plan(model, table["text"], 1))
    before = tail(head(table["text"]), table["text"]["attention_mask"], specify(table["text"]))
    recompute(tail)
    with torch.no_grad():
        assert torch.equal(before, tail(head(table["text"]), table["text"]["attention_mask"], specify(table["text"])))
