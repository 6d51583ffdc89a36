"""A head and a tail are the whole encoder to the bit, and each holds its own tensors alone."""

import pytest
import torch
from tests.unit.models.tiny import CUTS, FAMILIES, encoder, inputs
from torch import nn

from m2fedsa.errors import CutError
from m2fedsa.models.adapter import Adapter
from m2fedsa.models.cut import Head, Plan, Tail, cut, pack, plan, specify, unpack, verify, whole


@pytest.mark.parametrize(("name", "k"), CUTS)
def test_split_equals_whole_to_the_bit(name: str, k: int) -> None:
    model, example = encoder(name), inputs(name)
    head, tail = cut(model, plan(model, example, k))
    other = inputs(name, seed=1)
    with torch.no_grad():
        expected = model(**other)
        found = tail.run(unpack(*pack(head(other))), other.get("attention_mask"), specify(other))
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert found.last_hidden_state.isfinite().all()
    verify(model, head, tail, example)


@pytest.mark.parametrize(("name", "k"), CUTS)
def test_each_side_holds_its_tensors_alone_and_shares_their_memory(name: str, k: int) -> None:
    model, family = encoder(name), FAMILIES[name]
    early = [*family.early, *(f"{block}." for block in family.blocks[:k]), *(prefix for prefix, block in family.between if block <= k)]
    # at k = n nothing after the last block belongs to the head, and in Swin nothing stands between it and the end
    state = model.state_dict()
    of_head = {tensor for tensor in state if tensor.startswith(tuple(early))}
    made = plan(model, inputs(name), k)
    assert (set(made.head), set(made.tail), made.both) == (of_head, set(state) - of_head, ())
    for side, owned in zip(cut(model, made), (of_head, set(state) - of_head), strict=True):
        for tensor, value in side.encoder.state_dict().items():
            assert value.is_meta == (tensor not in owned), tensor
            assert value.is_meta or value.data_ptr() == state[tensor].data_ptr(), tensor


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_encoder_was_given_does_not_reach_the_tail(name: str) -> None:
    model, example = encoder(name), inputs(name)
    head, tail = cut(model, plan(model, example, 1))
    hidden, mask = head(example), example.get("attention_mask")
    with torch.no_grad():
        assert torch.equal(tail(hidden, mask, specify(example)), tail(hidden, mask, specify(inputs(name, seed=9))))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_every_shape_of_batch_is_exact_in_any_order(name: str) -> None:
    model, example = encoder(name), inputs(name)
    head, tail = cut(model, plan(model, example, 2))
    for rows, tokens in ((1, 17), (3, 17), (2, 17), (3, 9), (3, 17), (1, 3)):
        batch = {key: value[:rows, :tokens] if name == "bert" else value[:rows] for key, value in example.items()}
        with torch.no_grad():
            split = tail(head(batch), batch.get("attention_mask"), specify(batch))
            assert torch.equal(split, whole(model, batch))


def test_padding_is_left_out_of_attention_and_of_the_mean() -> None:
    model, example = encoder("bert"), inputs("bert")
    head, tail = cut(model, plan(model, example, 1))
    hidden, mask = head(example), example["attention_mask"]
    noisy = torch.where(mask.bool().unsqueeze(-1), hidden, torch.randn_like(hidden))
    with torch.no_grad():
        assert torch.equal(tail(hidden, mask, specify(example)), tail(noisy, mask, specify(example)))


@pytest.mark.parametrize("name", FAMILIES)
def test_plan_survives_json(name: str) -> None:
    made = plan(encoder(name), inputs(name), 1)
    again = Plan.from_json(made.to_json())
    assert again == made
    assert hash(again) == hash(made)
    head, tail = cut(encoder(name), again)
    verify(encoder(name), head, tail, inputs(name))


def test_widths_are_those_of_the_configuration() -> None:
    model = encoder("swin")
    head, tail = cut(model, plan(model, inputs("swin"), 2))
    # the merge after the first stage doubles 16 channels; the last stage has 64
    assert (head.width, head.axis, head.mask_argument) == (32, -1, None)
    assert (tail.width_in, tail.width_out, tail.axis, tail.width, tail.pooling) == (64, 64, -1, 64, "pooler")
    text = encoder("bert")
    head, tail = cut(text, plan(text, inputs("bert"), 2))
    assert (head.width, head.mask_argument, tail.width, tail.pooling, tail.takes_adapter) == (64, "attention_mask", 64, "mean", True)


def test_task_adapter_at_zero_changes_nothing() -> None:
    for name in FAMILIES:
        model, example = encoder(name), inputs(name)
        head, tail = cut(model, plan(model, example, 1))
        hidden, mask = head(example), example.get("attention_mask")
        adapter = Adapter(tail.width_in, tail.width_out, 8, axis=tail.axis)
        with torch.no_grad():
            assert torch.equal(tail(hidden, mask, specify(example), adapter), whole(model, example))
            assert torch.equal(hidden + Adapter(head.width, head.width, 8, axis=head.axis)(hidden), hidden)


def test_nothing_of_an_adapter_stays_in_the_tail() -> None:
    model, example = encoder("vit"), inputs("vit")
    head, tail = cut(model, plan(model, example, 1))
    hidden, specs = head(example), specify(example)

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    with torch.no_grad():
        before = tail(hidden, None, specs)
        adapter = Adapter(tail.width_in, tail.width_out, 8)
        nn.init.ones_(adapter.up.bias)
        assert not torch.equal(tail(hidden, None, specs, adapter), before)
        assert torch.equal(tail(hidden, None, specs), before)
        with pytest.raises(RuntimeError, match="broken"):
            tail(hidden, None, specs, Broken())
        assert torch.equal(tail(hidden, None, specs), before)


def test_frozen_parts_stay_in_evaluation_mode_and_without_gradients() -> None:
    model = encoder("bert")
    for side in cut(model, plan(model, inputs("bert"), 1)):
        side.train()
        assert not any(module.training for module in side.modules())
        assert not any(parameter.requires_grad for parameter in side.parameters())
        assert side.to("cpu") is side


def test_a_tail_that_evaluated_in_inference_mode_can_train() -> None:
    model, example = encoder("vit"), inputs("vit")
    head, tail = cut(model, plan(model, example, 1))
    with torch.inference_mode():
        tail(head(example), None, specify(example))
    hidden = head(example).requires_grad_()
    tail(hidden, None, specify(example)).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_the_model_that_was_cut_is_left_as_it_was() -> None:
    model, example = encoder("roberta"), inputs("roberta")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(**example).last_hidden_state
        head, tail = cut(model, plan(model, example, 2))
        tail(head(example), example["attention_mask"], specify(example))
        assert torch.equal(model(**example).last_hidden_state, expected)
    assert all(torch.equal(value, before[name]) and not value.is_meta for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_block_outside_the_model_is_named_with_its_range() -> None:
    for block in (14, 5, -1):
        with pytest.raises(CutError, match=rf"^block = {block}, but ViTModel has 4 blocks \(0 … 4\)\. Try 1"):
            plan(encoder("vit"), inputs("vit"), block)


def test_an_adapter_has_no_place_after_the_last_block() -> None:
    model, example = encoder("vit"), inputs("vit")
    head, tail = cut(model, plan(model, example, 4))
    assert not tail.takes_adapter
    with pytest.raises(CutError, match=r"^block = 4 leaves ViTModel no block .*\. Cut at 0 … 3, or set task_adapter = false"):
        tail(head(example), None, specify(example), Adapter(64, 64, 8))
    with pytest.raises(CutError, match="no block for a task adapter"):
        _ = tail.width_in


def test_a_mask_that_did_not_travel_is_missed() -> None:
    model, example = encoder("bert"), inputs("bert")
    head, tail = cut(model, plan(model, example, 1))
    with pytest.raises(CutError, match="Pass them as its mask"):
        tail(head(example), None, specify(example))


def test_a_plan_of_another_model_is_refused() -> None:
    made = plan(encoder("vit"), inputs("vit"), 4)
    with pytest.raises(CutError, match="the plan is that of another model: BertModel has no tensor"):
        Head(encoder("bert"), made)
    for text in ("", "{}", "[]", '{"model_type": "vit"}', made.to_json().replace("float32", "float33")):
        with pytest.raises(CutError, match="not the plan of a cut"):
            Plan.from_json(text)


def test_pooling_that_the_encoder_lacks_is_refused() -> None:
    model, example = encoder("bert"), inputs("bert")
    made = plan(model, example, 1)
    for pooling in ("pooler", "mean", "cls", "last"):
        head, tail = cut(model, made, pooling)
        verify(model, head, tail, example, pooling)
    with pytest.raises(CutError, match="pooling = 'max', but it is one of"):
        Tail(model, made, "max")  # type: ignore[arg-type]
