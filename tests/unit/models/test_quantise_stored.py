"""Weights in few bits, against NumPy and against what the theory of quantisation allows."""

import numpy as np
import pytest
import torch

from m2fedsa.models import stored
from m2fedsa.models.stored import GROUP, KINDS, LEVELS, Bfloat16, Int4, Int8, Promise

KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def normal(*shape, seed=0, heavy=False):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.logspace(-2, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1)) if heavy else drawn


def off(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def unpacked(made):
    """The weight from its parts, in NumPy."""
    parts = {name: tensor.float().numpy() for name, tensor in made.parts.items()}
    packed = made.parts["codes"].numpy()
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    scales = np.repeat(parts["scale"] * parts["row_scale"], GROUP, 1)
    return np.array(LEVELS, np.float32)[codes] * scales


def test_int8_is_the_largest_of_a_row_in_127_steps():
    weight = normal(6, 50, heavy=True)
    step = weight.abs().amax(1, keepdim=True) / 127
    made = Int8.of(weight)
    assert made.parts["codes"].dtype == torch.int8
    assert made.parts["codes"].abs().amax(1).tolist() == [127] * 6
    assert np.array_equal(made.parts["codes"].numpy(), np.rint(weight.numpy() / step.numpy()))
    assert torch.all((made() - weight).abs() <= step / 2 * 1.0001)


def test_bfloat16_is_float32_with_half_of_its_bits():
    weight = normal(4, 3, 5, heavy=True)
    assert torch.equal(Bfloat16.of(weight)(), weight.to(torch.bfloat16).float())


def test_int4_is_what_its_parts_say():
    made = Int4.of(normal(5, 96, heavy=True))
    assert np.allclose(made().numpy(), unpacked(made), rtol=1e-6, atol=0)
    assert made.parts["codes"].shape == (5, 48)
    bits = 8 * sum(part.nbytes for part in made.parts.values())
    assert bits == 5 * 96 * 4 + 5 * 3 * 8 + 5 * 16


def test_int4_comes_near_to_what_four_bits_can_do():
    """No code of four bits a number is off by less than 1/16 of normally distributed weights; plain rounding to 16 steps of the largest
    of a group is off by more than 9 %."""
    weight = normal(64, 768)
    assert 1 / 16 < off(Int4.of(weight)(), weight) < 0.078
    groups = weight.reshape(-1, GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    assert off((groups / largest * 7).round() / 7 * largest, groups) > 0.09


def test_int4_loses_nothing_of_weights_that_are_levels():
    """One scale for all groups: nothing is lost but the rounding of that scale to bfloat16."""
    levels = torch.tensor(LEVELS)
    weight = torch.stack([levels.repeat(4), -levels.repeat(4)]) * 0.375
    assert off(Int4.of(weight)(), weight) < 2**-8
    assert {int(code) for code in Int4.of(weight).parts["codes"][0]} == {16 * (2 * i + 1) + 2 * i for i in range(8)}


@KIND
def test_rows_of_nothing_stay_nothing(kind):
    weight = normal(4, 40)
    weight[1] = 0
    weight[2, :32] = 0
    made = kind.of(weight)()
    assert made.isfinite().all()
    assert not made[1].any()
    assert not made[2, :32].any()


@KIND
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_any_size_of_numbers(kind, size):
    weight = normal(8, 64)
    assert off(kind.of(weight * size)() / size, weight) == pytest.approx(off(kind.of(weight)(), weight), rel=0.1)


@KIND
@pytest.mark.parametrize("shape", [(7, 33), (3, 64), (5, 31), (4, 3, 4, 4), (2, 1), (1, 100)])
def test_shapes_and_layouts(kind, shape):
    weight = normal(*shape)
    made = kind.of(weight)
    assert made().shape == shape
    assert {name: (part.dtype, tuple(part.shape)) for name, part in made.parts.items()} == kind.layout(shape)
    assert off(made(), weight) < 0.13


@KIND
def test_rows_that_are_asked_for_are_those_of_the_weight(kind):
    made = kind.of(normal(20, 48))
    index = torch.tensor([[3, 3, 19], [0, 7, 12]])
    assert torch.equal(made.rows(index), made()[index])
    assert made.rows(torch.tensor(4)).shape == (48,)


@KIND
def test_a_row_does_not_depend_on_the_others(kind, monkeypatch):
    """So that memory stays small, a block of rows at a time is stored."""
    weight = normal(10, 64, heavy=True)
    whole = kind.of(weight)()
    monkeypatch.setattr(stored, "_AT_ONCE", 64 * 3)
    assert torch.equal(kind.of(weight)(), whole)
    assert torch.equal(kind.of(weight[4:5])(), whole[4:5])


def test_a_promise_is_its_weight_once_it_is_needed(monkeypatch):
    made = Int8.of(normal(4, 6))
    weight, promise, x = made(), Promise(made), normal(3, 6, seed=1)
    assert torch.equal(torch.nn.functional.linear(x, promise), torch.nn.functional.linear(x, weight))
    assert torch.equal(x @ promise.T, x @ weight.T)
    assert torch.equal(torch.cat([promise, weight]), torch.cat([weight, weight]))
    for ours, theirs in ((promise[1:], weight[1:]), (promise * 2, weight * 2), (x[0] * promise, x[0] * weight), (promise + 1, weight + 1)):
        assert torch.equal(ours, theirs)
    monkeypatch.setattr(made, "forward", None)
    assert (promise.shape, promise.dtype, promise.device.type, len(promise)) == ((4, 6), torch.float32, "cpu", 4)


@KIND
def test_another_type_is_that_of_the_answer_alone(kind):
    made = kind.of(normal(4, 64))
    before = {name: part.clone() for name, part in made.parts.items()}
    answer = made()
    made.to(torch.bfloat16)
    assert torch.equal(made(), answer.to(torch.bfloat16))
    assert made.rows(torch.tensor([1])).dtype == torch.bfloat16
    assert all(torch.equal(part, before[name]) and part.dtype == before[name].dtype for name, part in made.parts.items())
    assert kind.of(normal(4, 64).to(torch.bfloat16))().dtype == torch.bfloat16


@KIND
def test_a_product_makes_a_block_of_rows_whole_at_a_time(kind, monkeypatch):
    """And is that with the whole weight. Three blocks here, the last of them short."""
    monkeypatch.setattr(stored, "_WHOLE", 4 * 64)
    made, bias, x = kind.of(normal(10, 64, heavy=True)), normal(10, seed=1), normal(2, 3, 64, seed=2)
    whole = []
    monkeypatch.setattr(kind, "_rows", lambda self, parts, rows=kind._rows: whole.append(len(parts["codes"])) or rows(self, parts))
    assert torch.allclose(torch.nn.functional.linear(x, Promise(made), bias), x @ made().T + bias, rtol=1e-5, atol=1e-5)
    assert torch.allclose(torch.nn.functional.linear(x, weight=Promise(made)), x @ made().T, rtol=1e-5, atol=1e-5)
    assert whole == [4, 4, 2, 10, 4, 4, 2, 10]
