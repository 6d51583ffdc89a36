"""Heads in few bits: which weights are stored so, that the head computes with exactly those, and what they take."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import save
from tests.unit.models import zoo_sight, zoo_text
from tests.unit.models.tiny import encoder, inputs
from tests.unit.models.zoo import encoder as specimen_of
from tests.unit.models.zoo_decoders import DECODERS
from torch import nn

from m2fedsa.errors import WeightsError
from m2fedsa.models.cut import Head, cut, plan, specify
from m2fedsa.models.quantise import HEAD_DTYPES, in_float32, place, quantise, scheme, stored_bytes, stored_layout, tensors, weights
from m2fedsa.models.stored import Bfloat16, Int4, Int8, Stored

FEW = HEAD_DTYPES[1:]
ZOO = {**zoo_text.TEXT, **zoo_sight.SIGHT, **DECODERS}
FAMILIES = ["Bert", "T5Encoder", "GPT2", "Gemma3Text", "ViT", "Swin", "MobileNetV2", "ConvNext"]


def family(name):
    """A family's tiny encoder, three samples, and half of its blocks."""
    specimen = next(one for key, one in ZOO.items() if one.model == name)
    return specimen_of(specimen), specimen.inputs(), len(specimen.blocks) // 2


def test_which_weights_are_stored_in_few_bits():
    conv = nn.Conv2d(8, 4, 3)
    kinds = {
        "float32": [None] * 5,
        "bfloat16": [Bfloat16] * 3 + [None] * 2,
        "int8": [Int8] * 3 + [None] * 2,
        "int4": [Int4, Int4, Int8, None, None],
    }
    for dtype, expected in kinds.items():
        modules = (nn.Linear(64, 4), nn.Embedding(9, 64), conv, nn.LayerNorm(64), nn.BatchNorm2d(4))
        assert [scheme(module, dtype) for module in modules] == expected, dtype
    assert scheme(nn.Linear(31, 4), "int4") is Int8, "a row that fills no group"


@pytest.mark.parametrize("dtype", FEW)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_that_of_the_model_with_these_weights(name, dtype):
    """Against the whole model, into whose own tensors the weights were written back."""
    model, example, block = family(name)
    planned = plan(model, example, block)
    head, tail = cut(model, planned)
    mask = example.get(head.mask_argument)
    exact = head(example)
    quantise(head.encoder, dtype)
    changed = copy.deepcopy(model)
    for path, module in head.encoder.named_modules():
        if isinstance(getattr(module, "stored", None), Stored):
            with torch.no_grad():
                changed.get_submodule(path).weight.copy_(module.stored())
    assert not torch.equal(head(example), exact)
    assert torch.equal(head(example), Head(changed, planned)(example))
    assert tail(head(example), mask, specify(example)).isfinite().all()
    assert torch.equal(Head(model, planned)(example), exact), "the model that was cut is as it was"


@pytest.mark.parametrize("dtype", HEAD_DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_bytes_are_known_before_they_are_stored(name, dtype):
    """Against a safetensors file of the library itself: its length less eight bytes and the header."""
    model, example, block = family(name)
    head = Head(model, plan(model, example, block))
    numbers, expected = weights(head)[0], stored_layout(head.encoder, dtype)
    foreseen = stored_bytes(head, dtype)
    quantise(head.encoder, dtype)
    found = tensors(head.encoder)
    assert {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in found.items()} == expected
    content = save({key: tensor.contiguous() for key, tensor in found.items()})
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == foreseen == stored_bytes(head)
    assert weights(head)[0] == numbers


def test_weights_count_numbers_not_codes():
    model, example = encoder("bert"), inputs("bert")
    head = Head(model, plan(model, example, 1))
    owned = [p for name, p in model.named_parameters() if name.startswith(("embeddings.", "encoder.layer.0."))]
    numbers = sum(p.numel() for p in owned)
    assert weights(head) == (numbers, 4 * numbers)
    quantise(head.encoder, "int8")
    matrices = [p for p in owned if p.dim() == 2]
    few = sum(p.numel() for p in matrices)
    assert weights(head) == (numbers, few + 4 * sum(len(p) for p in matrices) + 4 * (numbers - few))


def test_an_embedding_is_never_made_whole(monkeypatch):
    """Its rows are looked up as they are; fifty thousand of them would be most of the head."""
    model, example, block = family("Gemma3Text")
    head = Head(model, plan(model, example, block))
    quantise(head.encoder, "int4")
    table = head.encoder.get_submodule("embed_tokens")
    assert type(table).__name__ == type(model.get_submodule("embed_tokens")).__name__
    before = head(example)
    monkeypatch.setattr(table.stored, "forward", lambda: pytest.fail("made whole"))
    assert torch.equal(head(example), before)
    with pytest.raises(BaseException, match="made whole"):
        _ = table.weight.sum()


def test_nothing_whole_is_kept():
    """After a call the head holds what it held before."""
    model, example = encoder("vit"), inputs("vit")
    head = Head(model, plan(model, example, 2))
    quantise(head.encoder, "int8")
    real = [id(tensor) for tensor in (*head.parameters(), *head.buffers()) if not tensor.is_meta]
    head(example)
    assert [id(tensor) for tensor in (*head.parameters(), *head.buffers()) if not tensor.is_meta] == real
    assert not any(parameter.dim() == 2 for parameter in head.parameters() if not parameter.is_meta)


def test_a_head_in_half_precision_answers_in_it():
    model, example = encoder("bert"), inputs("bert")
    head = Head(model, plan(model, example, 1))
    quantise(head.encoder, "int8")
    exact = head(example)
    head.to(torch.bfloat16)
    assert head(example).dtype == torch.bfloat16
    assert torch.allclose(head(example).float(), exact, atol=0.1)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(half):
    """Against the same weights, cast at once."""
    config = transformers.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = transformers.BertModel(config).eval().to(half).requires_grad_(False)
    cast = copy.deepcopy(model).float()
    ids = torch.arange(20).reshape(2, 10)
    weight = model.embeddings.word_embeddings.weight
    in_float32(model)
    assert torch.equal(model(input_ids=ids).last_hidden_state, cast(input_ids=ids).last_hidden_state)
    assert model.embeddings.word_embeddings.stored.parts["codes"].data_ptr() == weight.data_ptr(), "the weight lies where it lay"


def linear(**tensors):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 3))
    place(model, tensors)
    return model


def test_tensors_find_their_places():
    made = Int8.of(torch.randn(3, 64))
    model = linear(**{"0.bias": torch.ones(3), "0.weight.int8": made.parts["codes"], "0.weight.scale": made.parts["scale"]})
    assert torch.equal(model[0].weight.clone(), made())
    assert torch.equal(model(torch.zeros(64)), torch.ones(3))
    assert set(tensors(model)) == {"0.bias", "0.weight.int8", "0.weight.scale"}


def test_tensors_without_a_place_are_named():
    with pytest.raises(WeightsError, match=r"^1.bias has no place in Sequential"):
        linear(**{"1.bias": torch.ones(3)})
    with pytest.raises(WeightsError, match=r"^0.bias has the shape \(4,\), but Sequential needs \(3,\)"):
        linear(**{"0.bias": torch.ones(4)})
    with pytest.raises(WeightsError, match=r"^0.weight \(3, 64\) is not stored as any of bfloat16, int8, int4 .*found int8 \(3, 64\)\)"):
        linear(**{"0.weight.int8": torch.zeros(3, 64, dtype=torch.int8)})
    with pytest.raises(WeightsError, match=r"found int4 \(3, 33\)"):
        linear(**{"0.weight.int4": torch.zeros(3, 33, dtype=torch.uint8)})
