"""Tiny encoders of five families with every weight perturbed, inputs for them, and what is known of them from their own code."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

WIDTHS = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 2, 4], "window_size": 4}


@dataclass(frozen=True)
class Family:
    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]
    """seed -> three samples"""
    blocks: tuple[str, ...]
    feed_forward: tuple[str, str]
    """in the last block: where it receives, where it gives"""
    early: tuple[str, ...]
    """prefixes of what runs before the first block"""
    between: tuple[tuple[str, int], ...] = ()
    """prefixes of what runs between blocks, and before which block"""


def _text(seed: int, padding: int = 1) -> dict[str, Tensor]:
    ids = torch.randint(5, 300, (3, 17), generator=_generator(seed))
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[1, 11:] = 0
    mask[2, 5:] = 0
    ids[mask == 0] = padding
    return {"input_ids": ids, "attention_mask": mask}


def _images(size: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda seed: {"pixel_values": torch.randn(3, 3, size, size, generator=_generator(seed))}


def _spectrograms(seed: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(3, 64, 32, generator=_generator(seed))}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=300, max_position_embeddings=64, **WIDTHS))


def _roberta() -> nn.Module:
    return transformers.RobertaModel(transformers.RobertaConfig(vocab_size=300, max_position_embeddings=64, type_vocab_size=1, **WIDTHS))


def _vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **WIDTHS))


def _ast() -> nn.Module:
    config = transformers.ASTConfig(patch_size=8, max_length=64, num_mel_bins=32, frequency_stride=8, time_stride=8, **WIDTHS)
    return transformers.ASTModel(config)


def _swin(**changed: object) -> nn.Module:
    return transformers.SwinModel(transformers.SwinConfig(**SWIN | changed))


_BERT_LIKE = (tuple(f"encoder.layer.{i}" for i in range(4)), ("intermediate", "output.dense"), ("embeddings.",))
_VIT_LIKE = (tuple(f"layers.{i}" for i in range(4)), ("mlp", "mlp"), ("embeddings.",))
_SWIN_LIKE = (
    tuple(f"encoder.layers.{stage}.blocks.{block}" for stage in range(3) for block in range(2)),
    ("mlp", "mlp"),
    ("embeddings.",),
    (("encoder.layers.0.downsample.", 2), ("encoder.layers.1.downsample.", 4)),
)
FAMILIES = {
    "bert": Family(_bert, _text, *_BERT_LIKE),
    "roberta": Family(_roberta, _text, *_BERT_LIKE),
    "vit": Family(_vit, _images(32), *_VIT_LIKE),
    "audio-spectrogram-transformer": Family(_ast, _spectrograms, *_VIT_LIKE),
    "swin": Family(_swin, _images(64), *_SWIN_LIKE),
    # 18 patches a side do not fill the windows of 4: the model pads, and shifts what it padded
    "swin padded": Family(lambda: _swin(image_size=72), _images(72), *_SWIN_LIKE),
}
CUTS = [(name, k) for name, family in FAMILIES.items() for k in sorted({0, 1, len(family.blocks) // 2, len(family.blocks)})]


@functools.cache
def encoder(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The whole model, frozen; the same object for every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[name].make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().requires_grad_(False).to(dtype)


def inputs(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Three samples; texts of 17, 11 and 5 tokens."""
    made = FAMILIES[name].inputs(seed)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.items()}
