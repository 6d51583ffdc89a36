"""Pictures. N items, S pixels a side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from m2fedsa.data.processors import Inputs, encoder_facts, own, place_of
from m2fedsa.data.processors.embedded import IMAGE, DigitImages
from m2fedsa.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN_SIZE = 224


class ImageProcessor(Protocol):
    """Pictures to inputs of equal shape."""

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """`images` are RGB, of any size."""


@dataclass(frozen=True)
class PlainImages:
    """Squares of `size` pixels a side, three channels (or one of grey) in [-1, 1]."""

    size: int
    grey: bool = False

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """{`pixel_values`: (N, 3 or 1, S, S)}; a picture that is no square is squeezed into one, so that nothing of it is lost."""
        from PIL.Image import Resampling

        toned = [image.convert("L") if self.grey else image for image in images]
        squares = [np.asarray(image.resize((self.size, self.size), Resampling.BILINEAR)) for image in toned]
        pixels_NSSC = torch.from_numpy(np.stack(squares)).reshape(len(squares), self.size, self.size, -1)
        return {"pixel_values": pixels_NSSC.permute(0, 3, 1, 2).float() / 127.5 - 1}


@dataclass(frozen=True)
class OwnImages:
    """The encoder's own image processor."""

    processor: Any
    size: int
    """pixels a side instead of the processor's own size and cropping; 0 leaves it alone"""

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """What the processor gives."""
        own = {"size": {"height": self.size, "width": self.size}, "do_center_crop": False} if self.size else {}
        return dict(self.processor(images=list(images), return_tensors="pt", **own))


def image_processor(processors: Mapping[str, str], modality: str, size: int = 0) -> ImageProcessor:
    """The processor of a modality's encoder, or the plain one.

    processors: modality -> where its processor lies. size: pixels a side; 0 for the processor's own; of the plain one, for what the
    encoder's config.json says (`image_size`), or 224.
    """
    if size < 0:
        raise ConfigError(f"image_size is {size}; it is the number of pixels a side, or 0 for what the encoder's processor says")
    if place_of(processors, modality) == IMAGE:
        return DigitImages()
    from transformers import AutoImageProcessor

    # Not the torchvision one, on which this package does not depend.
    found = own(AutoImageProcessor, processors, modality, backend="pil")
    if found is not None:
        return OwnImages(found, size)
    facts = encoder_facts(processors, modality)
    side = facts.get("image_size", PLAIN_SIZE)
    return PlainImages(size or (side if isinstance(side, int) else PLAIN_SIZE), grey=facts.get("num_channels") == 1)
