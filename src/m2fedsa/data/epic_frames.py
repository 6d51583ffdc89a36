"""The frames that EPIC-KITCHENS ships beside its videos: an archive a video, or a folder where that was unpacked."""

import re
import tarfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from m2fedsa.data.readers.image import read_image
from m2fedsa.data.readers.video import Clip
from m2fedsa.errors import DataError

_FRAME = re.compile(r"(?:.*/)?frame_(\d{10})\.jpg")


class _Place(NamedTuple):
    """Where a frame lies in an archive."""

    begin: int
    bytes: int


class Segment(NamedTuple):
    """A part of a video."""

    begin: float
    """seconds"""
    end: float
    first: int
    """number of its first frame"""
    last: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


class Frames:
    """Frames by number, from `PXX/rgb_frames/PXX_YY/` or `PXX/rgb_frames/PXX_YY.tar`, which is never unpacked."""

    def __init__(self, folder: Path) -> None:
        """folder: with P01 and so on. An archive is read through once, for where its frames lie; sixteen of these lists are kept."""
        self._folder = folder
        self._index = lru_cache(maxsize=16)(_index)
        self._alone = threading.Lock()

    def clip(self, video: str, segment: Segment, count: int) -> Clip:
        """`count` frames: those in the middle of equal parts of a segment. Errors: DataError for one that is missing or broken."""
        whole = segment.last - segment.first + 1
        numbers = [segment.first + int(whole * (place + 0.5) / count) for place in range(count)]
        return Clip([read_image(self._source(video, number)) for number in numbers], segment.seconds)

    def seconds(self, video: str, segment: Segment) -> float:
        """Length of a segment. Errors: DataError if its last frame is not there."""
        source = self._source(video, segment.last, look=True)
        if isinstance(source, Path) and not source.is_file():
            raise DataError(f"{source}: no such file")
        return segment.seconds

    def _source(self, video: str, number: int, *, look: bool = False) -> Path | bytes:
        """Where a frame lies, or its file's content; nothing is read to `look`."""
        home = self._folder / video[:3] / "rgb_frames"
        if (home / video).is_dir():
            return home / video / _name(number)
        archive = home / f"{video}.tar"
        with self._alone:  # two threads that look for the same list would both make it
            place = self._index(archive).get(number)
        if place is None:
            raise DataError(f"{archive}: has no {_name(number)}")
        if look:
            return b""
        with archive.open("rb") as file:
            file.seek(place.begin)
            return file.read(place.bytes)


def _name(number: int) -> str:
    return f"frame_{number:010d}.jpg"


def _index(archive: Path) -> Mapping[int, _Place]:
    """frame -> where its file lies."""
    try:
        with tarfile.open(archive, "r:") as tar:
            found = ((_FRAME.fullmatch(member.name), member) for member in tar)
            return {int(match[1]): _Place(member.offset_data, member.size) for match, member in found if match}
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{archive}: cannot be read as an archive of frames ({error}). Copy it again.") from error
