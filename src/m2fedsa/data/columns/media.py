"""Pictures, recordings and videos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from m2fedsa.data.columns import Look, each, looked
from m2fedsa.data.processors import Inputs
from m2fedsa.data.processors.audio import AudioProcessor
from m2fedsa.data.processors.image import ImageProcessor
from m2fedsa.data.processors.video import VideoProcessor
from m2fedsa.data.readers.audio import Wave
from m2fedsa.data.readers.video import Clip
from m2fedsa.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageColumn:
    """Pictures."""

    name: str
    rows: Sequence[int]
    """that have one"""
    read: "Callable[[int], Image]"
    """row -> RGB; `DataError` says why there is none"""
    process: ImageProcessor
    head: Callable[[int], tuple[int, int]] | None = None
    """row -> width and height, without decoding; None where nothing is gained by it"""
    unit = "pixels on the shorter side"

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process(each(self.name, rows, self.read))

    def look(self, *, deep: bool = True) -> Look:
        """Every picture is decoded once, and none is kept."""
        size = self.head if self.head is not None and not deep else lambda row: self.read(row).size
        faults, sizes = looked(self.name, self.rows, size)
        return Look(tuple(faults), lengths=[min(size) for _, size in sizes])


@dataclass(frozen=True)
class AudioColumn:
    """Recordings."""

    name: str
    rows: Sequence[int]
    read: Callable[[int, float], Wave]
    """row, seconds that are wanted at most -> the recording; `DataError` says why there is none"""
    process: AudioProcessor
    disturb: Callable[[int, np.ndarray], np.ndarray] | None = None
    """row and what the processor will look at of its wave, at its own rate -> what it is given instead"""
    head: Callable[[int], float] | None = None
    """row -> seconds, without decoding"""
    unit = "seconds"

    @property
    def seconds(self) -> float:
        """What the processor looks at of a recording."""
        return self.process.samples / self.process.rate

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process(each(self.name, rows, self._heard))

    def _heard(self, row: int) -> np.ndarray:
        wave, rate, _ = self.read(row, self.seconds)
        if self.disturb is not None:
            wave = self.disturb(row, wave)
        if rate != self.process.rate:
            import soxr

            wave = soxr.resample(wave, rate, self.process.rate)
        return wave[: self.process.samples]

    def look(self, *, deep: bool = True) -> Look:
        """Recordings that are empty, silent or not finite in what is heard of them; and how many lose their end."""
        faults, lengths = looked(self.name, self.rows, self.head if self.head is not None and not deep else self._sound)
        long = sum(length > self.seconds * (1 + 1e-6) for _, length in lengths)
        told = f"{self.name}: {long:,} of {len(self.rows):,} recordings are longer than {self.seconds:.3g} s; what comes later is not heard"
        return Look(tuple(faults), (told,) if long else (), [length for _, length in lengths])

    def _sound(self, row: int) -> float:
        """Seconds of the whole recording. `DataError` for one that cannot be used."""
        wave, rate, seconds = self.read(row, self.seconds)
        if len(wave) == 0:
            raise DataError("the recording is empty (0 samples)")
        if not np.isfinite(wave).all():
            raise DataError("the recording has values that are not finite")
        if np.ptp(wave) == 0:
            where = "" if len(wave) / rate >= seconds * (1 - 1e-6) else f" in the first {len(wave) / rate:.3g} s, which are heard"
            raise DataError(f"the recording is silent{where}: all its samples are equal")
        return seconds


@dataclass(frozen=True)
class VideoColumn:
    """Videos, of which some frames are seen."""

    name: str
    rows: Sequence[int]
    read: Callable[[int, int], Clip]
    """row, frames that are wanted -> that many; `DataError` says why there are none"""
    process: VideoProcessor
    head: Callable[[int], float] | None = None
    """row -> seconds, without decoding"""
    unit = "seconds"

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process(each(self.name, rows, lambda row: self.read(row, self.process.frames).frames))

    def look(self, *, deep: bool = True) -> Look:
        """The frames of every video are decoded once, and none is kept."""
        length = self.head if self.head is not None and not deep else self._seconds
        faults, lengths = looked(self.name, self.rows, length)
        return Look(tuple(faults), lengths=[seconds for _, seconds in lengths])

    def _seconds(self, row: int) -> float:
        return self.read(row, self.process.frames).seconds
