"""Columns of a table that are read from people's own files: decoded when asked for, looked at once before a run begins.

R rows of the table, N samples of a client, M modalities, L tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from m2fedsa.data.processors import Inputs
from m2fedsa.errors import DataError

TOLD = 20
"""Faults that a message names."""
THREADS = 4
"""That look at files at once; decoders let each other run."""
_PART = 64
"""Rows that a thread takes at a time."""


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
    lengths: Sequence[float] = ()
    """of the sound cells, in the column's unit"""


class Column(Protocol):
    """One modality of all rows that have it."""

    @property
    def unit(self) -> str:
        """What the length of a cell is counted in: seconds, tokens, pixels."""

    def inputs(self, rows: Tensor) -> Inputs:
        """The encoder's arguments for these rows (int64, each has the modality), of the same shape whatever rows are asked for together.

        From several threads at once. Errors: DataError for a cell that cannot be read.
        """

    def look(self, *, deep: bool = True) -> Look:
        """Look at every row once: decode it, or only its head where `deep` is false and there is one."""


Found = TypeVar("Found")


def looked(name: str, rows: Sequence[int], look: Callable[[int], Found]) -> tuple[list[Fault], list[tuple[int, Found]]]:
    """`look` at each row, in several threads: the rows that raise `DataError`, and what was found of the others, both in order."""
    faults: list[Fault] = []
    sound: list[tuple[int, Found]] = []

    def part(few: Sequence[int]) -> list[tuple[int, Found | DataError]]:
        return [(row, _tried(look, row)) for row in few]

    with ThreadPoolExecutor(THREADS) as pool:
        for row, found in (one for few in pool.map(part, _parts(rows)) for one in few):
            if isinstance(found, DataError):
                faults.append(Fault(row, name, str(found)))
            else:
                sound.append((row, found))
    return faults, sound


def each(name: str, rows: Tensor, read: Callable[[int], Found]) -> list[Found]:
    """`read` of each row (int64). `DataError` says which row of which column cannot be read."""
    found = []
    for row in rows.tolist():
        try:
            found.append(read(row))
        except DataError as error:
            raise DataError(f"row {row + 1}, {name}: {error}") from error
    return found


def _tried(look: Callable[[int], Found], row: int) -> Found | DataError:
    try:
        return look(row)
    except DataError as error:
        return error


def _parts(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(rows), _PART):
        yield rows[begin : begin + _PART]


def look_at(
    columns: Iterable[Column], source: str, labelled: Sequence[str], before: Sequence[Fault] = (), *, deep: bool = True
) -> tuple[str, ...]:
    """Look at all columns; the notes. `DataError` names the first twenty cells that cannot be used.

    source: the file, for the message. labelled: how each row is known to people. before: faults that were found earlier. deep: see
    `Column.look`.
    """
    looks = [column.look(deep=deep) for column in columns]
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
