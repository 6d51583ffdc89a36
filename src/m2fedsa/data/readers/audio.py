"""Recordings, with soundfile where libsndfile knows the format, else with PyAV (the sound of videos, m4a).

C channels, N samples.
"""

import io
import math
from typing import Any, NamedTuple

import numpy as np

from m2fedsa.data.readers import Source, found
from m2fedsa.errors import DataError

_ROUNDING = 1e-6


class Wave(NamedTuple):
    """A recording, or the beginning of one."""

    samples: np.ndarray
    """(N,) float32, mono: the mean of the channels"""
    rate: int
    """samples a second"""
    seconds: float
    """of the whole, of which `samples` may be the beginning; as the file says it"""


def read_audio(source: Source, seconds: float | None = None, begin: float = 0.0, end: float | None = None) -> Wave:
    """The part of a recording from `begin` to `end` (seconds), of it at most the first `seconds`; nothing else is decoded.

    Errors: DataError for a file that is missing, empty, cut short, without sound, or of no known kind; and for a part that does not exist.
    """
    import soundfile

    name = found(source)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            whole = file.frames / file.samplerate
            length = _length(name, whole, seconds, begin, end)
            file.seek(min(round(begin * file.samplerate), file.frames))
            wave_NC = file.read(_samples(length, file.samplerate), dtype="float32", always_2d=True)
            return Wave(wave_NC.mean(1), file.samplerate, (whole if end is None else min(end, whole)) - begin)
    except soundfile.LibsndfileError:
        return _with_av(source, name, seconds, begin, end)


def audio_seconds(source: Source) -> float:
    """Length from the head of the file alone. Errors as for `read_audio`, as far as the head shows them."""
    import soundfile

    name = found(source)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        return float(info.frames / info.samplerate)
    except soundfile.LibsndfileError:
        with _opened(source, name) as container:
            return _whole(container, _stream(container, name))


def _length(name: str, whole: float, seconds: float | None, begin: float, end: float | None) -> float:
    """Seconds to decode."""
    if begin < 0 or begin >= max(whole, 1e-9) or (end is not None and end <= begin):
        told = f"from {begin:g} s to {'its end' if end is None else f'{end:g} s'}"
        if whole > 0:
            raise DataError(f"{name}: there is no part {told}; the recording is {whole:.3g} s long")
    until = whole if end is None else min(end, whole)
    return max(until - begin, 0.0) if seconds is None else max(min(until - begin, seconds), 0.0)


def _samples(seconds: float, rate: int) -> int:
    """As many as it takes to hear so many seconds."""
    return math.ceil(seconds * rate - _ROUNDING)


def _opened(source: Source, name: str) -> Any:
    import av

    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{name}: this is no recording that can be read: of no known kind, or broken") from error


def _stream(container: Any, name: str) -> Any:
    if not container.streams.audio:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(f"{name}: the file has no sound (its streams: {', '.join(kinds) or 'none'})")
    return container.streams.audio[0]


def _whole(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / 1_000_000


def _with_av(source: Source, name: str, seconds: float | None, begin: float, end: float | None) -> Wave:
    import av

    with _opened(source, name) as container:
        stream = _stream(container, name)
        whole, rate = _whole(container, stream), int(stream.rate)
        length = _length(name, whole, seconds, begin, end) if whole else (seconds or 1e9)
        try:
            parts = list(_decoded(container, stream, begin, length))
        except av.FFmpegError as error:
            raise DataError(f"{name}: the sound cannot be decoded ({error.strerror or error})") from error
    if not parts:
        raise DataError(f"{name}: not one sample of its sound can be decoded")
    samples = np.concatenate(parts)[: _samples(length, rate)]
    until = (whole or len(samples) / rate + begin) if end is None else min(end, whole or end)
    return Wave(samples, rate, until - begin)


def _decoded(container: Any, stream: Any, begin: float, length: float) -> Any:
    """Mono float32 parts from `begin` on, until `length` seconds are there."""
    import av

    resampler = av.AudioResampler(format="fltp")
    if begin > 0:
        container.seek(int(begin / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
        start = float(frame.pts * stream.time_base) if frame.pts is not None else 0.0
        if start >= begin + length:
            return
        for plain in resampler.resample(frame):
            wave_CN = plain.to_ndarray()
            early = round((begin - start) * stream.rate)
            if early < wave_CN.shape[1]:
                yield wave_CN[:, max(early, 0) :].mean(0, dtype=np.float32)
