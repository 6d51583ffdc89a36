"""From settings to the parties of a run in one process. All input is checked here, before anything is trained or written."""

import difflib
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
from m2fedsa.checks import check_data, check_options, check_paths, check_processors, check_rules, option_named
from m2fedsa.client import Client, Shared
from m2fedsa.client.kept import Memory, Place
from m2fedsa.client.shelf import Shelf
from m2fedsa.config import Compute, Config, Modality, Objects
from m2fedsa.data.samples import SPLITS, FederatedData
from m2fedsa.data.sources import load_data
from m2fedsa.errors import ConfigError, CutError, DataError, WeightsError
from m2fedsa.fed_server import FedServer, Sampler, uniform_sampler
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.ledger import Measured
from m2fedsa.losses import Loss, step_loss
from m2fedsa.main_server import MainServer
from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.cut import Head, Tail, cut, plan, verify
from m2fedsa.models.encoders import load
from m2fedsa.models.padding import takes_no_notice
from m2fedsa.models.plan import model_type
from m2fedsa.models.precision import device_of, fed, prepared
from m2fedsa.models.recomputing import recompute
from m2fedsa.storage import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SETTING = re.compile(r"[a-z_]+ = ")
_LOOKED_AT = 8
"""Samples that are read at a time in search of two to cut an encoder on."""
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

    def named_in(self, config: Config) -> Config:
        """The settings with the names of these parts in place of what they replace: what a run directory shall tell."""
        data = config.data
        if self.data is not None:
            trains = sum(client.train is not None for client in self.data.clients.values())
            data = data.model_copy(update={"source": OBJECT, "clients": trains})
        modalities = {
            name: one.model_copy(update={"encoder": OBJECT}) if name in (self.encoders or {}) else one
            for name, one in config.modalities.items()
        }
        objects = config.objects.model_copy(update=self._names())
        return config.model_copy(update={"data": data, "modalities": modalities, "objects": objects})

    def check(self, config: Config) -> None:
        """`ConfigError` if the settings name a part that was not passed, or if an encoder was passed for no modality."""
        for part, name in config.objects.model_dump(exclude_none=True).items():
            if self._names().get(part) != name:
                raise ConfigError(
                    f'objects.{part} = "{name}", but it was not passed. Call m2fedsa.run(config, {part}=...), or leave the key out.'
                )
        for name in self.encoders or {}:
            if name not in config.modalities:
                near = difflib.get_close_matches(name, config.modalities, n=1)
                advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(config.modalities)}."
                raise ConfigError(f"encoders: {name} is not a modality of these settings. {advice}")

    def _names(self) -> dict[str, str]:
        return {part: _name(getattr(self, part)) for part in Objects.model_fields if getattr(self, part) is not getattr(Extensions, part)}


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
    extensions.check(config)
    data = extensions.data if extensions.data is not None else _data_of(config)
    check_data(config, data)
    heads: dict[str, Head] = {}
    tails: dict[str, Tail] = {}
    widths: dict[str, Widths] = {}
    measured: dict[str, Measured] = {}
    for name in data.modalities:
        settings = config.modalities[name]
        heads[name], tails[name], measured[name] = _cut(name, settings, config.compute, extensions.encoders, _example(data, name))
        widths[name] = _widths(name, settings, heads[name], tails[name])
    blueprint = Blueprint(config, widths, len(data.classes))
    check_rules(blueprint)
    device = device_of(config.compute)
    server = MainServer(blueprint, tails, extensions.average, device)
    shared = Shared(blueprint, heads, extensions.loss, place=place_of(config), shortens=_shortens(config, measured), device=device)
    federation = InProcessFederation([Client(name, client, shared, server) for name, client in data.clients.items()])
    fed_server = FedServer(blueprint, federation.clients(), extensions.sampler, extensions.average)
    return Parties(blueprint, data, fed_server, federation, server, shared, measured)


def _data_of(config: Config) -> FederatedData:
    if config.data.source == OBJECT:
        raise ConfigError(
            'data.source = "object", but no data set was passed: call m2fedsa.run(config, data=...), or name an embedded one.'
        )
    check_paths(config)
    check_options(config.data)
    check_processors(config)
    processors = {name: one.processor or one.encoder for name, one in config.modalities.items()}
    try:
        return load_data(config.data, config.seed, processors)
    except ConfigError as error:
        raise ConfigError(option_named(str(error), config.data)) from error


def _example(data: FederatedData, modality: str) -> dict[str, Tensor]:
    """Encoder inputs of two samples without a NaN, on which the encoder is cut and the cut is verified; of one where there is no other
    beside it. A sample that is not finite is its client's affair: it ends that client's round, not the run."""
    found = False
    for client in data.clients.values():
        for split in SPLITS:
            samples = client.split(split)
            if samples is None or modality not in client.modalities:
                continue
            rows = samples.presence[:, samples.modalities.index(modality)].nonzero().flatten()
            found = found or bool(len(rows))
            for few in torch.split(rows, _LOOKED_AT):
                inputs = samples.inputs(modality, few)
                sound = torch.stack([value.flatten(1).isfinite().all(1) for value in inputs.values()]).all(0)
                if bool(sound.any()):
                    return {name: value[sound][:2] for name, value in inputs.items()}
    if found:
        raise DataError(f"every sample of modality {modality} has values that are not finite. Look at how it is read.")
    raise DataError(f"no client has a sample of modality {modality}. Leave the modality out of data and settings.")


def _cut(
    name: str, settings: Modality, compute: Compute, encoders: Mapping[str, "PreTrainedModel"] | None, example: Mapping[str, Tensor]
) -> tuple[Head, Tail, Measured]:
    try:
        model = prepared(load(_encoder(name, settings, encoders)), compute)
        example = fed(model, example)
        _try(model, example)
        _check_readable(settings, example, architecture(model_type(model)).mask)
        pooling: Pooling | None = None if settings.pooling == "default" else settings.pooling
        planned = plan(model, example, settings.block, settings.blocks, settings.keep)
        head, tail = cut(model, planned, pooling)
        verify(model, head, tail, example, pooling)
        if compute.checkpoint_tails:
            recompute(tail, settings.blocks)
        return head, tail, Measured(model, head, tail, {argument: value[:1] for argument, value in example.items()})
    except CutError as error:
        raise CutError(_placed(name, error)) from error
    except WeightsError as error:
        raise WeightsError(f"modalities.{name}.encoder = {error}") from error


def place_of(config: Config) -> Place:
    """Where clients keep their head outputs."""
    if config.kept.where == "memory":
        return Memory()
    return Shelf(Path(config.kept.folder).expanduser(), config.kept.limit)


def _shortens(config: Config, measured: Mapping[str, Measured]) -> frozenset[str]:
    """The modalities whose batches lose the padding that no sample needs."""
    if not config.compute.shorten:
        return frozenset()
    return frozenset(name for name, one in measured.items() if takes_no_notice(one.head, one.tail, one.example))


def _try(model: "PreTrainedModel", example: Mapping[str, Tensor]) -> None:
    """`CutError` if the encoder does not take the inputs that the data has."""
    try:
        with torch.no_grad():
            model(**example)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{argument} {tuple(value.shape[1:])}" for argument, value in example.items())
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CutError(
            f"{type(model).__name__} does not take the inputs that the data has, per sample {shapes} ({reason}). "
            "Choose an encoder for these."
        ) from error


def _check_readable(settings: Modality, example: Mapping[str, Tensor], mask: str) -> None:
    """`CutError` where text would leave its client unread by any block. (Section "What this protects and what it does not".)"""
    words = [name for name, value in example.items() if name != mask and not value.is_floating_point()]
    if settings.block == 0 and words and not settings.readable_text:
        raise CutError(
            f"block = 0 would send the embeddings of {words[0]}, from which the text can simply be read. "
            "Cut at 1 or later, or set readable_text = true."
        )


def _placed(name: str, error: CutError) -> str:
    """The message of the models with the table that it is about; it starts with the key where it is about one."""
    return f"modalities.{name}{'.' if _SETTING.match(str(error)) else ': '}{error}"


def _encoder(name: str, settings: Modality, encoders: Mapping[str, "PreTrainedModel"] | None) -> "str | PreTrainedModel":
    if encoders is not None and name in encoders:
        return encoders[name]
    if settings.encoder == OBJECT:
        raise ConfigError(
            f'modalities.{name}.encoder = "object", but no model was passed: call m2fedsa.run(config, encoders={{"{name}": model}}).'
        )
    return settings.encoder


def _widths(name: str, settings: Modality, head: Head, tail: Tail) -> Widths:
    if not settings.task_adapter:
        return Widths(head.width, head.axis, None, None, -1, tail.width)
    try:
        return Widths(head.width, head.axis, tail.width_in, tail.width_out, tail.axis, tail.width)
    except CutError as error:
        raise CutError(_placed(name, error)) from error


def _name(part: object) -> str:
    """Where a function or an object's class is defined."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with this number of CPU threads; 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
