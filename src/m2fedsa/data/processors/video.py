"""Frames of videos. N items, T frames, S pixels a side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from m2fedsa.data.processors import Inputs, encoder_facts
from m2fedsa.data.processors.image import ImageProcessor, image_processor
from m2fedsa.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN_FRAMES = 4
"""Of an encoder of pictures, which sees them as one."""


class VideoProcessor(Protocol):
    """Frames to inputs of equal shape."""

    @property
    def frames(self) -> int:
        """T, how many it wants of a video."""

    def __call__(self, clips: "Sequence[Sequence[Image]]") -> Inputs:
        """`clips` are T frames each, RGB, of any size."""


@dataclass(frozen=True)
class Clips:
    """For an encoder of videos: each frame through its picture processor."""

    frames: int
    process: ImageProcessor
    argument: str

    def __call__(self, clips: "Sequence[Sequence[Image]]") -> Inputs:
        """{argument: (N, T, 3, S, S)}."""
        flat = self.process([frame for clip in clips for frame in clip])["pixel_values"]
        # Some processors take a list of pictures for one video, and put a dimension of one in front.
        return {self.argument: flat.reshape(len(clips), self.frames, *flat.shape[-3:])}


@dataclass(frozen=True)
class Tiles:
    """For an encoder of pictures: the frames of a video side by side in one picture, row by row."""

    frames: int
    process: ImageProcessor

    def __call__(self, clips: "Sequence[Sequence[Image]]") -> Inputs:
        """{`pixel_values`: (N, 3, S, S)}."""
        return self.process([self._tiled(clip) for clip in clips])

    def _tiled(self, clip: "Sequence[Image]") -> "Image":
        from PIL import Image

        if len(clip) == 1:
            return clip[0]
        across = math.ceil(math.sqrt(len(clip)))
        width, height = clip[0].size
        picture = Image.new("RGB", (width * across, height * math.ceil(len(clip) / across)))
        for place, frame in enumerate(clip):
            picture.paste(frame.resize((width, height)), (place % across * width, place // across * height))
        return picture


def video_processor(processors: Mapping[str, str], modality: str, frames: int = 0, size: int = 0) -> VideoProcessor:
    """Frames for an encoder of videos, whose config.json tells how many it takes; for one of pictures, tiles of one picture.

    processors: modality -> where its processor lies. frames: T; 0 for what the encoder says, 4 tiles where it takes pictures.
    size: pixels a side; 0 for what the processor says. Errors: ConfigError when the encoder takes another number of frames.
    """
    if frames < 0:
        raise ConfigError(f"frames is {frames}; it is the number of frames of a video, or 0 for what the encoder takes")
    facts = encoder_facts(processors, modality)
    wanted = facts.get("num_frames") or facts.get("frames_per_clip")
    process = image_processor(processors, modality, size)
    if wanted is None:
        return Tiles(frames or PLAIN_FRAMES, process)
    if frames not in (0, wanted):
        raise ConfigError(f"frames is {frames}, but the encoder of {modality} takes {wanted}; leave it out")
    return Clips(int(wanted), process, "pixel_values_videos" if facts.get("model_type") == "vjepa2" else "pixel_values")
