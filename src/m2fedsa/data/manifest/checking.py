"""What a manifest holds, counted: everything is read once, nothing trained.

R rows, M modalities.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m2fedsa.config import Data, Modality
from m2fedsa.data.columns import Fault
from m2fedsa.data.manifest import Reading, read_manifest
from m2fedsa.data.manifest.looking import look_at_columns
from m2fedsa.data.samples import SPLITS, UNLABELLED, Split
from m2fedsa.data.spread import one_class

UNLABELLED_NAME = "no label"


class Lengths(NamedTuple):
    """How long the cells of a modality are."""

    unit: str
    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Twin:
    """A training row and one that is set apart, of the same content."""

    modality: str
    """`all` where all modalities of both rows are the same"""
    first: int
    second: int


@dataclass(frozen=True)
class Checked:
    """Of the rows that can be used, unless said otherwise."""

    reading: Reading
    faults: tuple[Fault, ...]
    """of all rows"""
    notes: tuple[str, ...]
    splits: Mapping[Split, int]
    classes: Mapping[str, Mapping[Split, int]]
    """class, or `no label` -> split -> rows; of a regression the labels alone; of several classes a row counts for each"""
    modalities: Mapping[str, Mapping[Split, int]]
    subsets: Mapping[tuple[str, ...], int]
    """which modalities occur together -> rows"""
    clients: Mapping[str, Mapping[Split, int]]
    """empty where clients are drawn"""
    lengths: Mapping[str, Lengths]
    twins: Sequence[Twin]
    """across splits"""

    @property
    def imbalance(self) -> float | None:
        """Training rows of the largest class over those of the smallest; None without classes."""
        counts = [its.get("train", 0) for name, its in self.classes.items() if name != UNLABELLED_NAME]
        return max(counts) / max(min(counts), 1) if len(counts) > 1 else None


def check_manifest(settings: Data, modalities: Mapping[str, Modality], seed: int, processors: Mapping[str, str], memory: Path) -> Checked:
    """Read everything once. Errors: as `read_manifest`; cells that cannot be used are no error but what is asked for."""
    reading = read_manifest(settings, modalities, seed, processors)
    looks = look_at_columns(settings.model_copy(update={"look": "all"}), reading.rows, reading.columns, memory)
    faults = tuple(sorted([*reading.faults, *(fault for look in looks.values() for fault in look.faults)]))
    notes = (*reading.notes, *(note for look in looks.values() for note in look.notes))
    unusable = {fault.row for fault in faults}
    rows = [row for row in range(len(reading.rows)) if row not in unusable]
    splits = reading.splits
    patterns = Counter(
        tuple(name for name, there in zip(reading.columns, reading.presence[row].tolist(), strict=True) if there) for row in rows
    )
    held: dict[str, Counter[Split]] = {name: Counter() for name in reading.columns}
    owned: dict[str, Counter[Split]] = {}
    for row in rows:
        for name, there in zip(reading.columns, reading.presence[row].tolist(), strict=True):
            held[name][splits[row]] += there
        owner = None if reading.clients is None else reading.clients[row]
        if owner is not None:
            owned.setdefault(owner, Counter())[splits[row]] += 1
    lengths = {
        name: Lengths(reading.columns[name].unit, *(float(value) for value in np.quantile(look.lengths, (0, 0.5, 1))))
        for name, look in looks.items()
        if len(look.lengths)
    }
    return Checked(
        reading,
        faults,
        (*notes, *_one_class(reading, rows, settings)),
        Counter(splits[row] for row in rows),
        _classes(reading, rows, settings),
        held,
        dict(patterns.most_common()),
        dict(sorted(owned.items())),
        lengths,
        tuple(_twins(reading, modalities, rows)),
    )


def _one_class(reading: Reading, rows: Sequence[int], settings: Data) -> tuple[str, ...]:
    """What a run would note of clients that know one class only."""
    if reading.clients is None or settings.task != "single_label":
        return ()
    known: dict[str, set[int]] = {}
    for row in rows:
        owner, label = reading.clients[row], int(reading.labels[row])
        if owner is not None and reading.splits[row] == "train":
            known.setdefault(owner, set()).update({label} - {UNLABELLED})
    return one_class([f"{name} ({reading.classes[min(own)]})" for name, own in sorted(known.items()) if len(own) == 1], len(known))


def _classes(reading: Reading, rows: Sequence[int], settings: Data) -> dict[str, Counter[Split]]:
    found: dict[str, Counter[Split]] = {name: Counter() for name in (*reading.classes, UNLABELLED_NAME)}
    for row in rows:
        label: Any = reading.labels[row].tolist()
        if settings.task == "single_label":
            names = [UNLABELLED_NAME if label < 0 else reading.classes[label]]
        elif settings.task == "multi_label":
            names = [UNLABELLED_NAME] if label[0] < 0 else [reading.classes[place] for place, one in enumerate(label) if one]
        else:
            names = [UNLABELLED_NAME] if label[0] != label[0] else list(reading.classes)
        for name in names:
            found[name][reading.splits[row]] += 1
    if not found[UNLABELLED_NAME]:
        del found[UNLABELLED_NAME]
    return found


def _twins(reading: Reading, modalities: Mapping[str, Modality], rows: Sequence[int]) -> Iterator[Twin]:
    """Rows of different splits with the same content, each once: by modality, and `all` for whole rows."""
    order = {split: place for place, split in enumerate(SPLITS)}
    known: dict[str, dict[bytes, int]] = {name: {} for name in (*reading.columns, "all")}
    for row in sorted(rows, key=lambda row: order[reading.splits[row]]):
        parts = {}
        for name, there in zip(reading.columns, reading.presence[row].tolist(), strict=True):
            if there:
                parts[name] = _content(reading, name, modalities[name], row)
        whole = hashlib.sha256(b"".join(name.encode() + digest for name, digest in parts.items())).digest()
        for name, digest in (*parts.items(), ("all", whole)):
            first = known[name].setdefault(digest, row)
            if reading.splits[first] != reading.splits[row]:
                yield Twin(name, first, row)


def _content(reading: Reading, name: str, settings: Modality, row: int) -> bytes:
    """A digest of a cell: of the file's bytes, of a text in small letters without needless space, of the cells of a record."""
    from m2fedsa.data.columns.tables import TabularColumn
    from m2fedsa.data.manifest.modalities import source_of

    rows, column = reading.rows, reading.columns[name]
    if isinstance(column, TabularColumn):
        return hashlib.sha256(repr(rows.records(column.process.names, [row])).encode()).digest()
    cell = rows.cell(settings.column or name, row)
    if settings.kind == "text" or isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip().startswith("[")):
        return hashlib.sha256(" ".join(str(cell).lower().split()).encode()).digest()
    source = source_of(rows, settings.column or name, row)
    part = [rows.cell(str(settings.options[key]), row) for key in ("begin", "end") if key in settings.options]
    content = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha256(repr(part).encode() + content).digest()
