"""Inputs that an encoder's own configuration asks for: enough to trace it and to verify a cut, without anybody's data.

B = 2 samples, T tokens, S pixels a side, F frames, M mel bands.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m2fedsa.errors import CutError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 32
_WAVE = 16_000
"""One second, as encoders of waveforms have it."""
_FRAMES = 100
"""One second, as encoders of spectrograms of any length have it."""
_SIDE = 224
_BATCH = 2


def example_for(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Two samples of random numbers: texts of 32 and 20 tokens, pictures, videos, series, records, spectrograms or waveforms of one
    and three quarters of a second. Of the model's type; the same for every call.

    `CutError` if the encoder wants something else.
    """
    generator = torch.Generator().manual_seed(0)
    config, name = model.config, model.main_input_name
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    if name == "input_ids":
        return _text(config, takes_mask, generator)
    if name == "pixel_values":
        return {name: _noise(model, _picture(config), generator)}
    if name == "pixel_values_videos":
        return {name: _noise(model, _picture(config), generator)}
    if name == "past_values":
        series = (config.context_length, config.num_input_channels)
        return {name: _noise(model, series, generator), "past_observed_mask": torch.ones(_BATCH, *series, dtype=torch.bool)}
    if name == "codes":
        codes_BC = torch.randint(0, config.num_codes, (_BATCH, config.num_columns), generator=generator)
        return {name: codes_BC, "values": _noise(model, (config.num_columns,), generator)}
    shape, counted = _sound(config, name)
    if shape:
        values = {name: _noise(model, shape, generator)}
        return values | {"attention_mask": _mask(shape[0], shape[0] * 3 // 4)} if counted and takes_mask else values
    raise CutError(
        f"{type(model).__name__} takes {name}, of which nothing is known but its name. Cut it from Python: m2fedsa.cutting.cut_model with "
        "an example of your own."
    )


def _text(config: Any, takes_mask: bool, generator: torch.Generator) -> dict[str, Tensor]:
    padding = getattr(config, "pad_token_id", None) or 0
    # RoBERTa counts positions from the one after its padding.
    places = (getattr(config, "max_position_embeddings", None) or 0) - padding - 1
    length = min(_TOKENS, places) if places > 0 else _TOKENS
    ids_BT = torch.randint(0, config.vocab_size, (_BATCH, length), generator=generator)
    ids_BT[ids_BT == padding] = (padding + 1) % config.vocab_size
    if not takes_mask:
        return {"input_ids": ids_BT}
    mask_BT = _mask(length, length * 5 // 8)
    ids_BT[mask_BT == 0] = padding
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


def _mask(first: int, second: int) -> Tensor:
    return (torch.arange(first) < torch.tensor([[first], [second]])).long()


def _picture(config: Any) -> tuple[int, ...]:
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", None) or _SIDE
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    channels: int = getattr(config, "num_channels", None) or getattr(config, "in_chans", None) or 3
    shape = (channels, height, width)
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    return (int(frames), *shape) if frames else shape


def _sound(config: Any, name: str) -> tuple[tuple[int, ...], bool]:
    """The shape of one sample, and whether a mask says how much of its first dimension counts; an empty shape if nothing is known."""
    bands, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    width = getattr(config, "feature_projection_input_dim", None) or getattr(config, "input_feat_per_channel", None)
    if name == "input_values":
        return ((_WAVE,), True) if bands is None else ((config.max_length, bands), False)
    if name == "input_features" and width:
        return (_FRAMES, width), True
    # Whisper halves the number of frames before its first block.
    return ((bands, 2 * frames), False) if name == "input_features" and bands and frames else ((), False)


def _noise(model: "PreTrainedModel", shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(_BATCH, *shape, generator=generator).to(model.dtype)
