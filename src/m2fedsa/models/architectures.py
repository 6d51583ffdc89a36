"""All that cutting must know about model families; the rest is traced from the model itself (`plan.py`).

A new family needs a line here only if its blocks lie where no glob looks, if a module that finishes early feeds every block, or if its
default pooling is not the mean. Until it has one, the settings `blocks`, `keep` and `pooling` say the same (docs/encoders.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.sites import Site

Pooling = Literal["pooler", "mean", "cls", "last"]

BLOCK_GLOBS = (
    "encoder.layers.*.blocks.*",  # Swin, SwinV2, PVTv2
    "encoder.stages.*.layers.*",  # ConvNeXt, ResNet, RegNet, Hiera, FocalNet, LeViT
    "encoder.stages.*.stage.*",  # TextNet
    "encoder.network.*.blocks.*",  # SwiftFormer
    "encoder.layer.*",  # BERT, RoBERTa, DeBERTa, MPNet, DINOv2, VideoMAE, TimeSformer
    "encoder.layers.*",  # CLIP, SigLIP, Wav2Vec2, HuBERT, WavLM
    "encoder.encoder.layer.*",  # SEW-D
    "encoder.block.*.*",  # PoolFormer, PVT
    "encoder.block.*",  # T5
    "encoder.blocks.*.*",
    "encoder.blocks.*",  # EfficientNet
    "transformer.layer.*",  # DistilBERT
    "layers.*",  # ViT, DeiT, BEiT, AST, ViViT, Whisper's encoder, ModernBERT, Qwen2, Llama
    "layer.*",  # MobileNet, XLNet
    "h.*",  # GPT-2, Bloom, Falcon
    "stages.*.layers.*",
    "stages.*.blocks.*",  # SegFormer
    "blocks.*",  # MPT, xLSTM, RWKV
    "model.layer.*",  # DINOv3
    "model.stages.*.layers.*",
    "decoder.layers.*",  # OPT
    "vision_model.encoder.layers.*",  # OWL-ViT, GIT
)
"""Where blocks live; the first glob with a match wins. A star stands for one number."""


@dataclass(frozen=True)
class Architecture:
    """What differs between families."""

    pooling: Pooling = "mean"
    """From tokens to one vector, where the user names nothing."""
    keep: tuple[str, ...] = ()
    """Modules that finish before the cut but feed every block: the tail holds them for real."""
    site: Site | None = None
    """The feed-forward part, where `SITES` would not find it."""
    mask: str = "attention_mask"
    """The argument whose values travel to the tail."""
    rows: int = 0
    """The dimension of what passes between blocks that counts samples."""
    channels: bool = False
    """What passes between blocks is (B, C, T, D), a row of tokens for each channel; pooled, the channels stand side by side."""
    positions: bool = False
    """Tokens know their place by counting from the first, padding or not, unless `position_ids` say otherwise."""


# Text pools by the mean: the poolers of published checkpoints were trained for another task, or not at all (RoBERTa has none).
_POOLER = Architecture("pooler")
_CLS = Architecture("cls")
_LAST = Architecture("last")
_COUNTED = Architecture("last", positions=True)
# The position bias is made by block 0 and handed on: the tail runs that block's attention again, on NaN, for the table within it.
_T5 = Architecture(
    keep=(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "encoder.block.0.layer.0.LocalSelfAttention.relative_attention_bias",
    )
)
_DECODERS = (
    "afmoe", "apertus", "arcee", "bitnet", "bloom", "codegen", "cohere", "cohere2", "cwm", "deepseek_v3", "diffllama",
    "doge", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt_neox", "gpt_oss",
    "gptj", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "jamba", "jetmoe", "lfm2", "llama", "mamba", "mamba2", "minimax",
    "ministral", "ministral3", "mistral", "mixtral", "modernbert-decoder", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "olmo3",
    "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "recurrent_gemma",
    "rwkv", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm", "xlstm",
)  # fmt: skip
_WITH_POOLER = (
    "altclip_vision_model", "audio-spectrogram-transformer", "bit", "blip_vision_model", "chinese_clip_vision_model",
    "clip_vision_model", "convnext", "convnextv2", "dinov3_convnext", "donut-swin", "efficientnet", "focalnet", "hiera", "levit",
    "metaclip_2_vision_model", "mlcd_vision_model", "mobilenet_v2", "mobilevit", "mobilevitv2", "owlvit_vision_model", "regnet",
    "resnet", "siglip_text_model", "siglip_vision_model", "swin", "swinv2", "textnet",
)  # fmt: skip
_WITH_CLS = (
    "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "git_vision_model", "internvl_vision", "sapiens2",
    "timesformer", "vit", "vit_msn", "vivit",
)  # fmt: skip
ARCHITECTURES = {
    **dict.fromkeys(_DECODERS, _LAST),
    **dict.fromkeys(_WITH_POOLER, _POOLER),
    **dict.fromkeys(_WITH_CLS, _CLS),
    **dict.fromkeys(("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "biogpt", "xglm"), _COUNTED),
    **dict.fromkeys(("t5", "mt5", "longt5", "switch_transformers"), _T5),
    # The pooler looks for the end of the text by its id, which the tail is not told.
    "clip_text_model": _LAST,
    "beit": Architecture("cls", keep=("shared_position_bias",)),
    "deberta": Architecture(keep=("encoder.LayerNorm",)),
    "deberta-v2": Architecture(keep=("encoder.LayerNorm",)),
    "sew-d": Architecture(keep=("encoder.encoder.LayerNorm",)),
    "mpnet": Architecture(keep=("encoder.relative_attention_bias",)),
    "roformer": Architecture(keep=("encoder.embed_positions",)),
    "wavlm": Architecture(keep=("encoder.layers.0.attention.rel_attn_embed",)),
    "xlnet": Architecture("last", rows=1),
    "patchtst": Architecture(channels=True),
    "mobilenet_v1": Architecture("pooler", site=Site("", "", 1)),
}


def architecture(model_type: str) -> Architecture:
    """What is known of a family; a family without an entry needs nothing beyond the defaults."""
    return ARCHITECTURES.get(model_type, Architecture())


def block_names(model: nn.Module, blocks: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the blocks of `model` in the order in which they run.

    `blocks` names them where no glob finds them; a name with stars, each for one number, stands for all modules that it fits. Raises
    `CutError` if one is not a module, or if none is known.
    """
    names = [name for name, _ in model.named_modules()]
    if blocks is not None:
        found = [([name for name in names if _matches(name, block)] if "*" in block else [block]) for block in blocks]
        missing = [block for block, its in zip(blocks, found, strict=True) if not its or its[0] not in names]
        if missing or not blocks:
            raise CutError(f"`blocks` names {missing or 'nothing'}, but {type(model).__name__} has no such module. {_lists(model)}")
        return tuple(name for its in found for name in its)
    for glob in BLOCK_GLOBS:
        matching = tuple(name for name in names if _matches(name, glob))
        if matching:
            return matching
    raise CutError(
        f"no list of blocks is known for {type(model).__name__}. Tried: {', '.join(BLOCK_GLOBS)}. {_lists(model)} "
        f"Name them in the order in which they run, a star for each number, e.g. `blocks=[{_likely(model)}]`."
    )


def kept_names(model: nn.Module, family: str, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules that the tail holds for real though they finish before the cut: those of the family, and `keep`.

    Raises `CutError` if one of `keep` is not a module of `model`.
    """
    names = {name for name, _ in model.named_modules()}
    missing = [name for name in keep if name not in names or not name]
    if missing:
        near = [name for name in names if name.rpartition(".")[2] in {one.rpartition(".")[2] for one in missing}]
        advice = f"There are {', '.join(sorted(near)[:4])}." if near else f"Its parts: {', '.join(n for n, _ in model.named_children())}."
        raise CutError(f"`keep` names {missing}, but {type(model).__name__} has no such module. {advice}")
    # A family's own may be missing from one of its models: without shared position biases there is no module of them.
    return tuple(dict.fromkeys([*(name for name in architecture(family).keep if name in names), *keep]))


def positioned(family: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The inputs with the places (B, T) of unpadded tokens, where a family would count padding on the left as well."""
    mask = inputs.get("attention_mask")
    if mask is None or not architecture(family).positions or "position_ids" in inputs or bool(mask[:, 0].all()):
        return inputs
    return {**inputs, "position_ids": (mask.to(torch.int64).cumsum(1) - 1).clamp(min=0)}


def _matches(name: str, glob: str) -> bool:
    parts, stars = name.split("."), glob.split(".")
    pairs = zip(parts, stars, strict=False)
    return len(parts) == len(stars) and all(part.isdigit() if star == "*" else part == star for part, star in pairs)


def _lists(model: nn.Module) -> str:
    lists = [f"{name} ({length})" for name, length in _found(model)]
    return f"Its module lists: {', '.join(lists) or 'none'}."


def _likely(model: nn.Module) -> str:
    """An example for `blocks`, from the longest list that there is."""
    longest = max(_found(model), key=lambda found: found[1], default=None)
    return f'"{longest[0]}.*"' if longest else '"encoder.layer.0", "encoder.layer.1"'


def _found(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, len(module)) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
