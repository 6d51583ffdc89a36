"""What cannot be cut is refused in words that help; `keep` and `blocks` make families work of which nothing is known."""

import pytest
import torch
import transformers
from tests.unit.models.zoo import IDS, WIDTHS, Inputs, Specimen, images, make, text, waves
from tests.unit.models.zoo_sight import PATCHES
from tests.unit.models.zoo_text import BART, DISTANCES, T5, boxes
from torch import nn

from m2fedsa.errors import CutError
from m2fedsa.models.architectures import ARCHITECTURES
from m2fedsa.models.cut import cut, plan, verify

FUNNEL = {"vocab_size": 100, "block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
XLM = {"vocab_size": 100, "n_words": 100, "emb_dim": 32, "n_layers": 4, "n_heads": 4, "pad_index": 1}
LAYOUT = {"max_2d_position_embeddings": 64, "coordinate_size": 6, "shape_size": 4, "visual_embed": False}
YOLOS = {**PATCHES, "image_size": [32, 32], "num_detection_tokens": 3, "use_mid_position_embeddings": True}
LEAK = r"NaN: .* Name it in the setting `keep`; it is, or is in, one of "


def placed() -> Inputs:
    """Texts with the four corners of each token."""
    return {**text(), "bbox": torch.rand(3, 17, 8, generator=torch.Generator().manual_seed(0))}


def made(model: str, options: dict[str, object], inputs: Inputs, part: str = "") -> tuple[nn.Module, Inputs]:
    return make(Specimen(model, options, dict, (), None, part=part)), inputs


REFUSED = {
    "ALBERT has one block that runs again and again": (
        "Albert", {**IDS, **WIDTHS, "embedding_size": 16}, text,
        r"no list of blocks is known for AlbertModel\. .* lists: encoder\.albert_layer_groups \(1\), .* `blocks=\[",
    ),
    "XLM's blocks are spread over four lists": ("XLM", XLM, text, r"no list of blocks is known for XLMModel\. .* attentions \(4\), "),
    "Funnel's tokens grow fewer": (
        "FunnelBase", FUNNEL, text, "the mask given to FunnelBaseModel has 17 entries a sample, but it puts out 9",
    ),
    "T5 with its decoder": ("T5", T5, text, r"T5Model is an encoder with a decoder.*\. Give its encoder alone"),
    "BART with its decoder": ("Bart", BART, text, r"BartModel is an encoder with a decoder.*\. Give its encoder alone"),
    "SqueezeBERT calls its blocks past their hooks": (
        "SqueezeBert", {**IDS, **WIDTHS, "embedding_size": 32}, text, r"never reaches encoder\.layers\.1\. Name the blocks that run",
    ),
    "CANINE's characters pass the blocks by": ("Canine", {**IDS, **WIDTHS}, text, rf"CanineModel, cut after block 1, is not the .*{LEAK}"),
    "LiLT has two streams": (
        "Lilt", {**IDS, **WIDTHS, "hidden_size": 48, "max_2d_position_embeddings": 64}, boxes, rf"LiltModel, cut after block 1.*{LEAK}",
    ),
    "LayoutLMv3's places feed every block": (
        "LayoutLMv3", {**IDS, **WIDTHS, **LAYOUT, "has_spatial_attention_bias": True, "has_relative_attention_bias": True}, boxes,
        "LayoutLMv3Model, cut after block 1, is not the whole model",
    ),
    "BROS's places feed every block": ("Bros", {**IDS, **WIDTHS, "hidden_size": 64}, placed, rf"BrosModel, cut after block 1.*{LEAK}"),
    "YOLOS adds to the patches between its blocks": ("Yolos", YOLOS, images(), rf"YolosModel, cut after block 1.*{LEAK}"),
    "ViT-MAE draws its patches": ("ViTMAE", PATCHES, images(), "ViTMAEModel answers the same inputs differently each time"),
    "a backbone has maps of its stages alone": ("VitPoseBackbone", PATCHES, images(), "VitPoseBackbone puts out no last_hidden_state"),
    "Moonshine's mask is of another length": (
        "Moonshine",
        {
            "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 4, "decoder_num_hidden_layers": 1,
            "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "max_position_embeddings": 64,
        },
        waves, "the mask given to MoonshineEncoder has 2000 entries a sample, but it puts out 3 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused(name: str) -> None:
    kind, options, inputs, message = REFUSED[name]
    model, example = made(kind, options, inputs(), "encoder" if kind == "Moonshine" else "")
    with pytest.raises(CutError, match=message):
        verify(model, *cut(model, plan(model, example, 1)), example)


def test_a_convolution_beside_the_first_block_lets_it_be_cut_after_that() -> None:
    options = {**IDS, **WIDTHS, **DISTANCES, "type_vocab_size": 0, "position_buckets": 8, "conv_kernel_size": 3, "conv_act": "gelu"}
    model, example = made("DebertaV2", options, text())
    for k in (1, 2, 4):
        verify(model, *cut(model, plan(model, example, k)), example)
    with pytest.raises(CutError, match=rf"DebertaV2Model, cut after block 0.*{LEAK}"):
        verify(model, *cut(model, plan(model, example, 0)), example)


LEAKS = {
    "mpnet": ("MPNet", {**IDS, **WIDTHS}, ["encoder.relative_attention_bias"]),
    "roformer": ("RoFormer", {**IDS, **WIDTHS}, ["encoder.embed_positions"]),
    "t5": ("T5Encoder", T5, ["encoder.block.0.layer.0.SelfAttention.relative_attention_bias"]),
    "deberta-v2": ("DebertaV2", {**IDS, **WIDTHS, **DISTANCES, "norm_rel_ebd": "layer_norm"}, ["encoder.LayerNorm"]),
}


@pytest.mark.parametrize("family", LEAKS)
def test_keep_in_the_settings_mends_a_leak(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options, keep = LEAKS[family]
    model, example = made(kind, options, text())
    monkeypatch.delitem(ARCHITECTURES, family)
    with pytest.raises(CutError, match=rf"{kind}Model, cut after block 1, is not the whole model in its last_hidden_state \({LEAK}"):
        verify(model, *cut(model, plan(model, example, 1)), example)
    planned = plan(model, example, 1, keep=keep)
    verify(model, *cut(model, planned), example)
    # what is kept is on both sides, and little else is
    assert {name for name in model.state_dict() if name.startswith(keep[0])} <= set(planned.both)
    assert all(name.startswith(("encoder.rel_embeddings.", keep[0])) for name in planned.both)


def test_keep_of_what_is_not_there_names_what_is() -> None:
    model, example = made("MPNet", {**IDS, **WIDTHS}, text())
    with pytest.raises(CutError, match=r"`keep` names \['relative_attention_bias'\].*There are encoder\.relative_attention_bias\."):
        plan(model, example, 1, keep=["relative_attention_bias"])
    with pytest.raises(CutError, match=r"`keep` names \['nothing'\].*Its parts: embeddings, encoder, pooler"):
        plan(model, example, 1, keep=["nothing"])


def test_a_star_stands_for_the_blocks_of_a_list() -> None:
    model, example = made("Bert", {**IDS, **WIDTHS}, text())
    assert plan(model, example, 1, ["encoder.layer.*"]) == plan(model, example, 1)
    with pytest.raises(CutError, match=r"`blocks` names \['encoder.storey.\*'\], but BertModel has no such module"):
        plan(model, example, 1, ["encoder.storey.*"])


class Batched(nn.Module):
    """Puts every token in a row of its own before its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, pixel_values: torch.Tensor) -> transformers.modeling_outputs.BaseModelOutput:
        hidden = pixel_values.flatten(0, 1)
        for layer in self.layers:
            hidden = layer(hidden)
        return transformers.modeling_outputs.BaseModelOutput(hidden.reshape(pixel_values.shape))


def test_what_passes_between_blocks_must_count_samples_first() -> None:
    example = {"pixel_values": torch.randn(2, 3, 4)}
    model = Batched().eval()
    with pytest.raises(CutError, match=r"into `layers.1` of Batched has the shape \(3, 4\) for 1 sample, but its first dimension must"):
        cut(model, plan(model, example, 1))
