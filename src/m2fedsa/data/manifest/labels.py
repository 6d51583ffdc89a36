"""What a manifest tells of its rows beside the modalities: labels, splits, clients, names. Each cell that cannot be used is a fault.

R rows, K classes or targets.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2fedsa.config import Data
from m2fedsa.data.columns import Fault
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.tabular import category, is_empty, is_number, number
from m2fedsa.data.samples import UNLABELLED, Split
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.seeding import derive

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
BETWEEN = ";"
"""Names of classes in one cell."""
EVALUATION = "evaluation"
"""The client of what is set apart and nobody's."""
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")


def named(rows: Rows, told: str | None, default: str) -> str | None:
    """The column that the settings name, or the one of the default name; None without one. `DataError` if it was told and is not there."""
    if told is not None:
        return rows.require(told, f"data.columns.{default}")
    return default if default in rows.names else None


def splits_of(rows: Rows, settings: Data, faults: list[Fault]) -> list[Split] | None:
    """The split of each row; None where no column tells it."""
    column = named(rows, settings.columns.split, "split")
    if column is None:
        return None
    found: list[Split] = []
    for row, cell in enumerate(rows.column(column)):
        name = "" if cell is None else str(cell).strip().lower()
        if name not in SPLIT_NAMES:
            near = difflib.get_close_matches(name, SPLIT_NAMES, n=1)
            told = "is empty" if not name else f"{cell!r} is no split"
            faults.append(Fault(row, column, f"{told}; {f'did you mean {near[0]}?' if near else 'write train, validation or test'}"))
        found.append(SPLIT_NAMES.get(name, "train"))
    return found


def drawn_splits(count: int, settings: Data, seed: int, clients: Sequence[str | None] | None) -> list[Split]:
    """Splits in the shares of `held_out`, of all rows or of each client's."""
    groups: dict[str | None, list[int]] = {}
    for row in range(count):
        groups.setdefault(None if clients is None else clients[row], []).append(row)
    splits: list[Split] = ["train"] * count
    for name, own in groups.items():
        order = torch.randperm(len(own), generator=derive(seed, "manifest", "split", name or "")).tolist()
        validation, test = (min(round(share * len(own)), (len(own) - 1) // 2) for share in settings.held_out)
        for place, drawn in enumerate(order[: validation + test]):
            splits[own[drawn]] = "validation" if place < validation else "test"
    return splits


def clients_of(rows: Rows, settings: Data, splits: Sequence[Split] | None, faults: list[Fault]) -> list[str | None] | None:
    """Whose each row is; None where no column tells it. What is set apart and nobody's is the client's `evaluation`."""
    column = named(rows, settings.columns.client, "client")
    if column is None:
        return None
    names: dict[str, str] = {}
    found: list[str | None] = []
    for row, cell in enumerate(rows.column(column)):
        if cell is None:
            if splits is None or splits[row] == "train":
                faults.append(Fault(row, column, "is empty; a row of a training split belongs to somebody"))
            found.append(EVALUATION)
            continue
        told = category(cell)
        name = _FOREIGN.sub("-", told).strip("-._")
        if not name:
            faults.append(Fault(row, column, f"{told!r} has no letter or digit to call the client by"))
        elif names.setdefault(name, told) != told:
            faults.append(Fault(row, column, f"{told!r} and {names[name]!r} would both be the client {name}; rename one"))
        found.append(name or None)
    return found


def ids_of(rows: Rows, settings: Data, faults: list[Fault]) -> str | None:
    """The column by which people know a row. A row without a name is a fault, and of two rows of one name the second."""
    column = named(rows, settings.columns.id, "id")
    if column is not None:
        first: dict[str, int] = {}
        for row, cell in enumerate(rows.column(column)):
            if cell is None:
                faults.append(Fault(row, column, "is empty; give the row a name that no other has"))
                continue
            name = category(cell)
            if name in first:
                faults.append(Fault(row, column, f"{name!r} is the {column} of row {first[name] + 1} as well"))
            first.setdefault(name, row)
    return column


class Labels(NamedTuple):
    """What is to be told of the rows."""

    classes: tuple[str, ...]
    labels: Tensor
    """(R,) or (R, K), as `Samples.labels`"""
    notes: tuple[str, ...] = ()


def labels_of(rows: Rows, settings: Data, splits: Sequence[Split], faults: list[Fault]) -> Labels:
    """Labels as `data.task` wants them. Errors: DataError where there is no such column, or no labelled training row."""
    told = settings.columns.label
    columns = [rows.require(name, "data.columns.label") for name in ([told] if isinstance(told, str) else told or ())]
    if not columns:
        default = named(rows, None, "label")
        if default is None:
            raise DataError(
                f"{rows.source}: no column is called label. Name the one that is to be predicted with data.columns.label; there are "
                f"{', '.join(rows.names)}."
            )
        columns = [default]
    if settings.task == "regression":
        return _numbers(rows, columns, faults)
    if settings.task == "multi_label":
        return _several(rows, columns, settings, splits, faults)
    if len(columns) > 1:
        raise ConfigError(f'data.columns.label = {columns}, but with data.task = "single_label" it is one column.')
    return _single(rows, columns[0], settings, splits, faults)


def _single(rows: Rows, column: str, settings: Data, splits: Sequence[Split], faults: list[Fault]) -> Labels:
    cells = [None if cell is None else category(cell) for cell in rows.column(column)]
    trained = Counter(cell for cell, split in zip(cells, splits, strict=True) if split == "train" and cell is not None)
    classes = _classes(rows, column, settings, trained)
    place = {name: number for number, name in enumerate(classes)}
    labels = torch.full((len(cells),), UNLABELLED)
    amounts = not settings.classes and len(trained) > max(_MANY, sum(trained.values()) / 2) and all(map(is_number, trained))
    for row, cell in enumerate(cells):
        if cell is not None and cell not in place:
            told = f"{cell!r} is the label of no training row; {_AMOUNTS}" if amounts else _outside(cell, classes, settings)
            faults.append(Fault(row, column, told))
        elif cell is not None:
            labels[row] = place[cell]
    return Labels(classes, labels, _untrained(classes, trained))


_MANY = 10
_AMOUNTS = 'most labels are different numbers: if they are amounts and no classes, set data.task = "regression"'


def _several(rows: Rows, columns: Sequence[str], settings: Data, splits: Sequence[Split], faults: list[Fault]) -> Labels:
    """Names in one column, or a column of 0 and 1 for each class."""
    if len(columns) > 1:
        labels = torch.full((len(rows), len(columns)), UNLABELLED)
        for place, column in enumerate(columns):
            for row, cell in enumerate(rows.column(column)):
                if is_empty(cell):
                    continue
                if category(cell).lower() not in _TRUTH:
                    faults.append(Fault(row, column, f"{cell!r} is neither 0 nor 1"))
                labels[row, place] = _TRUTH.get(category(cell).lower(), 0)
        _complete(labels == UNLABELLED, labels, columns, faults)
        return Labels(tuple(columns), labels)
    cells = [_names_in(cell) for cell in rows.column(columns[0])]
    trained = Counter(name for own, split in zip(cells, splits, strict=True) if split == "train" for name in own or ())
    classes = _classes(rows, columns[0], settings, trained)
    places = {name: number for number, name in enumerate(classes)}
    labels = torch.full((len(cells), len(classes)), UNLABELLED)
    for row, own in enumerate(cells):
        if own is None:
            continue
        labels[row] = 0
        for name in own:
            if name not in places:
                faults.append(Fault(row, columns[0], _outside(name, classes, settings)))
            else:
                labels[row, places[name]] = 1
    return Labels(classes, labels, _untrained(classes, trained))


_TRUTH = {"0": 0, "1": 1, "false": 0, "true": 1}


def _names_in(cell: Any) -> list[str] | None:
    if cell is None:
        return None
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError):
            cell = json.loads(cell)
    parts: Iterable[Any] = cell if isinstance(cell, list) else str(cell).split(BETWEEN)
    return [category(part) for part in parts if not is_empty(part)]


def _numbers(rows: Rows, columns: Sequence[str], faults: list[Fault]) -> Labels:
    labels = torch.full((len(rows), len(columns)), float("nan"))
    for place, column in enumerate(columns):
        for row, cell in enumerate(rows.column(column)):
            if is_empty(cell):
                continue
            try:
                labels[row, place] = number(cell)
            except DataError as error:
                faults.append(Fault(row, column, str(error)))
                labels[row, place] = 0.0
    _complete(labels.isnan(), labels, columns, faults)
    return Labels(tuple(columns), labels)


def _complete(empty_RK: Tensor, labels_RK: Tensor, columns: Sequence[str], faults: list[Fault]) -> None:
    """A row has all of its labels or none; in place, one that has some becomes a fault."""
    for row in (empty_RK.any(1) & ~empty_RK.all(1)).nonzero()[:, 0].tolist():
        missing = columns[int(empty_RK[row].nonzero()[0])]
        faults.append(Fault(row, missing, "is empty, but other labels of this row are not; fill all or none"))
        labels_RK[row] = 0


def _classes(rows: Rows, column: str, settings: Data, trained: Counter[str]) -> tuple[str, ...]:
    if settings.classes:
        return settings.classes
    if column in rows.classes:
        return tuple(rows.classes[column])
    if not trained:
        raise DataError(f"{rows.source}: no training row has a label in the column {column!r}.")
    return tuple(sorted(trained, key=lambda name: (not _is_whole(name), int(name) if _is_whole(name) else 0, name)))


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isascii() and name.removeprefix("-").isdigit()


def _outside(name: str, classes: Sequence[str], settings: Data) -> str:
    near = difflib.get_close_matches(name, classes, n=1)
    advice = f"; did you mean {near[0]!r}?" if near else ""
    if settings.classes:
        return f"{name!r} is none of data.classes{advice}"
    return f"{name!r} is the label of no training row{advice}"


def _untrained(classes: Sequence[str], trained: Counter[str]) -> tuple[str, ...]:
    absent = [name for name in classes if not trained[name]]
    return (f"no training row has the label {', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}",) if absent else ()
