"""Samples of one's own: a manifest whose rows are samples and whose columns are modalities, labels, clients and splits.

R rows of the manifest, M modalities, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m2fedsa.config import Data, Modality
from m2fedsa.data.columns import TOLD, Column, Fault, Look
from m2fedsa.data.holdings import draw_presence, rates_of
from m2fedsa.data.manifest.dividing import divide
from m2fedsa.data.manifest.labels import EVALUATION, ids_of, labels_of
from m2fedsa.data.manifest.looking import look_at_columns
from m2fedsa.data.manifest.modalities import modalities_of
from m2fedsa.data.manifest.opening import read_rows
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.samples import SPLITS, ClientData, FederatedData, Samples, Split
from m2fedsa.data.spread import Table, keep_labels, spread, with_notes
from m2fedsa.errors import DataError
from m2fedsa.seeding import derive

_FIRST_FEW = 3


@dataclass(frozen=True)
class Reading:
    """A manifest as the settings understand it. Nothing is decoded yet."""

    rows: Rows
    columns: Mapping[str, Column]
    presence: Tensor
    """(R, M) bool"""
    classes: tuple[str, ...]
    labels: Tensor
    """(R,) or (R, K), as `Samples.labels`"""
    splits: Sequence[Split]
    clients: Sequence[str | None] | None
    """of each row; None where clients are drawn"""
    identity: str | None
    """the column by which people know a row"""
    faults: tuple[Fault, ...]
    """of all that is no modality"""
    notes: tuple[str, ...]

    def told(self, fault: Fault) -> str:
        """A fault as people read it."""
        name = None if self.identity is None else self.rows.cell(self.identity, fault.row)
        return f"row {fault.row + 1}{'' if name is None else f' ({name})'}, {fault.column}: {fault.what}"


def read_manifest(settings: Data, modalities: Mapping[str, Modality], seed: int, processors: Mapping[str, str]) -> Reading:
    """Read a manifest and what it says of its rows.

    processors: modality -> where the processor of its encoder lies. Errors: ConfigError and DataError for what is no matter of single rows.
    """
    assert settings.manifest is not None
    rows = read_rows(settings.manifest, settings.folder)
    columns, presence = modalities_of(rows, modalities, processors)
    faults = list(rows.faults)
    identity = ids_of(rows, settings, faults)
    splits, clients, note = divide(rows, settings, seed, faults)
    notes = [] if note is None else [note]
    classes, labels, told = labels_of(rows, settings, splits, faults)
    bare = (~presence.any(1)).nonzero()[:, 0].tolist()
    faults += [Fault(row, ", ".join(columns), "the row has no modality: all of these are empty") for row in bare]
    return Reading(rows, columns, presence, classes, labels, splits, clients, identity, tuple(sorted(faults)), (*notes, *told))


def from_manifest(
    settings: Data, modalities: Mapping[str, Modality], seed: int, processors: Mapping[str, str], memory: Path
) -> FederatedData:
    """The samples of a manifest, spread over its clients or, where it names none, over clients as the settings say.

    memory: the folder where looks at files are remembered.
    Errors: DataError with the first twenty cells that cannot be used, unless `on_error = "skip"` leaves their rows out.
    """
    reading = read_manifest(settings, modalities, seed, processors)
    looks = look_at_columns(settings, reading.rows, reading.columns, memory)
    faults = sorted([*reading.faults, *(fault for look in looks.values() for fault in look.faults)])
    splits, notes = left_out(reading, faults, settings)
    notes += [note for look in looks.values() for note in look.notes]
    if reading.clients is not None:
        return _natural(reading, splits, reading.clients, settings, seed, tuple(notes))
    groups = {}
    if settings.partition == "column" and settings.column in reading.rows.names:
        groups[settings.column] = [str(cell) for cell in reading.rows.column(settings.column)]
    evaluators = [EVALUATION] * len(reading.rows)
    kind, presence = settings.task, reading.presence
    table = Table(reading.classes, reading.columns, reading.labels, splits, evaluators, tuple(notes), kind, groups, presence)
    return spread(table, settings, seed)


def left_out(reading: Reading, faults: Sequence[Fault], settings: Data) -> tuple[list[Split | None], list[str]]:
    """The split of each row, None for those that cannot be used; and what people should know. `DataError` where these stop the run."""
    splits: list[Split | None] = list(reading.splits)
    notes = list(reading.notes)
    if faults and settings.on_error == "stop":
        raise DataError(refusal(reading, faults))
    for row in {fault.row for fault in faults}:
        splits[row] = None
    if faults:
        number = len({fault.row for fault in faults})
        first = "; ".join(reading.told(fault) for fault in faults[:_FIRST_FEW])
        notes.append(f"{number:,} of {len(splits):,} rows were left out: {first}{' …' if len(faults) > _FIRST_FEW else ''}")
    if all(split is None for split in splits):
        raise DataError(f"{reading.rows.source}: not one row can be used. {refusal(reading, faults)}")
    return splits, notes


def refusal(reading: Reading, faults: Sequence[Fault]) -> str:
    """The first twenty faults, and what to do."""
    number = len({fault.row for fault in faults})
    more = [f"and {len(faults) - TOLD:,} more"] if len(faults) > TOLD else []
    told = [reading.told(fault) for fault in faults[:TOLD]]
    first = f"{reading.rows.source}: {number:,} of {len(reading.rows):,} rows cannot be used. Nothing was trained."
    return "\n       ".join([f"{first} Mend them, or leave them out with --on-error skip.", *told, *more])


def _natural(
    reading: Reading, splits: Sequence[Split | None], owners: Sequence[str | None], settings: Data, seed: int, notes: tuple[str, ...]
) -> FederatedData:
    """Clients as the manifest names them, each with its own rows of every split and the modalities that occur in them."""
    everything = tuple(reading.columns)
    own: dict[str, dict[Split, list[int]]] = {}
    for row, (owner, split) in enumerate(zip(owners, splits, strict=True)):
        if split is not None and owner is not None:
            own.setdefault(owner, {}).setdefault(split, []).append(row)
    labels = reading.labels.clone()
    train = torch.tensor([row for rows in own.values() for row in rows.get("train", ())], dtype=torch.int64).sort().values
    if settings.labelled_fraction < 1:
        labels[train] = keep_labels(labels[train], settings.labelled_fraction, seed)
    table = Table(reading.classes, reading.columns, labels, (), (), presence=reading.presence)
    clients = {}
    for name in sorted(own):
        rows = {split: torch.tensor(own[name].get(split, []), dtype=torch.int64) for split in SPLITS}
        there = torch.cat([reading.presence[its] for its in rows.values()]).any(0)
        held = tuple(modality for modality, some in zip(everything, there.tolist(), strict=True) if some)
        made = {split: _samples(table, its, held, settings, seed, name, split) for split, its in rows.items() if len(its)}
        clients[name] = ClientData(held, made.get("train"), made.get("validation"), made.get("test"))
    return with_notes(FederatedData(reading.classes, everything, clients, notes, settings.task))


def _samples(table: Table, rows: Tensor, held: tuple[str, ...], settings: Data, seed: int, name: str, split: Split) -> Samples:
    rates = rates_of(settings, held) if split == "train" else 0.0
    presence = draw_presence(len(rows), len(held), rates, derive(seed, "partition", "missing", name))
    return table.samples(rows, held, presence)


__all__ = ["Look", "Reading", "from_manifest", "read_manifest"]
