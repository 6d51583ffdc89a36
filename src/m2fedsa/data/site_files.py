"""One client's samples as files of its own: what `m2fedsa deploy init` hands out, and what a client's machine reads.

    DIR/<split>.safetensors               labels (N,) int64, presence (N, M) bool
    DIR/<split>/<modality>.safetensors    the encoder's arguments of the samples that have it, in their order

N samples, M modalities of the client, N_m samples that have one of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2fedsa.data.samples import SPLITS, ClientData, Samples
from m2fedsa.errors import DataError

_READ = 64
"""Samples that are read at a time."""


@dataclass(frozen=True)
class SiteSamples:
    """Samples whose encoder inputs lie in files, mapped into memory."""

    columns: Mapping[str, Mapping[str, Tensor]]
    """modality -> argument of its encoder -> (N_m, ...)"""
    places: Mapping[str, Tensor]
    """modality -> (N,) int64: where a sample lies in the columns, -1 where it lacks the modality"""
    labels: Tensor
    presence: Tensor
    modalities: tuple[str, ...]

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        places = self.places[modality][rows]
        return {name: column[places] for name, column in self.columns[modality].items()}


def write_samples(data: ClientData, folder: Path) -> None:
    """Write all that a client holds, each sample as its encoder takes it."""
    for split in SPLITS:
        samples = data.split(split)
        if samples is None:
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        save_file({"labels": samples.labels.contiguous(), "presence": samples.presence.contiguous()}, folder / f"{split}.safetensors")
        for column, modality in enumerate(samples.modalities):
            save_file(_inputs(samples, modality, column), folder / split / f"{modality}.safetensors")


def _inputs(samples: Samples, modality: str, column: int) -> dict[str, Tensor]:
    rows = samples.presence[:, column].nonzero().squeeze(1)
    parts = [samples.inputs(modality, few) for few in torch.split(rows, _READ)] if len(rows) else []
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in (parts[0] if parts else ())}


def read_samples(folder: Path, modalities: tuple[str, ...]) -> ClientData:
    """What `write_samples` wrote for a client with these modalities. `DataError` names a file that is missing or broken."""
    splits = {split: _read(folder, split, modalities) for split in SPLITS if (folder / f"{split}.safetensors").exists()}
    if not splits:
        raise DataError(f"{folder}: holds no samples. `m2fedsa deploy init` writes them; copy the client's folder as a whole.")
    return ClientData(modalities, **splits)


def _read(folder: Path, split: str, modalities: tuple[str, ...]) -> SiteSamples:
    table = _tensors(folder / f"{split}.safetensors")
    labels, presence = table["labels"], table["presence"]
    columns, places = {}, {}
    for number, modality in enumerate(modalities):
        columns[modality] = _tensors(folder / split / f"{modality}.safetensors")
        rows = presence[:, number].nonzero().squeeze(1)
        places[modality] = torch.full((len(labels),), -1, dtype=torch.int64)
        places[modality][rows] = torch.arange(len(rows))
    return SiteSamples(columns, places, labels, presence, modalities)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {error}. Copy the client's folder again.") from error
