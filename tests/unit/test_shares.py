"""What a client holds of an encoder of RoBERTa-base's shape, without a byte of its weights: the figures of the table that was measured
with real ones, and the shares of int8 and int4."""

import pytest
import torch
import transformers

from m2fedsa.models.cut import cut, plan
from m2fedsa.models.quantise import stored_bytes
from m2fedsa.models.skeleton import hollow, kind_of, skeleton

MB = 1e6
HEADS = {0: 156, 1: 184, 2: 213, 6: 326}
TAILS = {2: 286, 6: 173}
"""megabytes in float32 by block"""


@pytest.fixture(scope="module")
def roberta():
    config = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    # With its pooler, as the checkpoint has it.
    return hollow(skeleton(config, "transformers.models.roberta.modeling_roberta.RobertaModel"))


@pytest.fixture(scope="module")
def sides(roberta):
    ids = torch.full((1, 4), 7)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {block: cut(roberta, plan(roberta, example, block), "mean") for block in HEADS}


def test_megabytes_of_each_side(roberta, sides):
    whole = sum(parameter.nbytes for parameter in roberta.parameters())
    assert whole / MB == pytest.approx(498.6, abs=0.05)
    assert kind_of(roberta).endswith("RobertaModel")
    for block, expected in HEADS.items():
        assert stored_bytes(sides[block][0].encoder) / MB == pytest.approx(expected, abs=0.6), block
    for block, expected in TAILS.items():
        assert stored_bytes(sides[block][1].encoder) / MB == pytest.approx(expected, abs=0.6), block


@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.10), ("int4", 0.05)])
def test_a_client_stores_a_tenth_and_a_twentieth(roberta, sides, dtype, most):
    whole = sum(parameter.nbytes for parameter in roberta.parameters())
    assert stored_bytes(sides[1][0].encoder, dtype) / whole <= most
