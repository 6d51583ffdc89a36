"""Encoders by shape: the published sizes, drawn from their name alone."""

import pytest
import torch
import transformers

from m2fedsa.errors import WeightsError
from m2fedsa.models import shapes
from m2fedsa.models.encoders import load

PUBLISHED = {
    # Swin (Liu et al. 2021, table 7): 28.3 million with the classifier of 768 x 1000 + 1000
    "swin-tiny": 28_288_354 - 769_000,
    # RoBERTa-base: 124,645,632 with the pooler of 768 x 768 + 768
    "roberta-base": 124_645_632 - 590_592,
}


def counted(name):
    """Parameters of a shape, none of which is drawn or held."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in shapes.SHAPES[name]().parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    assert counted(name) == PUBLISHED[name]


def test_the_audio_encoder_is_a_base_transformer_over_146_tokens():
    """12 layers of 768; (128 - 16) / 10 + 1 = 12 patches a side, and two tokens more."""
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    embeddings = 16 * 16 * 768 + 768 + (12 * 12 + 2) * 768 + 2 * 768
    assert counted("ast-base") == 12 * block + embeddings + 2 * 768


def test_weights_come_from_the_name_and_from_nothing_else(monkeypatch):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    small = dict.fromkeys(("one", "other"), lambda: transformers.BertModel(transformers.BertConfig(**sizes)))
    monkeypatch.setattr(shapes, "SHAPES", small)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = load("random:one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    weights = [
        dict(model.named_parameters())["encoder.layer.0.output.dense.weight"] for model in (one, load("random:one"), load("random:other"))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_a_shape_that_is_not_known():
    with pytest.raises(WeightsError, match=r"^random:swin is not known; there are random:swin-tiny, random:roberta-base, random:ast-base$"):
        load("random:swin")
