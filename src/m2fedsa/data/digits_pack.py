"""The embedded digits as they lie in the package: an index, and per group the images and the coded recordings.

Recordings are coded as speech codecs do it: a lapped cosine transform (MDCT, sine window), its coefficients rounded to a fifth
of the recording's own level, int8. `SOURCES.md` beside the files names the sources, the licences and the error of the coding.

Shapes: N rows, H = W = 28 pixels, S = 6,656 audio samples at 8 kHz, F = 105 coded frames, C = 64 coefficients of a frame.
"""

import csv
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2fedsa.data.samples import Split
from m2fedsa.errors import DataError

Part = Literal["public", "clients", ""]
Group = Literal["public", "federation"]
"""`public`: the rows for pretraining; `federation`: the rows of the clients, of validation and of test."""

PIXELS = 28
AUDIO_SAMPLES = 6656
FRAME = 64
FRAMES = AUDIO_SAMPLES // FRAME + 1
STEP = 0.2
COLUMNS = ("row", "digit", "speaker", "recording", "mnist_file", "language", "word", "split", "part")


@dataclass(frozen=True)
class Row:
    """One triple: a written digit, a spoken one and a number word, all of the same class."""

    row: int
    digit: int
    speaker: str
    language: str
    word: str
    split: Split
    part: Part
    """of a training row: is it public, or a client's; empty for validation and test"""


@dataclass(frozen=True)
class DigitRows:
    """The rows of one or both groups, in the order of their numbers."""

    rows: tuple[Row, ...]
    images_NHW: Tensor
    """float32 in [0, 1], ink is 1"""
    audio_NS: Tensor
    """float32, without its mean, root mean square 1 over the spoken part, centred between zeros"""

    @property
    def digits(self) -> Tensor:
        """(N,) int64"""
        return torch.tensor([row.digit for row in self.rows], dtype=torch.int64)

    @property
    def numbers(self) -> tuple[int, ...]:
        """(N,) the rows' own numbers, 0 to 2,999: what their noise is drawn by."""
        return tuple(row.row for row in self.rows)

    @property
    def words(self) -> tuple[str, ...]:
        """(N,) the number words."""
        return tuple(row.word for row in self.rows)


def group_of(split: str, part: str) -> Group:
    """The file group that a row lies in."""
    return "public" if split == "train" and part == "public" else "federation"


@cache
def read_index() -> tuple[Row, ...]:
    """All 3,000 rows of the index."""
    text = (files("m2fedsa.data") / "embedded" / "digits" / "index.csv").read_text(encoding="utf-8")
    return tuple(
        Row(
            int(line["row"]),
            int(line["digit"]),
            line["speaker"],
            line["language"],
            line["word"],
            cast(Split, line["split"]),
            cast(Part, line["part"]),
        )
        for line in csv.DictReader(text.splitlines())
    )


def read_digits(group: Group) -> DigitRows:
    """Decode one group (a fifth of a second).

    Errors: DataError when an embedded file is damaged.
    """
    rows = tuple(row for row in read_index() if group_of(row.split, row.part) == group)
    images = _bytes(f"{group}-images.xz", np.dtype(np.uint8), (len(rows), PIXELS, PIXELS))
    coded = _bytes(f"{group}-audio.xz", np.dtype(np.int8), (FRAME, len(rows), FRAMES))
    return DigitRows(rows, torch.from_numpy(images).float() / 255, torch.from_numpy(decode_audio(coded)))


def _bytes(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    raw = lzma.decompress((files("m2fedsa.data") / "embedded" / "digits" / name).read_bytes())
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(raw) != expected:
        raise DataError(f"embedded file digits/{name}: {len(raw)} bytes where the index asks for {expected}; install the package again")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


@cache
def _basis() -> NDArray[np.float32]:
    """(2C, C): the MDCT of a window of two frames; its transpose is the inverse."""
    time, frequency = np.arange(2 * FRAME)[:, None] + 0.5, np.arange(FRAME) + 0.5
    cosine = np.cos(np.pi / FRAME * (time + FRAME / 2) * frequency)
    basis: NDArray[np.float32] = (np.sin(np.pi / (2 * FRAME) * time) * cosine * np.sqrt(2 / FRAME)).astype(np.float32)
    return basis


def encode_audio(audio_NS: NDArray[np.float32]) -> NDArray[np.int8]:
    """(N, S) of level 1 -> (C, N, F): coefficients lead, so that the many zeros of the high ones lie together."""
    padded = np.pad(audio_NS, ((0, 0), (FRAME, FRAME))).reshape(len(audio_NS), FRAMES + 1, FRAME)
    windows_NFT = np.concatenate([padded[:, :-1], padded[:, 1:]], axis=2)
    steps = np.clip(np.round(windows_NFT @ _basis() / STEP), -127, 127)
    return np.ascontiguousarray(steps.transpose(2, 0, 1)).astype(np.int8)


def decode_audio(coded_CNF: NDArray[np.int8]) -> NDArray[np.float32]:
    """The inverse of `encode_audio` up to rounding: (C, N, F) -> (N, S) float32."""
    frequency, count, frames = coded_CNF.shape
    coefficients = coded_CNF.reshape(frequency, -1).astype(np.float32)
    first, second = (coefficients.T @ (half * np.float32(STEP)).T for half in np.split(_basis(), 2))
    audio_NFT = second.reshape(count, frames, FRAME)[:, :-1] + first.reshape(count, frames, FRAME)[:, 1:]
    return audio_NFT.reshape(count, AUDIO_SAMPLES)


def level(clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
    """Recordings of any length -> (N, S): mean removed, root mean square 1, centred; what is longer loses its end."""
    audio_NS = np.zeros((len(clips), AUDIO_SAMPLES), np.float32)
    for row, clip in enumerate(clips):
        part = clip[:AUDIO_SAMPLES].astype(np.float64)
        part -= part.mean()
        start = (AUDIO_SAMPLES - len(part)) // 2
        audio_NS[row, start : start + len(part)] = part / part.std()
    return audio_NS
