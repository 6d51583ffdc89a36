"""Encoders that cannot be cut are refused in words, and what leaks past a cut is caught."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.cut import cut, plan, specify, verify


class Toy(nn.Module):
    """Two blocks; `leak` says how the input reaches past them."""

    def __init__(self, leak: str = "", blocks: str = "layers", runs: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lists = blocks
        setattr(self, blocks, nn.ModuleList(nn.Linear(4, 4) for _ in range(2)))
        self.leak, self.runs = leak, runs

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        embedded = hidden = self.embed(input_ids)
        for block in list(getattr(self, self.lists))[: self.runs]:
            hidden = block(hidden)
        if self.leak == "float":
            hidden = hidden + embedded
        if self.leak == "integer":
            hidden = hidden * (1 + input_ids.unsqueeze(-1))
        if self.leak == "in place":
            embedded[:, 0] = 0
        return SimpleNamespace(last_hidden_state=hidden, pooler_output=None)


IDS = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_model_without_leaks_is_exact(k: int) -> None:
    model = Toy().eval()
    verify(model, *cut(model, plan(model, IDS, k)), IDS)


@pytest.mark.parametrize("k", [1, 2])
def test_a_float_that_leaks_becomes_nan_and_is_caught(k: int) -> None:
    model = Toy("float").eval()
    head, tail = cut(model, plan(model, IDS, k))
    with pytest.raises(CutError, match=rf"Toy, cut after block {k}, is not the whole model in its last_hidden_state \(NaN: .* `keep`"):
        verify(model, head, tail, IDS)


def test_an_integer_that_leaks_is_caught_by_the_comparison() -> None:
    model = Toy("integer").eval()
    head, tail = cut(model, plan(model, IDS, 1))
    with pytest.raises(CutError, match=r"they differ by up to \d"):
        verify(model, head, tail, IDS)


def test_a_model_may_write_into_what_it_is_not_given() -> None:
    model = Toy("in place").eval()
    head, tail = cut(model, plan(model, IDS, 1))
    for _ in range(3):
        verify(model, head, tail, IDS)
    # what was written into is not handed out again
    assert tail._blanks.blank((2, 3, 4), torch.float32).isnan().all()
    assert torch.equal(tail(head(IDS), None, specify(IDS)), model(**IDS).last_hidden_state.mean(1))


def test_unknown_lists_of_blocks_are_told_with_what_was_tried() -> None:
    model = Toy(blocks="storeys").eval()
    with pytest.raises(CutError, match=r"no list of blocks is known for Toy. Tried: .*encoder.layer.\*.*: storeys \(2\).*blocks=\["):
        plan(model, IDS, 1)
    blocks = ["storeys.0", "storeys.1"]
    verify(model, *cut(model, plan(model, IDS, 1, blocks)), IDS)
    with pytest.raises(CutError, match=r"`blocks` names \['storeys.2'\]"):
        plan(model, IDS, 1, [*blocks, "storeys.2"])
    with pytest.raises(CutError, match="`blocks` names nothing"):
        plan(model, IDS, 0, [])


def test_unknown_feed_forward_part_leaves_no_place_for_an_adapter() -> None:
    model = Toy().eval()
    head, tail = cut(model, plan(model, IDS, 1))
    with pytest.raises(CutError, match="no feed-forward part is known in the blocks of Toy"):
        tail(head(IDS), None, specify(IDS), nn.Linear(4, 4))


def test_a_cut_that_is_never_reached_is_named() -> None:
    with pytest.raises(CutError, match=r"the forward of Toy never reaches layers.1\. Name the blocks that run, .*blocks = \["):
        plan(Toy(runs=1).eval(), IDS, 1)
    model = Toy().eval()
    head, _ = cut(model, plan(model, IDS, 1))
    head.encoder.runs = 1
    with pytest.raises(CutError, match=r"ended without reaching `layers.1`"):
        head(IDS)


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(CutError, match=r"T5Model is an encoder with a decoder.*\. Give its encoder alone"):
        plan(transformers.T5Model(config).eval(), IDS, 0)


def test_tied_tensors_and_inputs_handed_through() -> None:
    # T5 ties its embedding; its block 1, elsewhere at k = 2, hands on the position bias that block 0 made
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=3, num_heads=2)
    model = transformers.T5EncoderModel(config).eval()
    for k in range(4):
        head, tail = cut(model, plan(model, IDS, k))
        verify(model, head, tail, IDS)
        assert not head.encoder.get_input_embeddings().weight.is_meta
        assert tail.encoder.get_input_embeddings().weight.is_meta
