"""Which rows of a manifest train, validate and test: as a column tells, or drawn. A run and what is made before it draw the same ones."""

from collections.abc import Sequence
from typing import NamedTuple

from m2fedsa.config import Data
from m2fedsa.data.columns import Fault
from m2fedsa.data.manifest.labels import clients_of, drawn_splits, splits_of
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.samples import Split
from m2fedsa.errors import DataError


class Division(NamedTuple):
    """Of each row: what it is for, and whose it is."""

    splits: list[Split]
    clients: list[str | None] | None
    """None where clients are drawn"""
    note: str | None
    """how it was drawn; None where a column tells"""


def divide(rows: Rows, settings: Data, seed: int, faults: list[Fault]) -> Division:
    """Splits and clients of the rows; cells that tell neither become faults."""
    splits = splits_of(rows, settings, faults)
    clients = clients_of(rows, settings, splits, faults)
    if splits is not None:
        return Division(splits, clients, None)
    return Division(_drawn(rows, settings, seed, clients), clients, _how_drawn(settings, clients))


def training_rows(rows: Rows, settings: Data, seed: int) -> tuple[list[int], str | None]:
    """The rows that a run with these settings and this seed trains on, and how they were drawn. Errors: DataError where there is none."""
    faults: list[Fault] = []
    division = divide(rows, settings, seed, faults)
    unusable = {fault.row for fault in faults}
    found = [row for row, split in enumerate(division.splits) if split == "train" and row not in unusable]
    if not found:
        first = f" Row {faults[0].row + 1}, {faults[0].column}: {faults[0].what}." if faults else ""
        raise DataError(f"{rows.source}: not one row is for training. In the column of splits that is `train` or `training`.{first}")
    return found, division.note


def _drawn(rows: Rows, settings: Data, seed: int, clients: Sequence[str | None] | None) -> list[Split]:
    if clients is None and settings.evaluation == "clients":
        return ["train"] * len(rows)  # each client will set its own apart
    return drawn_splits(len(rows), settings, seed, clients)


def _how_drawn(settings: Data, clients: Sequence[str | None] | None) -> str:
    validation, test = settings.held_out
    whose = "of each client's rows" if clients is not None or settings.evaluation == "clients" else "of the rows"
    return f"the manifest has no column split: {validation:.0%} {whose} are drawn for validation and {test:.0%} for test"
