"""Videos, with PyAV."""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from m2fedsa.data.readers import Source, found
from m2fedsa.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_JUMP = 2.0
"""Seconds of frames that are decoded and passed over rather than sought."""


class Clip(NamedTuple):
    """Frames of a video."""

    frames: Sequence["Image"]
    seconds: float
    """of the whole, as the file says it"""


def read_video(source: Source, count: int, begin: float = 0.0, end: float | None = None) -> Clip:
    """`count` frames as RGB, upright: those that are seen in the middle of equal parts of the time from `begin` to `end` (seconds).

    Errors: DataError for a file that is missing, empty, of no known kind, without pictures, or of which no frame can be decoded; and for
    a part that does not exist.
    """
    import av

    name = found(source)
    with _opened(source, name) as container:
        stream = _stream(container, name)
        try:
            until = _until(container, stream, name, begin, end)
            middles = [begin + (until - begin) * (place + 0.5) / count for place in range(count)]
            walk = _Walk(container, stream)
            frames = [walk.seen(time) for time in middles]
        except av.FFmpegError as error:
            raise DataError(f"{name}: the video cannot be decoded ({error.strerror or error})") from error
        if frames[-1] is None:
            raise DataError(f"{name}: not one frame can be decoded")
        if walk.ends < middles[-1] - _JUMP:
            raise DataError(f"{name}: the video is cut short: its head says {until:.3g} s, but its frames end at {walk.ends:.3g} s")
        return Clip([_upright(frame) for frame in frames], until)


def look_at_video(source: Source) -> float:
    """Length in seconds from the head of the file alone. Errors as for `read_video`, as far as the head shows them."""
    name = found(source)
    with _opened(source, name) as container:
        return _length(container, _stream(container, name))


def _opened(source: Source, name: str) -> Any:
    import av

    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{name}: this is no video that can be read: of no known kind, or broken") from error


def _stream(container: Any, name: str) -> Any:
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(f"{name}: the file has no pictures (its streams: {', '.join(kinds) or 'none'})")
    return container.streams.video[0]


def _length(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / 1_000_000


def _until(container: Any, stream: Any, name: str, begin: float, end: float | None) -> float:
    """The time at which the part ends."""
    whole = _length(container, stream)
    if whole <= 0:  # the head does not say: ask the frames
        whole = max((float(frame.time) for frame in container.decode(stream) if frame.time is not None), default=0.0)
        container.seek(0)
    until = whole if end is None else min(end, whole)
    if begin < 0 or (whole > 0 and until <= begin):
        told = f"from {begin:g} s to {'its end' if end is None else f'{end:g} s'}"
        raise DataError(f"{name}: there is no part {told}; the video is {whole:.3g} s long")
    return until


class _Walk:
    """Through the frames of a video, forwards, with a jump where the next one that is wanted is far."""

    def __init__(self, container: Any, stream: Any) -> None:
        """Before the first frame."""
        self._container, self._stream = container, stream
        self._start = float((stream.start_time or 0) * stream.time_base)
        self._frames: Iterator[Any] = container.decode(stream)
        self._shown: Any = None
        self._ahead: Any = None
        self._at = 0.0

    def seen(self, time: float) -> Any:
        """The last frame that begins at or before `time` (seconds, rising from call to call); the first one where none does."""
        if time - self._at > _JUMP and (self._ahead is None or time - self._begin(self._ahead) > _JUMP):
            self._container.seek(int((time + self._start) / self._stream.time_base), stream=self._stream, backward=True)
            self._frames, self._ahead = self._container.decode(self._stream), None
        self._at = time
        while True:
            self._ahead = self._ahead or next(self._frames, None)
            if self._ahead is None or self._begin(self._ahead) > time:
                return self._shown or self._ahead
            self._shown, self._ahead = self._ahead, None

    @property
    def ends(self) -> float:
        """When the frame that was seen last began, where no other followed; else infinity."""
        return self._begin(self._shown) if self._ahead is None and self._shown is not None else float("inf")

    def _begin(self, frame: Any) -> float:
        return float(frame.time or 0.0) - self._start


def _upright(frame: Any) -> "Image":
    image: Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
