"""Texts, records and series."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from m2fedsa.data.columns import Fault, Look, each, looked
from m2fedsa.data.processors import Inputs
from m2fedsa.data.processors.series import SeriesProcessor
from m2fedsa.data.processors.tabular import CategoryColumn, Cell, TabularProcessor, category, is_empty, number
from m2fedsa.data.processors.words import Words
from m2fedsa.errors import DataError

_TOGETHER = 1024
"""Texts that are measured, and records that are read, at once."""


class TextColumn:
    """Texts. Their lengths are measured when the column is made, so that all are padded to the longest."""

    unit = "tokens"

    def __init__(self, name: str, rows: Sequence[int], text: Callable[[int], str], process: Words) -> None:
        """rows: that have a text. text: of a row."""
        self.name, self.rows, self._text, self._process = name, rows, text, process
        self._tokens = np.zeros(len(rows), np.int32)
        self._blank: list[int] = []
        for begin in range(0, len(rows), _TOGETHER):
            part = rows[begin : begin + _TOGETHER]
            for place, (row, length) in enumerate(zip(part, process.lengths([text(row) for row in part]), strict=True), begin):
                self._tokens[place] = length.tokens
                if length.blank:
                    self._blank.append(row)
        self.width = min(process.limit, int(self._tokens.max(initial=1)))
        """L, of all texts together"""

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self._process([self._text(row) for row in rows.tolist()], self.width)

    def look(self, *, deep: bool = True) -> Look:  # noqa: ARG002  (a text has no head)
        """Texts that are empty or without a token; and how many lose their end."""
        faults = []
        for row in self._blank:
            text = self._text(row)
            faults.append(Fault(row, self.name, f"the tokenizer finds nothing in it: {text!r}" if text.strip() else "the text is empty"))
        long = int((self._tokens > self._process.limit).sum())
        told = (
            f"{self.name}: {long:,} of {len(self.rows):,} texts are longer than {self._process.limit} tokens; what comes later is not read"
        )
        return Look(tuple(faults), (told,) if long else (), self._tokens.tolist())


@dataclass(frozen=True)
class TabularColumn:
    """Records."""

    rows: Sequence[int]
    """that have one filled cell at least"""
    records: Callable[[Sequence[int]], Sequence[Sequence[Cell]]]
    """rows -> of each the cells in the order of the processor's columns"""
    process: TabularProcessor
    unit = "filled cells"

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process(self.records(rows.tolist()))

    def look(self, *, deep: bool = True) -> Look:  # noqa: ARG002  (a record has no head)
        """Cells that should be numbers and are none; and how many categories the encoder was made without."""
        faults: list[Fault] = []
        lengths, others = [], dict.fromkeys(self.process.names, 0)
        for row, record in self._all():
            filled = 0
            for column, cell in zip(self.process.columns, record, strict=True):
                if is_empty(cell):
                    continue
                filled += 1
                if isinstance(column, CategoryColumn):
                    others[column.name] += category(cell) not in column.codes
                    continue
                try:
                    number(cell)
                except DataError as error:
                    faults.append(Fault(row, column.name, str(error)))
            lengths.append(filled)
        notes = [f"{name}: {count:,} rows have a category that the encoder was made without" for name, count in others.items() if count]
        return Look(tuple(faults), tuple(notes), lengths)

    def _all(self) -> Iterator[tuple[int, Sequence[Cell]]]:
        for begin in range(0, len(self.rows), _TOGETHER):
            part = self.rows[begin : begin + _TOGETHER]
            yield from zip(part, self.records(part), strict=True)


@dataclass(frozen=True)
class SeriesColumn:
    """Series of readings."""

    name: str
    rows: Sequence[int]
    read: Callable[[int], np.ndarray]
    """row -> (T, C) float32; `DataError` says why there is none"""
    process: SeriesProcessor
    unit = "readings"

    def inputs(self, rows: Tensor) -> Inputs:
        """See `Column.inputs`."""
        return self.process(each(self.name, rows, self.read))

    def look(self, *, deep: bool = True) -> Look:  # noqa: ARG002  (arrays are read in no time)
        """Series of another number of channels than the encoder takes; and how many lose their end."""
        faults, lengths = looked(self.name, self.rows, self._readings)
        wanted = self.process.length
        long = sum(length > wanted for _, length in lengths)
        told = f"{self.name}: {long:,} of {len(self.rows):,} series are longer than {wanted} readings; what comes later is not read"
        return Look(tuple(faults), (told,) if long else (), [length for _, length in lengths])

    def _readings(self, row: int) -> int:
        found = self.read(row)
        if found.shape[1] != self.process.channels:
            raise DataError(f"the series has {found.shape[1]} channels, but the encoder takes {self.process.channels}")
        return len(found)
