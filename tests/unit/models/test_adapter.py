"""The bottleneck adapter, its dropout, and the classifiers."""

import pytest
import torch
from tests import worlds
from torch import nn

from m2fedsa.errors import ConfigError
from m2fedsa.models.adapter import Adapter, Classifier, Dropout, initialise


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def busy(*args: int, **kwargs: object) -> Adapter:
    """An adapter whose output is not zero."""
    made = Adapter(*args, **kwargs)
    for parameter in made.parameters():
        nn.init.normal_(parameter, generator=generator(parameter.numel()))
    return made


def test_adapter_is_the_chain_of_its_matrices() -> None:
    adapter = busy(6, 5, 4)
    x = torch.randn(2, 3, 6, generator=generator(0))
    gelu = lambda v: v * 0.5 * (1 + torch.erf(v / 2**0.5))  # noqa: E731
    down = gelu(x @ adapter.down.weight.T + adapter.down.bias)
    update = gelu(down @ adapter.update.weight.T + adapter.update.bias)
    expected = update @ adapter.up.weight.T + adapter.up.bias
    assert torch.allclose(adapter(x), expected, atol=1e-6)


def test_adapter_on_channels_is_a_chain_of_convolutions() -> None:
    adapter = busy(6, 5, 4, axis=1)
    maps = torch.randn(2, 6, 3, 7, generator=generator(0))
    x = maps
    for linear in (adapter.down, adapter.update, adapter.up):
        x = nn.functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)
        x = nn.functional.gelu(x) if linear is not adapter.up else x
    assert adapter(maps).shape == (2, 5, 3, 7)
    assert torch.allclose(adapter(maps), x, atol=1e-5)


def test_adapter_starts_as_nothing_and_the_update_starts_equal_everywhere() -> None:
    image, text, task = Adapter(8, 8, 4), Adapter(8, 8, 4), Adapter(8, 8, 4)
    initialise(image, 3, "image", "ma")
    initialise(text, 3, "text", "ma")
    initialise(task, 3, "image", "ta")
    assert torch.equal(image(torch.randn(2, 8)), torch.zeros(2, 8))
    assert torch.equal(image.update.weight, text.update.weight)
    assert not torch.equal(image.down.weight, text.down.weight)
    assert not torch.equal(image.down.weight, task.down.weight)
    again = Adapter(8, 8, 4)
    initialise(again, 3, "image", "ma")
    assert all(torch.equal(a, b) for a, b in zip(image.parameters(), again.parameters(), strict=True))
    initialise(again, 4, "image", "ma")
    assert not torch.equal(image.down.weight, again.down.weight)
    assert not torch.equal(image.update.weight, again.update.weight)


def test_starts_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    adapter = Adapter(8, 8, 4)
    initialise(adapter, 0, "image", "ma")
    Classifier(8, 3)
    adapter.dropout.generator = generator(0)
    adapter(torch.zeros(2, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_tensors() -> None:
    parts = [f"{part}.{tensor}" for part in ("down", "update", "up") for tensor in ("weight", "bias")]
    assert [name for name, _ in Adapter(8, 8, 4).named_parameters()] == parts
    assert [name for name, _ in Classifier(8, 3).named_parameters()] == ["weight", "bias"]


def test_adapter_learns_from_its_start() -> None:
    adapter = Adapter(8, 8, 4)
    adapter(torch.randn(16, 8, generator=generator(0))).square().sum().backward()
    # up is zero, so this loss has no slope; a linear one has, in `up` alone
    assert all(parameter.grad.abs().max() == 0 for parameter in adapter.parameters())
    adapter.zero_grad()
    adapter(torch.randn(16, 8, generator=generator(0))).sum().backward()
    moved = {name for name, parameter in adapter.named_parameters() if parameter.grad.abs().max() > 0}
    assert moved == {"up.weight", "up.bias"}


def test_dropout_is_off_without_a_generator_whatever_the_mode() -> None:
    x = torch.randn(4, 5)
    for module in (Dropout(0.5).train(), Dropout(0.5).eval()):
        assert module(x) is x


def test_equal_generators_give_equal_masks_in_any_precision_and_mode() -> None:
    x = torch.randn(64, 32)
    first, second, double = Dropout(0.25).train(), Dropout(0.25).eval(), Dropout(0.25)
    for dropout in (first, second, double):
        dropout.generator = generator(7)
    found = first(x)
    assert torch.equal(found, second(x))
    assert torch.allclose(found.double(), double(x.double()), atol=1e-6)
    assert not torch.equal(found, first(x))
    kept = found != 0
    assert torch.allclose(found[kept], x[kept] / 0.75)
    # 2,048 draws: the share kept lies within five standard deviations of three quarters
    assert abs(kept.float().mean().item() - 0.75) < 5 * (0.75 * 0.25 / 2048) ** 0.5


def test_adapter_drops_before_update_and_before_up() -> None:
    adapter = busy(6, 5, 4, dropout=0.5)
    x = torch.randn(8, 6, generator=generator(0))
    adapter.dropout.generator = generator(3)
    found, drawn = adapter(x), generator(3)
    first, second = ((torch.rand(8, 4, generator=drawn) >= 0.5) * 2.0 for _ in range(2))
    hidden = nn.functional.gelu(adapter.update(nn.functional.gelu(adapter.down(x)) * first)) * second
    assert torch.allclose(found, adapter.up(hidden), atol=1e-6)


def test_dropout_passes_gradients_where_it_passed_values() -> None:
    dropout = Dropout(0.5)
    dropout.generator = generator(1)
    x = torch.ones(100, requires_grad=True)
    y = dropout(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_probabilities_out_of_range_are_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match=f"dropout = {probability}"):
        Dropout(probability)


def test_classifier_starts_at_zero_and_is_linear() -> None:
    classifier = Classifier(3, 2)
    z = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(classifier(z), torch.zeros(1, 2))
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
        classifier.bias.copy_(torch.tensor([0.5, -0.5]))
    assert torch.equal(classifier(z), torch.tensor([[1.5, 4.5]]))


def test_a_dropout_mask_does_not_depend_on_the_precision() -> None:
    masks = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        with worlds.default(torch.float64 if dtype == torch.float64 else torch.float32):
            dropout = Dropout(0.3)
            dropout.generator = generator(4)
            masks.append(dropout(torch.ones(5, 7, dtype=dtype)) > 0)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
