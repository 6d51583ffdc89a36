"""Fusion over the modalities of one sample."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from m2fedsa.errors import ConfigError, ProtocolError
from m2fedsa.models.fusion import Fusion, FusionOutput

WIDTHS = {"image": 5, "left_camera2": 4, "text": 3}
ALL = [[True, True, True]]


def network(seed: int = 0, **settings_of_it: object) -> Fusion:
    """A small fusion of which no tensor is zero."""
    fusion = Fusion(WIDTHS, 8, **{"blocks": 2, "heads": 2, "feed_forward": 6} | settings_of_it)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + parameter.numel())) * 0.3)
    return fusion


def batch(entering: list[list[bool]], seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Features of those modalities that enter; each row's depend on its place alone."""
    rows = {name: torch.tensor([i for i, row in enumerate(entering) if row[m]], dtype=torch.int64) for m, name in enumerate(WIDTHS)}
    features = {
        name: torch.randn(len(entering), width, generator=torch.Generator().manual_seed(seed + width)) for name, width in WIDTHS.items()
    }
    pooled = {name: features[name][rows[name]] for name in WIDTHS if len(rows[name])}
    return pooled, {name: rows[name] for name in pooled}, torch.tensor(entering)


def by_hand(fusion: Fusion, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """f and f_att of one sample, from the tokens that it has and PyTorch's own modules, in training mode so that no fast path is taken."""
    names = fusion.named_tensors()
    tokens = [names[f"{m}.token.weight"] @ z + names[f"{m}.token.bias"] for m, z in pooled.items()]
    x = torch.stack(tokens)
    for block in fusion.blocks:
        normed = block.norm1(x)
        x = x + block.attention.train()(normed, normed, normed)[0]
        x = x + block.linear2(nn.functional.gelu(block.linear1(block.norm2(x))))
    attention = x.mean(0)
    if len(tokens) < 2:
        return attention, attention
    factors = [names[f"{m}.bilinear.weight"] @ z for m, z in pooled.items()]
    products = sum(a * b for a, b in itertools.combinations(factors, 2))
    normed = (products - products.mean()) / (products.var(correction=0) + 1e-5).sqrt()
    return attention + normed * names["fusion.bilinear_norm.weight"] + names["fusion.bilinear_norm.bias"], attention


PATTERNS = [list(pattern) for pattern in itertools.product([True, False], repeat=3) if any(pattern)]


def test_every_subset_of_modalities_is_what_the_equations_say() -> None:
    fusion = network()
    pooled, rows, entering = batch(PATTERNS)
    output = fusion(pooled, rows, entering)
    for row in range(len(PATTERNS)):
        own = {name: pooled[name][rows[name].tolist().index(row)] for name in pooled if row in rows[name]}
        fused, attention = by_hand(fusion, own)
        assert torch.allclose(output.fused[row], fused, atol=2e-5)
        assert torch.allclose(output.attention[row], attention, atol=1e-5)
    for name, tokens in output.tokens.items():
        layer = fusion.token[name]
        assert torch.allclose(tokens, pooled[name] @ layer.weight.T + layer.bias, atol=1e-6)


def test_bilinear_part_by_hand() -> None:
    fusion = Fusion({"a": 1, "b": 1, "c": 1}, 2, heads=1, feed_forward=0)
    names = fusion.named_tensors()
    with torch.no_grad():
        for name, column in (("a", [1.0, 0.0]), ("b", [2.0, 1.0]), ("c", [0.0, 3.0])):
            names[f"{name}.bilinear.weight"].copy_(torch.tensor(column).unsqueeze(1))
    # z = 1, 2, 1: b_a = (1, 0), b_b = (4, 2), b_c = (0, 3); products ab = (4, 0), ac = (0, 0), bc = (0, 6), their sum (4, 6)
    pooled = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[2.0]]), "c": torch.tensor([[1.0]])}
    output = fusion(pooled, {name: torch.tensor([0]) for name in pooled}, torch.tensor(ALL))
    # normalised: mean 5, variance 1
    assert torch.allclose(output.fused - output.attention, torch.tensor([[-1.0, 1.0]]), atol=1e-4)


def test_one_token_passes_through_attention_to_itself() -> None:
    fusion = network(blocks=1, feed_forward=0)
    pooled, rows, entering = batch([[False, True, False]] * 2)
    output = fusion(pooled, rows, entering)
    assert output.fused is output.attention
    token, attention = output.tokens["left_camera2"], fusion.blocks[0].attention
    value = fusion.blocks[0].norm1(token) @ attention.in_proj_weight[16:].T + attention.in_proj_bias[16:]
    assert torch.allclose(output.fused, token + value @ attention.out_proj.weight.T + attention.out_proj.bias, atol=1e-6)


def gradients(fusion: Fusion, output: FusionOutput) -> set[str]:
    fusion.zero_grad()
    output.fused.square().sum().backward()
    return {name for name, parameter in fusion.named_tensors().items() if parameter.grad is not None}


def test_tensors_of_absent_modalities_have_no_gradient() -> None:
    fusion = network()
    shared = {name for name in fusion.named_tensors() if name.startswith("fusion.blocks.")}
    norm = {"fusion.bilinear_norm.weight", "fusion.bilinear_norm.bias"}

    def of(*modalities: str, bilinear: bool) -> set[str]:
        parts = ("token.weight", "token.bias", "bilinear.weight") if bilinear else ("token.weight", "token.bias")
        return {f"{name}.{part}" for name in modalities for part in parts}

    pairs = fusion(*batch([[True, False, True], [True, False, True]]))
    assert gradients(fusion, pairs) == shared | norm | of("image", "text", bilinear=True)
    alone = fusion(*batch([[True, False, False], [False, False, True]]))
    assert gradients(fusion, alone) == shared | of("image", "text", bilinear=False)
    mixed = fusion(*batch([[True, True, False], [False, False, True]]))
    expected = shared | norm | of("image", "left_camera2", bilinear=True) | of("text", bilinear=False)
    assert gradients(fusion, mixed) == expected


def test_a_modality_that_does_not_enter_has_no_influence_and_no_gradient() -> None:
    fusion = network()
    pooled, rows, _ = batch([[True, True, True]] * 3)
    entering = torch.tensor([[True, True, False]] * 3)
    for z in pooled.values():
        z.requires_grad_()
    output = fusion(pooled, rows, entering)
    trained = gradients(fusion, output)
    assert not any(name.startswith("text.") for name in trained)
    assert pooled["text"].grad is None
    without = {name: z for name, z in pooled.items() if name != "text"}
    assert torch.equal(fusion(without, rows, entering).fused, output.fused)
    assert output.tokens["text"].shape == (3, 8)


def test_a_row_that_does_not_enter_gives_no_gradient_to_its_features() -> None:
    fusion = network()
    pooled, rows, entering = batch([[True, True, True]] * 3)
    entering[1, 0] = False
    for z in pooled.values():
        z.requires_grad_()
    output = fusion(pooled, rows, entering)
    gradients(fusion, output)
    assert torch.equal(pooled["image"].grad[1], torch.zeros(5))
    assert pooled["image"].grad[0].abs().min() > 0
    changed = {**pooled, "image": pooled["image"].detach().clone().index_fill_(0, torch.tensor([1]), 99.0)}
    assert torch.equal(fusion(changed, rows, entering).fused, output.fused)


def test_rows_where_nothing_enters_are_zero_and_harmless() -> None:
    fusion = network()
    pooled, rows, entering = batch([[True, True, True]] * 3)
    expected = fusion(pooled, rows, entering).fused
    entering[1] = False
    output = fusion(pooled, rows, entering)
    assert torch.equal(output.fused[1], torch.zeros(8))
    assert torch.allclose(output.fused[[0, 2]], expected[[0, 2]], atol=1e-6)
    output.fused.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())
    nothing = fusion(pooled, rows, torch.zeros(3, 3, dtype=torch.bool))
    assert torch.equal(nothing.fused, torch.zeros(3, 8))


def test_order_of_rows_within_a_modality_does_not_matter() -> None:
    fusion = network()
    pooled, rows, entering = batch(PATTERNS)
    shuffled = {name: torch.randperm(len(z), generator=torch.Generator().manual_seed(3)) for name, z in pooled.items()}
    again = fusion({n: z[shuffled[n]] for n, z in pooled.items()}, {n: r[shuffled[n]] for n, r in rows.items()}, entering)
    assert torch.allclose(again.fused, fusion(pooled, rows, entering).fused, atol=1e-6)
    backwards = dict(reversed(pooled.items()))
    assert torch.equal(fusion(backwards, rows, entering).fused, fusion(pooled, rows, entering).fused)


rows_of_batch = st.lists(st.sampled_from(PATTERNS), min_size=2, max_size=7)


@settings(max_examples=40, deadline=None)
@given(entering=rows_of_batch, seed=st.integers(0, 3))
def test_neighbours_influence_a_row_by_rounding_alone(entering: list[list[bool]], seed: int) -> None:
    fusion = network()
    pooled, rows, mask = batch(entering, seed)
    output = fusion(pooled, rows, mask)
    for row, pattern in enumerate(entering):
        own = {name: pooled[name][rows[name] == row] for name in pooled if row in rows[name]}
        alone = fusion(own, {name: torch.tensor([0]) for name in own}, torch.tensor([pattern]))
        assert torch.allclose(output.fused[row], alone.fused[0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(entering=rows_of_batch, seed=st.integers(0, 3))
def test_what_neighbours_contain_does_not_change_a_bit(entering: list[list[bool]], seed: int) -> None:
    fusion = network()
    pooled, rows, mask = batch(entering, seed)
    expected = fusion(pooled, rows, mask).fused[0]
    others = batch(entering, seed + 100)[0]
    for name in pooled:
        others[name][rows[name] == 0] = pooled[name][rows[name] == 0]
    assert torch.equal(fusion(others, rows, mask).fused[0], expected)


def test_training_evaluation_and_inference_compute_the_same_bits() -> None:
    fusion = network()
    made = batch(PATTERNS)
    expected = fusion.train()(*made).fused
    assert torch.equal(fusion.eval()(*made).fused, expected)
    with torch.no_grad():
        assert torch.equal(fusion(*made).fused, expected)
    with torch.inference_mode():
        assert torch.equal(fusion(*made).fused, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    fusion = network(blocks=1).double()
    pooled, rows, entering = batch(PATTERNS)
    names = list(pooled)
    z = [pooled[name].double().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *values: fusion(dict(zip(names, values, strict=True)), rows, entering).fused, z)


def test_names_are_flat_and_complete() -> None:
    fusion = network(blocks=1)
    names = fusion.named_tensors()
    assert {id(parameter) for parameter in names.values()} == {id(parameter) for parameter in fusion.parameters()}
    assert names["image.token.weight"].shape == (8, 5)
    assert names["left_camera2.bilinear.weight"].shape == (8, 4)
    assert names["fusion.blocks.0.attention.in_proj_weight"].shape == (24, 8)
    per_modality = {f"{m}.{part}" for m in WIDTHS for part in ("token.weight", "token.bias", "bilinear.weight")}
    block = {
        f"fusion.blocks.0.{part}.{t}" for part in ("norm1", "norm2", "linear1", "linear2", "attention.out_proj") for t in ("weight", "bias")
    }
    attention = {"fusion.blocks.0.attention.in_proj_weight", "fusion.blocks.0.attention.in_proj_bias"}
    assert set(names) == per_modality | block | attention | {"fusion.bilinear_norm.weight", "fusion.bilinear_norm.bias"}
    plain = Fusion(WIDTHS, 8, feed_forward=0, bilinear=False).named_tensors()
    assert not [name for name in plain if "bilinear" in name or "linear1" in name or "norm2" in name]


def test_start_depends_on_seed_and_name_alone() -> None:
    before = torch.get_rng_state()
    both, one = Fusion({"image": 5, "text": 3}, 8), Fusion({"image": 5}, 8)
    both.initialise(7)
    one.initialise(7)
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in one.named_tensors().items():
        assert torch.equal(parameter, both.named_tensors()[name]), name
    one.initialise(8)
    assert not torch.equal(one.named_tensors()["image.token.weight"], both.named_tensors()["image.token.weight"])


def test_tokens_start_at_unit_scale() -> None:
    fusion = Fusion({"image": 192}, 256)
    z = torch.randn(64, 192, generator=torch.Generator().manual_seed(0))
    tokens = fusion({"image": z}, {"image": torch.arange(64)}, torch.ones(64, 1, dtype=torch.bool)).tokens["image"]
    assert 0.9 < tokens.std().item() < 1.1


def test_messages_that_do_not_fit_are_refused() -> None:
    fusion = network()
    pooled, rows, entering = batch([[True, False, True]])
    with pytest.raises(ProtocolError, match=r"features of \['smell'\], but it knows \['image', 'left_camera2', 'text'\]"):
        fusion({"smell": pooled["image"]}, rows, entering)
    with pytest.raises(ProtocolError, match="row 0 enters fusion with 'text', but no features of it were given"):
        fusion({"image": pooled["image"]}, rows, entering)
    with pytest.raises(ProtocolError, match=r"bool of \(rows, 3\), but \(1, 2\) of torch.bool was given"):
        fusion(pooled, rows, entering[:, :2])


@pytest.mark.parametrize("name", ["a.b", "fusion", "items", "type"])
def test_names_that_would_hide_others_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"a modality cannot be called '{name}'"):
        Fusion({name: 3}, 8)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="width 10 and 4 heads"):
        Fusion({"image": 3}, 10)
    with pytest.raises(ConfigError, match="no modality"):
        Fusion({}, 8)
