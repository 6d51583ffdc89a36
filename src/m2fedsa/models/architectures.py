"""All that cutting must know about model families; the rest is traced from the model itself (`plan.py`).

A new family needs a line here only if its blocks lie where no glob looks, if a module that finishes early feeds every block, or if its
default pooling is not the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from torch import nn

from m2fedsa.errors import CutError

Pooling = Literal["pooler", "mean", "cls", "last"]

BLOCK_GLOBS = (
    "encoder.layers.*.blocks.*",  # Swin, SwinV2
    "encoder.stages.*.layers.*",  # ConvNeXt, ResNet
    "encoder.layer.*",  # BERT, RoBERTa, DeBERTa, MPNet, DINOv2, VideoMAE, TimeSformer, BEiT
    "encoder.layers.*",  # CLIP, SigLIP, Wav2Vec2, HuBERT, WavLM
    "encoder.block.*",  # T5
    "transformer.layer.*",  # DistilBERT
    "layers.*",  # ViT, DeiT, AST, ViViT, Whisper's encoder, ModernBERT, Qwen2, Llama
    "layer.*",  # MobileNet
    "h.*",  # GPT-2
    "stages.*.layers.*",
    "encoder.blocks.*.*",
    "encoder.blocks.*",
    "blocks.*",
    "model.layer.*",
    "model.stages.*.layers.*",
)
"""Where blocks live; the first glob with a match wins. A star stands for one number."""


class Site(NamedTuple):
    """The feed-forward part of a block: TA receives what `first` receives and is added to what `last` gives.

    Names are relative to the block, "" is the block. `axis` is the dimension of the channels.
    """

    first: str
    last: str
    axis: int = -1


SITES = (
    Site("intermediate", "output.dense"),  # BERT, SwinV2, VideoMAE, TimeSformer: `output` itself would add the residual
    Site("mlp", "mlp"),  # ViT, AST, Swin, CLIP, GPT-2, Llama
    Site("feed_forward", "feed_forward"),  # Wav2Vec2, HuBERT, WavLM
    Site("ffn", "ffn"),  # DistilBERT
    Site("fc1", "fc2"),  # Whisper
    Site("pwconv1", "pwconv2"),  # ConvNeXt, which moves the channels last before it
    Site("expand_1x1", "reduce_1x1", 1),  # MobileNetV2
    Site("layer.1.DenseReluDense", "layer.1.DenseReluDense"),  # T5's encoder
    Site("layer", "layer", 1),  # ResNet: the whole residual branch
)
"""Feed-forward parts; the first of which a block has both names wins."""


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


# Text pools by the mean: the poolers of published checkpoints were trained for another task, or not at all (RoBERTa has none).
_POOLER = Architecture("pooler")
_CLS = Architecture("cls")
_LAST = Architecture("last")
ARCHITECTURES = {
    "deberta": Architecture(keep=("encoder.LayerNorm",)),
    "deberta-v2": Architecture(keep=("encoder.LayerNorm",)),
    "mpnet": Architecture(keep=("encoder.relative_attention_bias",)),
    # The position bias is an output of block 0, which the tail therefore runs again, on NaN.
    "wavlm": Architecture(keep=("encoder.layers.0",)),
    "t5": Architecture(keep=("encoder.block.0",)),
    "beit": Architecture("cls", keep=("shared_position_bias",)),
    "gpt2": _LAST,
    "qwen2": _LAST,
    "llama": _LAST,
    "vit": _CLS,
    "deit": _CLS,
    "dinov2": _CLS,
    "vivit": _CLS,
    "timesformer": _CLS,
    "clip_vision_model": _POOLER,
    "siglip_vision_model": _POOLER,
    "swin": _POOLER,
    "swinv2": _POOLER,
    "convnext": _POOLER,
    "resnet": _POOLER,
    "mobilenet_v2": _POOLER,
    "mobilenet_v1": Architecture("pooler", site=Site("", "", 1)),
    "audio-spectrogram-transformer": _POOLER,
}


def architecture(model_type: str) -> Architecture:
    """What is known of a family; a family without an entry needs nothing beyond the defaults."""
    return ARCHITECTURES.get(model_type, Architecture())


def block_names(model: nn.Module, blocks: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the blocks of `model` in the order in which they run.

    `blocks` names them where no glob finds them. Raises `CutError` if one is not a module, or if none is known.
    """
    names = [name for name, _ in model.named_modules()]
    if blocks is not None:
        missing = [block for block in blocks if block not in names]
        if missing or not blocks:
            raise CutError(f"`blocks` names {missing or 'nothing'}, but {type(model).__name__} has no such module. {_lists(model)}")
        return tuple(blocks)
    for glob in BLOCK_GLOBS:
        found = tuple(name for name in names if _matches(name, glob))
        if found:
            return found
    raise CutError(
        f"no list of blocks is known for {type(model).__name__}. Tried: {', '.join(BLOCK_GLOBS)}. {_lists(model)} "
        'Name them in the order in which they run, e.g. `blocks=["encoder.layer.0", "encoder.layer.1"]`.'
    )


def _matches(name: str, glob: str) -> bool:
    # fnmatch lets a star run over dots
    return name.count(".") == glob.count(".") and name.rpartition(".")[2].isdigit() and fnmatchcase(name, glob)


def _lists(model: nn.Module) -> str:
    lists = [f"{name} ({len(module)})" for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return f"Its module lists: {', '.join(lists) or 'none'}."


def feed_forward_site(model: nn.Module, block: str, model_type: str) -> Site | None:
    """The feed-forward part of the module called `block`, with names from the model's root; None if none is known."""
    parts = {name for name, _ in model.get_submodule(block).named_modules()}
    special = architecture(model_type).site
    for site in (special,) if special else SITES:
        if site.first in parts and site.last in parts:
            first, last = (f"{block}.{part}".rstrip(".") for part in (site.first, site.last))
            return Site(first, last, site.axis)
    return None
