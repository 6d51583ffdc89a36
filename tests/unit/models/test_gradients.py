"""Gradients through a split encoder are those of the unsplit one, by plain autograd over hooks of its own."""

import pytest
import torch
from tests.unit.models.tiny import FAMILIES, encoder, inputs
from torch import Tensor, nn

from m2fedsa.models.adapter import Adapter
from m2fedsa.models.cut import cut, plan, specify

DTYPE = torch.float64
WIDTHS = {"swin": {0: 16, 1: 16, 3: 32, 5: 64}, "swin padded": {0: 16, 1: 16, 3: 32, 5: 64}}
CUTS = [(name, k) for name, family in FAMILIES.items() for k in (0, 1, len(family.blocks) // 2, len(family.blocks) - 1)]


def adapter(width: int, seed: int) -> Adapter:
    """An adapter that does something: its output is not zero."""
    made = Adapter(width, width, 8, dropout=0.0).to(DTYPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return made


def pooled(name: str, output: object, example: dict[str, Tensor]) -> Tensor:
    """Pooling written anew."""
    if name in ("bert", "roberta"):
        return torch.stack(
            [row[: int(mask.sum())].mean(0) for row, mask in zip(output.last_hidden_state, example["attention_mask"], strict=True)]
        )
    return output.last_hidden_state[:, 0] if name == "vit" else output.pooler_output


def unsplit(name: str, k: int, ma: nn.Module, ta: nn.Module, direction: Tensor) -> Tensor:
    """z of the whole model with both adapters hooked in by hand; leaves the gradients of sum(z * direction)."""
    model, family, example = encoder(name, DTYPE), FAMILIES[name], inputs(name, dtype=DTYPE)
    last, seen = family.blocks[-1], {}
    first_part, last_part = (model.get_submodule(f"{last}.{part}") for part in family.feed_forward)
    handles = [
        model.get_submodule(family.blocks[k]).register_forward_pre_hook(lambda _, args: (args[0] + ma(args[0]), *args[1:])),
        first_part.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
        last_part.register_forward_hook(lambda _, args, output: output + ta(seen["x"])),
    ]
    try:
        z = pooled(name, model(**example), example)
    finally:
        for handle in handles:
            handle.remove()
    (z * direction).sum().backward()
    return z


@pytest.mark.parametrize(("name", "k"), CUTS)
def test_gradients_of_both_adapters_equal_those_of_the_unsplit_model(name: str, k: int) -> None:
    model, example = encoder(name, DTYPE), inputs(name, dtype=DTYPE)
    width = WIDTHS.get(name, {}).get(k, 64)
    direction = torch.randn(3, 64, dtype=DTYPE, generator=torch.Generator().manual_seed(5))
    expected_ma, expected_ta = adapter(width, 1), adapter(64, 2)
    expected = unsplit(name, k, expected_ma, expected_ta, direction)

    head, tail = cut(model, plan(model, example, k))
    ma, ta = adapter(head.width, 1), adapter(tail.width_in, 2)
    hidden = head(example)
    sent = hidden + ma(hidden)
    received = sent.detach().requires_grad_()
    z = tail(received, example.get("attention_mask"), specify(example), ta)
    (z * direction).sum().backward()
    sent.backward(received.grad)

    assert torch.allclose(z, expected, rtol=0, atol=1e-12)
    for ours, theirs in ((ma, expected_ma), (ta, expected_ta)):
        for tensor, parameter in theirs.named_parameters():
            found = dict(ours.named_parameters())[tensor].grad
            assert parameter.grad.abs().max() > 0
            assert (found - parameter.grad).abs().max() <= 1e-9 * parameter.grad.abs().max(), tensor
    assert not any(parameter.grad is not None for side in (head, tail) for parameter in side.parameters())
