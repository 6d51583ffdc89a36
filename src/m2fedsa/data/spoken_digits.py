"""Handwritten, spoken and written-out digits for large encoders: a folder with `data.npz` and `index.csv`.

`data.npz`: `image` (R, 28, 28) uint8; `audio` int16 at 8 kHz, all recordings behind each other; `audio_offset` (R + 1,): recording r is
`audio[audio_offset[r]:audio_offset[r + 1]]`. `index.csv`: `digit`, `speaker`, `word`, `split` of each row.

R rows, H = W = 28 pixels.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, look_at
from m2fedsa.data.columns.media import AudioColumn, ImageColumn
from m2fedsa.data.columns.tables import TextColumn
from m2fedsa.data.csv_rows import classes_of, read_rows, splits_of
from m2fedsa.data.processors.audio import audio_processor
from m2fedsa.data.processors.image import image_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.readers.audio import Wave
from m2fedsa.data.samples import FederatedData
from m2fedsa.data.spread import Table, spread
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.seeding import derive

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS = tuple("0123456789")
TWENTY = Data(clients=20)
SIDE, RATE = 28, 8000
LEVEL = 0.1
"""Root mean square of the spoken part, of a full scale of 1."""
_QUIETEST = 1e-6
"""The heard part of a recording may be silent where the rest is not."""
PATHS = {
    "data.options.folder": "a folder with data.npz and index.csv (docs/results_real.md says where they come from)",
    "modalities.image.encoder": "an image encoder: a folder as save_pretrained writes it, or google/mobilenet_v2_1.0_224 from the hub",
    "modalities.audio.encoder": "an audio encoder: YAMNet as a MobileNetV1 folder, or one with its feature extractor, such as an AST",
    "modalities.text.encoder": "a text encoder with its tokenizer: any copy of sentence-transformers/all-MiniLM-L6-v2, or that name itself",
}
"""Settings that only the user can give, and what to give."""


def spoken_digits(
    *,
    seed: int,
    processors: Mapping[str, str],
    folder: str,
    settings: Data = TWENTY,
    image_noise: float = 0.25,
    audio_snr_db: float = 10.0,
    image_size: int = 0,
    audio_seconds: float = 0.0,
    text_tokens: int = 0,
) -> FederatedData:
    """Which digit is it? Ten classes, three modalities: `image`, `audio`, `text`.

    seed: of noise, partition and which labels are kept. processors: modality -> where its encoder's processor lies.
    folder: with `data.npz` and `index.csv`. image_noise: standard deviation on pixels in [0, 1], which are then cut to that range.
    audio_snr_db: of white noise (inf: none). image_size: pixels a side; 0 for what the processor says. audio_seconds: what a feature
    extractor looks at; 0 for what it says itself. text_tokens: read of a word at most; 0 for as many as the tokenizer takes.
    settings: who holds what; a column that clients can be made by is `speaker`. Evaluation clients are the speakers.

    Errors: ConfigError when a setting is out of range, DataError when a file is missing or a row cannot be used.
    """
    if not image_noise >= 0:
        raise ConfigError(f"image_noise is {image_noise}; it is a standard deviation of pixels in [0, 1] and must be 0 or more")
    if audio_snr_db != audio_snr_db or audio_snr_db == -float("inf"):
        raise ConfigError(f"audio_snr_db is {audio_snr_db}; it is a signal-to-noise ratio in decibels (inf: no noise)")
    place = Path(folder).expanduser()
    rows = read_rows(place / "index.csv", ("digit", "speaker", "word", "split"))
    labels, wrong_labels = classes_of(rows, "digit", len(DIGITS))
    splits, wrong_splits = splits_of(rows)
    images, waves = _read(place / "data.npz", len(rows))
    words = [row["word"] for row in rows]
    every = range(len(rows))
    columns: dict[str, Column] = {
        "image": ImageColumn("image", every, _Noisy(images, image_noise, seed), image_processor(processors, "image", image_size)),
        "audio": _audio(waves, audio_snr_db, seed, processors, audio_seconds),
        "text": TextColumn("word", every, words.__getitem__, text_processor(processors, "text", text_tokens)),
    }
    told = [f"{row['speaker']} says {row['digit']}" for row in rows]
    notes = look_at(columns.values(), str(place), told, [*wrong_labels, *wrong_splits])
    speakers = [row["speaker"] for row in rows]
    evaluators = [f"speaker-{name}" for name in speakers]
    table = Table(DIGITS, columns, torch.tensor(labels), splits, evaluators, notes, groups={"speaker": speakers})
    return spread(table, settings, seed)


def _read(path: Path, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images (R, 28, 28) and waves in [-1, 1]. Errors: DataError for a file that is missing, broken or of another layout."""
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            images, audio, offsets = (arrays[name] for name in ("image", "audio", "audio_offset"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. It should hold the arrays image, audio and audio_offset.") from error
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as the arrays image, audio and audio_offset ({error}). Copy it again.") from error
    if images.shape != (count, SIDE, SIDE) or images.dtype != np.uint8:
        raise DataError(f"{path}: image is {images.dtype} {images.shape}, but index.csv wants uint8 {(count, SIDE, SIDE)}.")
    if audio.ndim != 1 or audio.dtype != np.int16:
        raise DataError(f"{path}: audio is {audio.dtype} {audio.shape}, but it should be int16, all recordings behind each other.")
    if offsets.shape != (count + 1,) or (np.diff(offsets) < 0).any() or offsets[0] != 0 or offsets[-1] != len(audio):
        raise DataError(
            f"{path}: audio_offset should be {count + 1} rising numbers from 0 to the length of audio, {len(audio)}; "
            f"it is {offsets.shape}, {offsets[0] if offsets.size else 'empty'} to {offsets[-1] if offsets.size else 'empty'}."
        )
    return images, [audio[begin:end].astype(np.float32) / 2**15 for begin, end in pairwise(offsets)]


@dataclass(frozen=True)
class _Noisy:
    """Images as a noisy camera gives them: white noise on every pixel, drawn from the seed and the row alone."""

    images: np.ndarray
    sigma: float
    seed: int

    def __call__(self, row: int) -> "Image":
        from PIL import Image

        pixels = torch.from_numpy(self.images[row]).float() / 255
        if self.sigma:
            pixels += self.sigma * torch.randn(SIDE, SIDE, generator=derive(self.seed, "spoken_digits", "image", row))
        return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy()).convert("RGB")


def _audio(waves: list[np.ndarray], snr_db: float, seed: int, processors: Mapping[str, str], seconds: float) -> AudioColumn:
    """The recordings at one level, silence behind them, and white noise over both, drawn from the seed and the row alone."""
    process = audio_processor(processors, "audio", seconds)
    window = -(-process.samples * RATE // process.rate)
    amplitude = LEVEL * 10 ** (-snr_db / 20)

    def disturb(row: int, wave: np.ndarray) -> np.ndarray:
        heard = torch.zeros(window)
        heard[: len(wave)] = LEVEL * torch.from_numpy(wave / max(np.sqrt(np.mean(wave**2)), _QUIETEST))
        if amplitude:
            heard += amplitude * torch.randn(window, generator=derive(seed, "spoken_digits", "audio", row))
        noisy: np.ndarray = heard.numpy()
        return noisy

    def read(row: int, seconds: float) -> Wave:
        return Wave(waves[row][: math.ceil(seconds * RATE)], RATE, len(waves[row]) / RATE)

    return AudioColumn("audio", range(len(waves)), read, process, disturb)
