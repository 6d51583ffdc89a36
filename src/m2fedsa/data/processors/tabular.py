"""Records: numbers and categories. N items, C columns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from m2fedsa.data.processors import Inputs, place_of, settings_beside
from m2fedsa.errors import ConfigError, DataError

KIND = "m2fedsa.tabular"
"""In preprocessor_config.json, beside encoders that this package makes."""
MISSING, NUMBER, OTHER, FIRST_CATEGORY = 0, 1, 2, 3
"""Codes of a cell: empty; a number; a category that the encoder was made without; and from here on those that it knows."""

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers."""

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True)
class CategoryColumn:
    """A column of names."""

    name: str
    first: int
    """code of the first category"""
    categories: tuple[str, ...]
    codes: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", {name: self.first + place for place, name in enumerate(self.categories)})


@dataclass(frozen=True)
class TabularProcessor:
    """Records as one code and one number a column."""

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    def __call__(self, records: Sequence[Sequence[Cell]]) -> Inputs:
        """{`codes`: (N, C) int64, `values`: (N, C) on the scale of each column, 0 where there is no number} of cells in the columns'
        order."""
        codes_NC = torch.full((len(records), len(self.columns)), MISSING)
        values_NC = torch.zeros(len(records), len(self.columns))
        for row, record in enumerate(records):
            for place, (column, cell) in enumerate(zip(self.columns, record, strict=True)):
                if is_empty(cell):
                    continue
                if isinstance(column, NumberColumn):
                    codes_NC[row, place] = NUMBER
                    values_NC[row, place] = (number(cell) - column.mean) / column.deviation
                else:
                    codes_NC[row, place] = column.codes.get(category(cell), OTHER)
        return {"codes": codes_NC, "values": values_NC}


def is_empty(cell: Cell) -> bool:
    """Whether there is nothing in it."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def number(cell: Cell) -> float:
    """A cell as a number. Errors: DataError for one that is none, NaN, or infinite."""
    try:
        value = float("" if cell is None else cell)
    except (TypeError, ValueError) as error:
        raise DataError(f"{cell!r} is not a number") from error
    if not math.isfinite(value):
        raise DataError(f"{cell!r} is not a finite number; leave the cell empty if nothing was measured")
    return value


def is_number(cell: Cell) -> bool:
    """Whether `number` takes it."""
    try:
        number(cell)
    except DataError:
        return False
    return True


def category(cell: Cell) -> str:
    """A cell as a name: 3, 3.0 and "3" are the same."""
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell).strip()


def tabular_processor(processors: Mapping[str, str], modality: str) -> TabularProcessor:
    """The columns that a modality's encoder was made for. Errors: ConfigError where it was made for something else."""
    saved = settings_beside(processors, modality, KIND)
    if "columns" not in saved:
        raise ConfigError(
            f"modalities.{modality}.encoder = {place_of(processors, modality)!r} is no encoder of records. Make one with "
            "`m2fedsa encoder tabular`."
        )
    return TabularProcessor(columns_of(saved["columns"]))


def columns_of(saved: Sequence[Mapping[str, Any]]) -> tuple[NumberColumn | CategoryColumn, ...]:
    """Columns from what preprocessor_config.json says of them."""
    found: list[NumberColumn | CategoryColumn] = []
    first = FIRST_CATEGORY
    for one in saved:
        if "categories" in one:
            found.append(CategoryColumn(one["name"], first, tuple(one["categories"])))
            first += len(one["categories"])
        else:
            found.append(NumberColumn(one["name"], float(one["mean"]), float(one["deviation"])))
    return tuple(found)
