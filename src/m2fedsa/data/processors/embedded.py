"""What the encoders that ship with the package take: digits, written, spoken and spelled out. N items, L = 18 characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from m2fedsa.data import digits_inputs
from m2fedsa.data.digits_pack import AUDIO_SAMPLES, level
from m2fedsa.data.processors import Inputs
from m2fedsa.data.processors.words import Lengths

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE, AUDIO, TEXT = "embedded:digits-image", "embedded:digits-audio", "embedded:digits-text"
_SIDE = 28


@dataclass(frozen=True)
class DigitImages:
    """Squares of 28 grey pixels a side; ink is bright, paper dark."""

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """{`pixel_values`: (N, 1, 28, 28)}."""
        from PIL.Image import Resampling

        grey = [np.asarray(image.convert("L").resize((_SIDE, _SIDE), Resampling.BILINEAR)) for image in images]
        return {"pixel_values": digits_inputs.pixel_values(torch.from_numpy(np.stack(grey)).float() / 255)}


@dataclass(frozen=True)
class DigitAudio:
    """The first 0.832 seconds at one level, in the middle of silence where there is less."""

    rate: int = digits_inputs.SAMPLE_RATE
    samples: int = AUDIO_SAMPLES

    def __call__(self, waves: Sequence[np.ndarray]) -> Inputs:
        """{`input_values`: (N, 64, 40)}."""
        return {"input_values": digits_inputs.log_mel(torch.from_numpy(level(waves)))}


@dataclass(frozen=True)
class DigitText:
    """Characters, without accents."""

    limit: int = digits_inputs.CHARACTERS

    def lengths(self, texts: Sequence[str]) -> list[Lengths]:
        """See `TextProcessor`."""
        found = [digits_inputs.letters(text) for text in texts]
        return [Lengths(len(own) + 1, not any(letter.strip() for letter in own)) for own in found]

    def __call__(self, texts: Sequence[str], width: int) -> Inputs:
        """{`input_ids`, `attention_mask`: (N, L)}."""
        ids = digits_inputs.character_ids(texts)[:, :width]
        return {"input_ids": ids, "attention_mask": digits_inputs.attention_mask(ids)}
