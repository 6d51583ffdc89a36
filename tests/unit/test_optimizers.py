import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2fedsa.optimizers import adamw, clip, cosine


def test_a_step_by_hand():
    """First step: moments corrected are g and g², so p moves by lr · g / (|g| + ε) after it has shrunk by lr · decay."""
    values, gradients = [0.5, -2.0, 3.0], [0.1, -4.0, 1e-3]
    parameter = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    parameter.grad = torch.tensor(gradients, dtype=torch.float64)
    adamw([{"params": [parameter], "lr": 0.01}], weight_decay=0.05).step()
    expected = [p * (1 - 0.01 * 0.05) - 0.01 * g / (abs(g) + 1e-8) for p, g in zip(values, gradients, strict=True)]
    assert parameter.tolist() == pytest.approx(expected, rel=1e-12)


def test_two_steps_by_hand():
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = adamw([{"params": [parameter], "lr": 0.1}], weight_decay=0.2)
    p, m, v = 1.0, 0.0, 0.0
    for step, g in enumerate((0.3, -0.7), 1):
        parameter.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p * (1 - 0.1 * 0.2) - 0.1 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
    assert parameter.item() == pytest.approx(p, rel=1e-12)


def test_what_has_no_gradient_neither_moves_nor_decays():
    still, moving = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    moving.grad = torch.zeros(2)
    adamw([{"params": [still, moving], "lr": 0.1}], weight_decay=0.5).step()
    assert still.tolist() == [1.0, 1.0]
    assert moving.tolist() == pytest.approx([0.95, 0.95])


def test_groups_have_their_own_rates():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    first.grad, second.grad = torch.ones(1), torch.ones(1)
    adamw([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.02}], weight_decay=0.0).step()
    assert (first.item(), second.item()) == (pytest.approx(-0.1), pytest.approx(-0.02))


def with_gradients(*gradients):
    made = [torch.nn.Parameter(torch.zeros(len(one))) for one in gradients]
    for parameter, one in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(one)
    return made


def test_clipping_is_by_one_norm():
    made = with_gradients([3.0], [0.0, 4.0])
    assert clip(made, 1.0) == pytest.approx(5.0)
    assert torch.cat([one.grad for one in made]).tolist() == pytest.approx([0.6, 0.0, 0.8], rel=1e-4)


def test_small_gradients_are_left_alone():
    made = with_gradients([0.3], [0.4])
    assert clip(made, 1.0) == pytest.approx(0.5)
    assert [one.grad.item() for one in made] == [pytest.approx(0.3), pytest.approx(0.4)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_told(bad):
    assert not math.isfinite(clip(with_gradients([1.0], [bad]), 1.0))


@given(st.integers(1, 500), st.data())
def test_the_cosine(rounds, data):
    """1 in the first round, falling, and not yet zero in the last: half a period over `rounds` rounds."""
    number = data.draw(st.integers(1, rounds))
    assert cosine(1, rounds) == 1.0
    assert 0 < cosine(rounds, rounds) <= 1
    assert cosine(number, rounds) == pytest.approx(math.cos(math.pi / 2 * (number - 1) / rounds) ** 2)
    if number > 1:
        assert cosine(number, rounds) < cosine(number - 1, rounds)


def test_the_cosine_at_its_half():
    assert cosine(11, 20) == pytest.approx(0.5)
