"""Columns of a table that are read from people's own files: decoded when asked for, looked at once before a run begins.

R rows of the table, N samples of a client, M modalities, L tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from m2fedsa.data.processing import AudioProcessor, ImageProcessor, Inputs, TextProcessor
from m2fedsa.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

TOLD = 20
"""Faults that a message names."""


class Fault(NamedTuple):
    """A cell that cannot be used."""

    row: int
    """from 0"""
    column: str
    what: str


class Look(NamedTuple):
    """What a look at all rows found."""

    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    """what happens to sound cells and people should know, e.g. that long ones lose their end"""


class Column(Protocol):
    """One modality of all rows."""

    def inputs(self, rows: Tensor) -> Inputs:
        """The encoder's arguments for these rows (int64), of the same shape whatever rows are asked for together."""

    def look(self) -> Look:
        """Read every row once."""


@dataclass(frozen=True)
class ImageColumn:
    """Pictures."""

    name: str
    count: int
    read: "Callable[[int], Image]"
    """row -> RGB; `DataError` says why there is none"""
    process: ImageProcessor

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process([self.read(row) for row in rows.tolist()])

    def look(self) -> Look:
        """Every picture is decoded once, and none is kept."""
        faults = []
        for row in range(self.count):
            try:
                self.read(row)
            except DataError as error:
                faults.append(Fault(row, self.name, str(error)))
        return Look(tuple(faults))


def read_image(path: Path) -> "Image":
    """An image file as RGB. Errors: DataError for one that is missing, empty, without pixels, cut short, too large, or no image."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: this is no image that can be read: of no known kind, or without pixels") from error
    # Decoders of single formats let all of these out of a broken file.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be decoded ({str(error).rstrip('.')})") from error


@dataclass(frozen=True)
class AudioColumn:
    """Recordings."""

    name: str
    waves: Sequence[np.ndarray]
    """of each row, mono, float32"""
    rate: int
    """samples a second of `waves`"""
    process: AudioProcessor
    disturb: Callable[[int, np.ndarray], np.ndarray] | None = None
    """row and what the processor will look at of its wave -> what it is given instead"""

    @property
    def window(self) -> int:
        """Samples of a wave that the processor looks at."""
        return -(-self.process.samples * self.rate // self.process.rate)

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process([self._heard(row) for row in rows.tolist()])

    def _heard(self, row: int) -> np.ndarray:
        wave = self.waves[row][: self.window]
        if self.disturb is not None:
            wave = self.disturb(row, wave)
        if self.rate != self.process.rate:
            import soxr

            wave = soxr.resample(wave, self.rate, self.process.rate)
        return wave[: self.process.samples]

    def look(self) -> Look:
        """Recordings that are empty, silent or not finite; and how many lose their end."""
        faults, long = [], 0
        for row, wave in enumerate(self.waves):
            long += len(wave) > self.window
            if what := _unsound(wave):
                faults.append(Fault(row, self.name, what))
        seconds = f"{self.window / self.rate:.3g} s"
        told = f"{self.name}: {long:,} of {len(self.waves):,} recordings are longer than {seconds}; what comes later is not heard"
        return Look(tuple(faults), (told,) if long else ())


def _unsound(wave: np.ndarray) -> str:
    """Why a recording cannot be used; empty for one that can."""
    if len(wave) == 0:
        return "the recording is empty (0 samples)"
    if not np.isfinite(wave).all():
        return "the recording has values that are not finite"
    return "" if np.ptp(wave) > 0 else "the recording is silent: all its samples are equal"


class TextColumn:
    """Texts, tokenised at once."""

    def __init__(self, name: str, texts: Sequence[str], process: TextProcessor) -> None:
        self.name = name
        self._texts = texts
        self._tokens = process(texts)

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return {name: value[rows] for name, value in self._tokens.inputs.items()}

    def look(self) -> Look:
        """Texts that are empty or without a token; and how many lose their end."""
        faults = [Fault(row, self.name, "the text is empty") for row, text in enumerate(self._texts) if not text.strip()]
        empty = {fault.row for fault in faults}
        unread = "the tokenizer finds nothing in it: {!r}"
        faults += [Fault(row, self.name, unread.format(self._texts[row])) for row in self._tokens.blank if row not in empty]
        long = len(self._tokens.cut)
        told = (
            f"{self.name}: {long:,} of {len(self._texts):,} texts are longer than {self._tokens.limit} tokens; what comes later is not read"
        )
        return Look(tuple(sorted(faults)), (told,) if long else ())


def look_at(columns: Iterable[Column], source: str, labelled: Sequence[str], before: Sequence[Fault] = ()) -> tuple[str, ...]:
    """Look at all columns; the notes. `DataError` names the first twenty cells that cannot be used.

    source: the file, for the message. labelled: how each row is known to people. before: faults that were found earlier.
    """
    looks = [column.look() for column in columns]
    faults = sorted([*before, *(fault for look in looks for fault in look.faults)])
    if not faults:
        return tuple(note for look in looks for note in look.notes)
    rows = len({fault.row for fault in faults})
    more = [f"and {len(faults) - TOLD:,} more"] if len(faults) > TOLD else []
    told = [f"row {fault.row + 1} ({labelled[fault.row]}), {fault.column}: {fault.what}" for fault in faults[:TOLD]]
    first = f"{source}: {rows:,} of {len(labelled):,} rows cannot be used; mend them or take them out. Nothing was trained."
    raise DataError("\n       ".join([first, *told, *more]))


@dataclass(frozen=True)
class ColumnSamples:
    """Samples of one client that are rows of shared columns."""

    columns: Mapping[str, Column]
    indices: Tensor
    """(N,) int64: the rows of `columns` that are this client's"""
    labels: Tensor
    presence: Tensor
    modalities: tuple[str, ...]

    def inputs(self, modality: str, rows: Tensor) -> Inputs:
        """See `Samples.inputs`."""
        return self.columns[modality].inputs(self.indices[rows])
