"""From settings to the parties of a run in one process. All input is checked here, before anything is trained or written."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2fedsa.averaging import Average, weighted_mean
from m2fedsa.blueprint import Blueprint, Widths
from m2fedsa.client import Client, Shared
from m2fedsa.config import Config, Modality
from m2fedsa.data.samples import SPLITS, UNLABELLED, ClientData, FederatedData, Samples
from m2fedsa.data.sources import load_data
from m2fedsa.errors import ConfigError, CutError, DataError
from m2fedsa.fed_server import FedServer, Sampler, uniform_sampler
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.ledger import Measured
from m2fedsa.losses import Loss, step_loss
from m2fedsa.main_server import MainServer
from m2fedsa.models.architectures import Pooling
from m2fedsa.models.cut import Head, Tail, cut, plan, verify
from m2fedsa.models.encoders import load
from m2fedsa.storage import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OBJECT = "object"
"""In settings: what the library's caller passes to `run`."""


@dataclass(frozen=True)
class Extensions:
    """A researcher's own parts. Each is an object with a documented interface; None stands for the specification's."""

    data: FederatedData | None = None
    encoders: Mapping[str, "PreTrainedModel"] | None = None
    loss: Loss = step_loss
    average: Average = weighted_mean
    sampler: Sampler = uniform_sampler


@dataclass(frozen=True)
class Parties:
    """Everyone who takes part, in one process. The main server is its own link and its own coordination."""

    blueprint: Blueprint
    data: FederatedData
    fed_server: FedServer
    federation: InProcessFederation
    coordination: MainServer
    shared: Shared
    measured: Mapping[str, Measured]
    """modality -> what head, tail and whole encoder hold and compute"""

    def keep_in(self, checkpoint: Path) -> None:
        """Let each party keep its part of the checkpoints in a directory of its own."""
        self.coordination.store = Store(checkpoint / "main_server")
        self.shared.checkpoint = checkpoint / "clients"


def assemble(config: Config, extensions: Extensions) -> Parties:
    """Load data and encoders, cut, verify, and set up the parties. `InputError` if anything does not fit."""
    data = extensions.data if extensions.data is not None else _data_of(config)
    check(config, data)
    heads: dict[str, Head] = {}
    tails: dict[str, Tail] = {}
    widths: dict[str, Widths] = {}
    measured: dict[str, Measured] = {}
    for name in data.modalities:
        settings = config.modalities[name]
        heads[name], tails[name], measured[name] = _cut(name, settings, extensions.encoders, _example(data, name))
        widths[name] = _widths(name, settings, heads[name], tails[name])
    blueprint = Blueprint(config, widths, len(data.classes))
    server = MainServer(blueprint, tails, extensions.average)
    shared = Shared(blueprint, heads, extensions.loss)
    federation = InProcessFederation([Client(name, client, shared, server) for name, client in data.clients.items()])
    fed_server = FedServer(blueprint, federation.clients(), extensions.sampler, extensions.average)
    return Parties(blueprint, data, fed_server, federation, server, shared, measured)


def _data_of(config: Config) -> FederatedData:
    if config.data.source == OBJECT:
        raise ConfigError(
            'data.source = "object", but no data set was passed: call m2fedsa.run(config, data=...), or name an embedded one.'
        )
    return load_data(config.data, config.seed)


def check(config: Config, data: FederatedData) -> None:
    """`InputError` unless settings and data fit each other."""
    missing = [name for name in data.modalities if name not in config.modalities]
    if missing:
        raise ConfigError(
            f"modalities.{missing[0]} is missing: the data has this modality, and it needs an encoder: "
            f"[modalities.{missing[0]}] encoder = ..."
        )
    surplus = [name for name in config.modalities if name not in data.modalities]
    if surplus:
        raise ConfigError(f"modalities.{surplus[0]}: the data has no such modality, but {', '.join(data.modalities)}.")
    if len(data.classes) < 2:
        raise DataError(f"the data has {len(data.classes)} class; a classifier needs two or more.")
    trains = [client for client in data.clients.values() if client.train is not None]
    if not trains:
        raise DataError("no client has training samples.")
    sampled = config.federation.clients_per_round
    if sampled is not None and sampled > len(trains):
        raise ConfigError(f"federation.clients_per_round = {sampled}, but {len(trains)} clients have training samples.")
    for name, client in data.clients.items():
        _check_client(name, client, data)
    if not any(bool((client.train.labels != UNLABELLED).any()) for client in trains if client.train is not None):
        raise DataError("no training sample of any client has a label.")


def _check_client(name: str, client: ClientData, data: FederatedData) -> None:
    if not CLIENT_NAME.fullmatch(name):
        raise DataError(f"client {name!r}: a client's name is letters, digits, '.', '_' and '-', first a letter or digit.")
    if not client.modalities:
        raise DataError(f"client {name} holds no modality; it needs at least one of {', '.join(data.modalities)}.")
    foreign = [modality for modality in client.modalities if modality not in data.modalities]
    if foreign:
        raise DataError(f"client {name} holds {foreign[0]}, which is not a modality of the data ({', '.join(data.modalities)}).")
    splits = {split: client.split(split) for split in SPLITS}
    if not any(samples is not None and len(samples.labels) for samples in splits.values()):
        raise DataError(f"client {name} has no samples.")
    for split, samples in splits.items():
        if samples is not None:
            _check_samples(f"client {name}, {split}", samples, len(data.classes))


def _check_samples(place: str, samples: Samples, classes: int) -> None:
    if len(samples.labels) == 0:
        raise DataError(f"{place}: there are no samples; leave the split out instead.")
    high, low = int(samples.labels.max()), int(samples.labels.min())
    if high >= classes or low < UNLABELLED:
        wrong = high if high >= classes else low
        row = int((samples.labels == wrong).nonzero()[0])
        raise DataError(
            f"{place}, row {row}: label {wrong}, but there are {classes} classes (0 … {classes - 1}; {UNLABELLED} for no label)."
        )
    bare = (~samples.presence.any(1)).nonzero().flatten()
    if len(bare):
        raise DataError(f"{place}, row {int(bare[0])}: the sample has no modality; leave it out ({len(bare)} such rows).")


def _example(data: FederatedData, modality: str) -> dict[str, Tensor]:
    """Encoder inputs of two samples, on which the encoder is cut and the cut is verified."""
    for client in data.clients.values():
        for split in SPLITS:
            samples = client.split(split)
            if samples is None or modality not in client.modalities:
                continue
            rows = samples.presence[:, samples.modalities.index(modality)].nonzero().flatten()[:2]
            if len(rows):
                return samples.inputs(modality, rows)
    raise DataError(f"no client has a sample of modality {modality}.")


def _cut(
    name: str, settings: Modality, encoders: Mapping[str, "PreTrainedModel"] | None, example: Mapping[str, Tensor]
) -> tuple[Head, Tail, Measured]:
    try:
        model = load(_encoder(name, settings, encoders))
        pooling: Pooling | None = None if settings.pooling == "default" else settings.pooling
        planned = plan(model, example, settings.block)
        head, tail = cut(model, planned, pooling)
        verify(model, head, tail, example, pooling)
        return head, tail, Measured(model, head, tail, {argument: value[:1] for argument, value in example.items()})
    except CutError as error:
        raise CutError(f"modalities.{name}.{error}") from error


def _encoder(name: str, settings: Modality, encoders: Mapping[str, "PreTrainedModel"] | None) -> "str | PreTrainedModel":
    if encoders is not None and name in encoders:
        return encoders[name]
    if settings.encoder == OBJECT:
        raise ConfigError(
            f'modalities.{name}.encoder = "object", but no model was passed: call m2fedsa.run(config, encoders={{"{name}": model}}).'
        )
    return settings.encoder


def _widths(name: str, settings: Modality, head: Head, tail: Tail) -> Widths:
    if settings.task_adapter and not tail.takes_adapter:
        raise CutError(
            f"modalities.{name}.block = {settings.block} leaves no place for a task adapter in this encoder "
            f"({tail.plan.blocks} blocks); cut earlier, or set modalities.{name}.task_adapter = false."
        )
    if tail.takes_adapter:
        return Widths(head.width, head.axis, tail.width_in, tail.width_out, tail.axis, tail.width)
    return Widths(head.width, head.axis, None, None, -1, tail.width)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with this number of CPU threads; 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
