"""What a trained run says of new samples: a manifest whose rows have any subset of the modalities, or the run's own samples.

The answer is a table, a row for each sample: what is told of it by all modalities that it has together (`fused`), and by each alone.

R rows, B of a batch, M modalities, K classes or targets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from m2fedsa.answer_files import write_table
from m2fedsa.assembly import OBJECT, Extensions, looks_of, samples_of
from m2fedsa.blueprint import Blueprint
from m2fedsa.config import Config, Modality
from m2fedsa.data.columns import TOLD, Fault
from m2fedsa.data.manifest.labels import named
from m2fedsa.data.manifest.looking import look_at_columns
from m2fedsa.data.manifest.modalities import modalities_of
from m2fedsa.data.manifest.opening import read_rows
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.tabular import tabular_processor
from m2fedsa.data.samples import Samples, Split
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.sides import processor_place
from m2fedsa.trained import TrainedModel

FUSED = "fused"
BATCH = 64
BY_NAME = {"image": "image", "audio": "audio", "visual": "video", "text": "text"}
"""Modalities of the data sets that come with the package -> their kind in a manifest."""
_OPTIONS = {"image_size": "size", "audio_seconds": "seconds", "text_tokens": "tokens", "frames": "frames"}
"""Options of these data sets -> those of a modality of a manifest."""
_OF_KIND = {"image": ("size",), "audio": ("seconds",), "video": ("frames", "size"), "text": ("tokens",)}


class Predictor(Protocol):
    """A trained run, whole or where a part of it lies elsewhere; see `trained.TrainedModel`."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """That it can be given, in the run's order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Or targets."""

    @property
    def blueprint(self) -> Blueprint:
        """Of the run."""

    def __call__(self, inputs: Mapping[str, Mapping[str, Tensor]], presence: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Logits (B, K), NaN in rows of samples without the modality."""

    def answers(self, logits: Tensor) -> Tensor:
        """What they say (B, K)."""


@dataclass(frozen=True)
class Answers:
    """What is told of R samples."""

    columns: tuple[str, ...]
    """of the samples themselves: `row`, `id`, `client`, `truth`"""
    samples: Sequence[Sequence[Any]]
    values: Mapping[str, Tensor]
    """`fused` and each modality -> (R, K) probabilities or numbers, NaN where a sample lacks it"""
    classes: tuple[str, ...]
    kind: str
    """of the task"""
    faults: Mapping[int, str]
    """row -> why it cannot be used"""
    notes: tuple[str, ...] = ()

    def labels(self, subset: str) -> list[str]:
        """What is predicted of each sample: a class, classes between `;`, or nothing for numbers and for what a sample lacks."""
        found = []
        for values in self.values[subset]:
            if bool(values.isnan().any()) or self.kind == "regression":
                found.append("")
            elif self.kind == "multi_label":
                found.append(";".join(name for name, value in zip(self.classes, values.tolist(), strict=True) if value > 0.5))
            else:
                found.append(self.classes[int(values.argmax())])
        return found

    def write(self, path: Path) -> None:
        """The sample, `fused`, `fused:class` … with the probability of each class, then the same of each modality, then `error`.

        As CSV, TSV, JSONL or Parquet; see `answer_files`.
        """
        numbers = self.kind == "regression"
        columns: list[tuple[str, type]] = [(name, int if name == "row" else str) for name in self.columns]
        for subset in self.values:
            columns += [*([] if numbers else [(subset, str)]), *((f"{subset}:{name}", float) for name in self.classes)]
        labels = {subset: self.labels(subset) for subset in self.values}
        rows = []
        for row, sample in enumerate(self.samples):
            cells = [cell if cell != "" else None for cell in sample]
            for subset, values in self.values.items():
                told = values[row].tolist()
                cells += [*([] if numbers else [labels[subset][row] or None]), *(None if value != value else value for value in told)]
            rows.append([*cells, self.faults.get(row)])
        write_table(path, [*columns, ("error", str)], rows)


# --- new samples ----------------------------------------------------------------------------------------------------------------------


def predict(model: Predictor, config: Config, manifest: str, *, folder: str | None = None, skip: bool = False) -> Answers:
    """What the model says of each row of a manifest, in order.

    config: the settings of the run or export, which say how each modality is read. folder: where paths in cells begin, if not where it
    lies. A modality without a column in the manifest is one that no row has. skip: leave rows that cannot be used without an answer.
    `InputError` otherwise, with the first twenty of them.
    """
    rows = read_rows(manifest, folder)
    processors = {name: one.processor or processor_place(one.encoder) for name, one in config.modalities.items()}
    readable = {name: _readable(name, config) for name in model.modalities}
    there = {name: one for name, one in readable.items() if _has(rows, name, one, processors)}
    if not there:
        wanted = ", ".join(one.column or name for name, one in readable.items())
        raise DataError(f"{rows.source}: has no column of any modality of the run ({wanted}); there are {', '.join(rows.names)}.")
    columns, presence = modalities_of(rows, there, processors)
    looks = look_at_columns(config.data, rows, columns, looks_of(config))
    bare = (~presence.any(1)).nonzero()[:, 0].tolist()
    faults = [Fault(row, ", ".join(columns), "the row has no modality: all of these are empty") for row in bare]
    faults = sorted([*rows.faults, *faults, *(fault for look in looks.values() for fault in look.faults)])
    if faults and not skip:
        raise DataError(_refusal(rows, faults))
    identity = named(rows, config.data.columns.id, "id") if config.data.columns.id in (None, *rows.names) else None
    names = [str(cell) for cell in rows.column(identity)] if identity else None
    samples = [[row + 1, *([names[row]] if names else [])] for row in range(len(rows))]
    broken = {fault.row: f"{fault.column}: {fault.what}" for fault in reversed(faults)}
    kept = torch.tensor([row for row in range(len(rows)) if row not in broken], dtype=torch.int64)
    values = _told(model, len(rows), _batches(columns, kept, presence))
    missing = [name for name in model.modalities if name not in there]
    notes = [f"{rows.source} has no column of {name}: nothing is said by it" for name in missing]
    notes += [note for look in looks.values() for note in look.notes]
    if broken:
        notes.append(f"{len(broken):,} of {len(rows):,} rows cannot be used; the column error says why")
    heads = ("row", *(["id"] if identity else []))
    return Answers(heads, samples, values, model.classes, model.blueprint.task.kind, broken, tuple(notes))


def _readable(name: str, config: Config) -> Modality:
    """How a modality is read from a manifest. `ConfigError` for one of which nobody has said what it is."""
    one = described(name, config)
    if one.kind is None:
        raise ConfigError(
            f"modalities.{name}: the run does not say of what kind it is, so no manifest of it can be read. Predict with m2fedsa.load and "
            "inputs of your own."
        )
    return one


def described(name: str, config: Config) -> Modality:
    """The settings of a modality with its kind and options, where the data set that the run was trained on tells them."""
    one = config.modalities[name]
    kind = BY_NAME.get(name)
    if one.kind is not None or kind is None or config.data.source == OBJECT:
        return one
    told = {_OPTIONS[key]: value for key, value in config.data.options.items() if key in _OPTIONS and value}
    options = {key: value for key, value in told.items() if key in _OF_KIND[kind]}
    return one.model_copy(update={"kind": kind, "options": options})


def _has(rows: Rows, name: str, one: Modality, processors: Mapping[str, str]) -> bool:
    if one.kind == "tabular":
        return any(column in rows.names for column in tabular_processor(processors, name).names)
    return (one.column or name) in rows.names


def _refusal(rows: Rows, faults: Sequence[Fault]) -> str:
    number, more = len({fault.row for fault in faults}), len(faults) - TOLD
    told = [f"row {fault.row + 1}, {fault.column}: {fault.what}" for fault in faults[:TOLD]]
    first = f"{rows.source}: {number:,} of {len(rows):,} rows cannot be used. Mend them, or leave them out with --on-error skip."
    return "\n       ".join([first, *told, *([f"and {more:,} more"] if more > 0 else [])])


Batch = tuple[Tensor, dict[str, dict[str, Tensor]], dict[str, Tensor]]
"""Rows (B,), inputs of each modality, and which of the rows have it (B,) bool."""


class _Inputs(Protocol):
    """Where the inputs of a modality come from."""

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        """Of these rows."""


def _batches(columns: Mapping[str, _Inputs], rows: Tensor, presence: Tensor) -> Iterator[Batch]:
    """Nothing is decoded before its batch."""
    for few in torch.split(rows, BATCH) if len(rows) else ():
        having = {name: presence[few, place] for place, name in enumerate(columns)}
        inputs = {name: columns[name].inputs(few[there]) for name, there in having.items() if bool(there.any())}
        yield few, inputs, {name: having[name] for name in inputs}


def _told(model: Predictor, number: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """(R, K) of `fused` and each modality."""
    values = {name: torch.full((number, len(model.classes)), float("nan")) for name in (FUSED, *model.modalities)}
    for few, inputs, presence in batches:
        for name, logits in model(inputs, presence).items():
            values[name][few] = model.answers(logits).float().cpu()
    return values


# --- the run's own samples ------------------------------------------------------------------------------------------------------------


def predict_own(model: TrainedModel, config: Config, split: Split) -> Answers:
    """What the model says of the samples of a split of the run's own data, client by client in the order of their names.

    `ConfigError` for an export, and for a run on samples that a program passed to it.
    """
    if config.data.source == OBJECT:
        raise ConfigError(
            "the samples that it was trained and tested on are not known here. Name a manifest: m2fedsa predict DIR MANIFEST."
        )
    data = samples_of(config, Extensions())
    samples: list[list[Any]] = []
    parts = []
    for name, client in sorted(data.clients.items()):
        own = client.split(split)
        if own is None:
            continue
        presence = {one: own.presence[:, place] for place, one in enumerate(own.modalities) if one in model.modalities}
        columns = {one: _Own(own, one) for one in presence}
        batches = _batches(columns, torch.arange(len(own.labels)), torch.stack(list(presence.values()), 1))
        values = _told(model, len(own.labels), batches)
        parts.append(values)
        samples += [[row + 1, name, _label(own.labels[row], data.classes)] for row in range(len(own.labels))]
    if not parts:
        raise DataError(f"no client of the run has {split} samples. Name another split, or a manifest.")
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Answers(("row", "client", "truth"), samples, joined, model.classes, model.blueprint.task.kind, {}, data.notes)


@dataclass(frozen=True)
class _Own:
    """A modality of a client's samples, as a column."""

    samples: Samples
    modality: str

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        return self.samples.inputs(self.modality, rows)


def _label(label: Tensor, classes: Sequence[str]) -> str:
    """As a manifest has it; empty where there is none."""
    if label.is_floating_point():
        return "" if bool(label.isnan().any()) else ";".join(f"{value:.6g}" for value in label.reshape(-1).tolist())
    if label.ndim:
        return "" if int(label.min()) < 0 else ";".join(name for name, value in zip(classes, label.tolist(), strict=True) if value)
    return "" if int(label) < 0 else classes[int(label)]
