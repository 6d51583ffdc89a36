"""An encoder of records: the columns of a manifest with their scale and categories, and weights that guess hidden cells.

R rows, C columns, K codes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.tabular import (
    FIRST_CATEGORY,
    KIND,
    NUMBER,
    CategoryColumn,
    NumberColumn,
    TabularProcessor,
    category,
    columns_of,
    is_empty,
    number,
)
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.models.tabular import TabularConfig, TabularModel
from m2fedsa.pretraining import Made, Recipe, write_encoder
from m2fedsa.pretraining.steps import Guess, pretrain
from m2fedsa.seeding import derive_seed

MOST_CATEGORIES = 256
"""Of a column; rarer ones are not known to the encoder."""
_HEADS, _WIDER = 4, 2
_TOGETHER = 1024


def make_tabular(rows: Rows, used: Sequence[int], names: Sequence[str], categorical: Sequence[str], recipe: Recipe, folder: Path) -> Made:
    """Make an encoder of the columns `names` from the rows `used`, and write it to `folder`.

    categorical: columns whose numbers are names. Errors: DataError for a cell that is no number in a column of numbers, ConfigError for a
    column without any cell, or a width that the heads do not divide.
    """
    if recipe.width % _HEADS:
        raise ConfigError(f"--width {recipe.width}: the width is divided among {_HEADS} heads; choose a multiple of {_HEADS}")
    facts: dict[str, Any] = {"processor_class": KIND, "columns": [_column(rows, used, name, categorical) for name in names]}
    columns = columns_of(facts["columns"])
    process = TabularProcessor(columns)
    codes = max([NUMBER + 1, *(one.first + len(one.categories) - 1 for one in columns if isinstance(one, CategoryColumn))]) + 1
    config = TabularConfig(
        num_columns=len(columns),
        num_codes=codes + 1,  # the last is that of hidden cells
        hidden_size=recipe.width,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=_HEADS,
        intermediate_size=_WIDER * recipe.width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "encoder", "tabular"))
        model, guess = TabularModel(config), _Cells(columns, config)
    parts = [process(rows.records(process.names, used[begin : begin + _TOGETHER])) for begin in range(0, len(used), _TOGETHER)]
    inputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    first, last = pretrain(model, guess, inputs, recipe)
    told = {"rows": len(used), **asdict(recipe), "error_before": first, "error_after": last}
    write_encoder(model, facts, folder, told)
    return Made(folder, sum(one.numel() for one in model.parameters()), len(used), facts, first, last)


def _column(rows: Rows, used: Sequence[int], name: str, categorical: Sequence[str]) -> dict[str, Any]:
    """What the processor has to know of a column."""
    cells = [(row, cell) for row, (cell,) in zip(used, rows.records([name], used), strict=True) if not is_empty(cell)]
    if not cells:
        raise DataError(f"{rows.source}: the column {name!r} has nothing in it. Leave it out.")
    numbers = [] if name in categorical else _numbers(cells)
    if len(numbers) == len(cells):
        values = torch.tensor(numbers, dtype=torch.float64)
        deviation = float(values.std(correction=0))
        return {"name": name, "mean": float(values.mean()), "deviation": deviation or 1.0}
    if len(numbers) > len(cells) / 2:
        row, cell = next((row, cell) for row, cell in cells if not _numbers([(row, cell)]))
        raise DataError(
            f"{rows.source}: row {row + 1}, {name}: {cell!r} is not a number, but most of this column are. Mend it, or name "
            f"the column with --categorical {name}."
        )
    counted = Counter(category(cell) for _, cell in cells)
    return {"name": name, "categories": sorted(one for one, _ in counted.most_common(MOST_CATEGORIES))}


def _numbers(cells: Sequence[tuple[int, Any]]) -> list[float]:
    found = []
    for _, cell in cells:
        try:
            found.append(number(cell))
        except DataError:
            continue
    return found


class _Cells(Guess):
    """Hidden cells: their category, or their value."""

    def __init__(self, columns: Sequence[NumberColumn | CategoryColumn], config: TabularConfig) -> None:
        super().__init__()
        self.mask = config.num_codes - 1
        self.codes = nn.Linear(config.hidden_size, config.num_codes)
        self.values = nn.Linear(config.hidden_size, config.num_columns)
        self.numbers = torch.tensor([isinstance(column, NumberColumn) for column in columns])
        # A guess is among the categories of the column alone.
        allowed = torch.full((len(columns), config.num_codes), float("-inf"))
        for place, column in enumerate(columns):
            if isinstance(column, CategoryColumn):
                allowed[place, column.first : column.first + len(column.categories)] = 0.0
            else:
                allowed[place, NUMBER] = 0.0
        self.allowed = allowed

    def error(self, model: nn.Module, inputs: dict[str, Tensor], share: float, generator: torch.Generator) -> Tensor:
        """Cross-entropy of categories and squared error of values, the mean over the hidden cells."""
        codes_BC, values_BC = inputs["codes"], inputs["values"]
        known = (codes_BC == NUMBER) | (codes_BC >= FIRST_CATEGORY)
        hidden = known & (torch.rand(codes_BC.shape, generator=generator) < share)
        state_BCD = model(codes=codes_BC.masked_fill(hidden, self.mask), values=values_BC.masked_fill(hidden, 0.0)).last_hidden_state
        value_BC = torch.diagonal(self.values(state_BCD), dim1=1, dim2=2)
        squared = functional.huber_loss(value_BC, values_BC, reduction="none")
        logits = self.codes(state_BCD) + self.allowed
        crossed = functional.cross_entropy(logits.transpose(1, 2), codes_BC.clamp(min=NUMBER), reduction="none")
        each = torch.where(self.numbers, squared, crossed)
        return torch.where(hidden, each, 0.0).sum() / hidden.sum().clamp(min=1)
