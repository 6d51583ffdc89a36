"""What is known of an encoder from its own paper and code, independent of the tables under test; and how a tiny one is made.

The rows stand in `zoo_text.py`, `zoo_decoders.py`, `zoo_sight.py`, `zoo_sound.py` and `zoo_records.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from m2fedsa.models import tabular

Inputs = dict[str, Tensor]
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
IDS = {"vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
LENGTHS = (17, 11, 5)
"""Unpadded tokens of the three texts."""


@dataclass(frozen=True)
class Specimen:
    model: str
    """class in transformers, or in `m2fedsa.models.tabular`, without its `Model`"""
    options: Mapping[str, Any]
    inputs: Callable[[], Inputs]
    """three samples"""
    blocks: tuple[str, ...]
    site: tuple[str, str] | None
    """in the last block: the module that receives what TA receives, the one to whose output TA is added"""
    pooling: str = "mean"
    axis: int = -1
    """channels of what passes between blocks"""
    site_axis: int = -1
    lengths: tuple[int, ...] | None = None
    """unpadded tokens of the samples at the end of the encoder"""
    part: str = ""
    """the encoder within a model of encoder and decoder"""
    shared: tuple[str, ...] = ()
    """prefixes of tensors that both sides hold"""
    rounds: bool = False
    """gradients agree to rounding alone: an activation's gradient lies in memory in another order than the activation"""


def row(prefix: str, *counts: int, suffix: str = "") -> tuple[str, ...]:
    """Names of blocks: `row("layers", 2)` in one list, `row("stages", 2, 1, suffix="layers")` in lists of lists."""
    if len(counts) == 1 and not suffix:
        return tuple(f"{prefix}.{i}" for i in range(counts[0]))
    middle = f".{suffix}." if suffix else "."
    return tuple(f"{prefix}.{stage}{middle}{i}" for stage, count in enumerate(counts) for i in range(count))


_MADE: dict[int, nn.Module] = {}


def encoder(specimen: Specimen) -> nn.Module:
    """The whole encoder, frozen, every weight perturbed so that none is zero, one or equal to another.

    Made once for a specimen of the zoo, which lives as long as the tests do.
    """
    if id(specimen) not in _MADE:
        _MADE[id(specimen)] = make(specimen)
    return _MADE[id(specimen)]


def make(specimen: Specimen) -> nn.Module:
    """A new one; the same numbers each time."""
    name = f"{specimen.model}Model"
    found = getattr(transformers, name, None) or getattr(transformers, specimen.model, None) or getattr(tabular, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = found(found.config_class(**specimen.options))
        model = getattr(model, specimen.part) if specimen.part else model
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval().requires_grad_(False)


def generator(seed: int = 0) -> torch.Generator:
    """For inputs."""
    return torch.Generator().manual_seed(seed)


def text() -> Inputs:
    """Three texts of 17, 11 and 5 tokens, padded on the right."""
    mask = (torch.arange(17) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.randint(5, 100, (3, 17), generator=generator()).where(mask.bool(), 1)
    return {"input_ids": ids, "attention_mask": mask}


def unmasked() -> Inputs:
    """Three texts of 17 tokens."""
    return {"input_ids": text()["input_ids"].clamp(min=5)}


def images(size: int = 32, channels: int = 3) -> Callable[[], Inputs]:
    """Three images."""
    return lambda: {"pixel_values": torch.randn(3, channels, size, size, generator=generator())}


def videos(name: str = "pixel_values") -> Callable[[], Inputs]:
    """Three videos of four frames."""
    return lambda: {name: torch.randn(3, 4, 3, 32, 32, generator=generator())}


def waves() -> Inputs:
    """Three sounds of 2000, 1500 and 900 samples."""
    mask = (torch.arange(2000) < torch.tensor([[2000], [1500], [900]])).long()
    return {"input_values": torch.randn(3, 2000, generator=generator()) * mask, "attention_mask": mask}


def spectra() -> Inputs:
    """Three spectrograms of 40, 30 and 12 frames of 16 bands."""
    mask = (torch.arange(40) < torch.tensor([[40], [30], [12]])).long()
    return {"input_features": torch.randn(3, 40, 16, generator=generator()), "attention_mask": mask}
