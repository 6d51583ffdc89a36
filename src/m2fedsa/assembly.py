"""From settings to the parties of a run in one process. All input is checked here, before anything is trained or written."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from m2fedsa.averaging import Average, weighted_mean
from m2fedsa.baselines.arrangement import arranged
from m2fedsa.blueprint import HEAD, TAIL, Blueprint, Widths
from m2fedsa.checkpoint import MAIN_SERVER, Manifest
from m2fedsa.checks import check_data, check_options, check_paths, check_processors, check_rules, option_named
from m2fedsa.client import Client, Shared
from m2fedsa.client.kept import Memory, Place
from m2fedsa.client.shelf import Shelf
from m2fedsa.config import Compute, Config, Modality, Objects
from m2fedsa.data.manifest import from_manifest
from m2fedsa.data.samples import SPLITS, FederatedData
from m2fedsa.data.sources import load_data
from m2fedsa.errors import ConfigError, CutError, DataError
from m2fedsa.fed_server import FedServer, Sampler, uniform_sampler
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.figures import facts_of
from m2fedsa.ledger import Measured, ledger
from m2fedsa.links.narrowing import narrowing
from m2fedsa.losses import Loss, step_loss
from m2fedsa.main_server import MainServer
from m2fedsa.models.cut import Head, Tail
from m2fedsa.models.padding import takes_no_notice
from m2fedsa.models.precision import device_of
from m2fedsa.reporting.program import word
from m2fedsa.reporting.records import Facts, LedgerEntry
from m2fedsa.sides import placed, processor_place, sides, whole
from m2fedsa.storage import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from m2fedsa.data.manifest.checking import Checked

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
            data = data.model_copy(update={"source": OBJECT, "clients": trains, "task": self.data.kind})
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
    """Everyone who takes part, in one process (see `parties.Company`). The main server is its own link and its own coordination."""

    blueprint: Blueprint
    data: FederatedData
    fed_server: FedServer
    federation: InProcessFederation
    coordination: MainServer
    shared: Shared
    measured: Mapping[str, Measured]
    """modality -> what head, tail and whole encoder hold and compute"""

    def keep_in(self, checkpoint: Path) -> None:
        """Let each party keep its part of the checkpoints in a directory of its own. `RunDirectoryError` if there is one of which some
        lies elsewhere."""
        if (manifest := Manifest.read(checkpoint)) is not None:
            manifest.check_whole(checkpoint)
        self.coordination.store = Store(checkpoint / MAIN_SERVER)
        self.shared.checkpoint = checkpoint / "clients"

    attempts: ClassVar[int] = 1

    def go_on(self, directory: Path, /) -> str:
        """See `parties.Company`."""
        return f"Go on with: m2fedsa run --resume {word(directory)}"

    def facts(self) -> Facts:
        """See `parties.Company`."""
        return facts_of(self.data, self.fed_server.clients)

    def ledger(self) -> dict[str, LedgerEntry]:
        """See `parties.Company`."""
        return ledger(self.blueprint, self.measured)


def assemble(config: Config, extensions: Extensions) -> Parties:
    """Load data and encoders, cut, verify, and set up the parties. `InputError` if anything does not fit."""
    extensions.check(config)
    data = samples_of(config, extensions)
    encoders = {name: _encoder(name, config.modalities[name], extensions.encoders) for name in data.modalities}
    measured = {
        name: sides(name, config.modalities[name], config.compute, encoder, example_of(data, name)) for name, encoder in encoders.items()
    }
    return compose(config, data, measured, extensions)


def compose(config: Config, data: FederatedData, measured: Mapping[str, Measured], extensions: Extensions) -> Parties:
    """The parties around sides that were cut before. `InputError` if an averaging rule or an adapter has no place."""
    widths = {name: widths_of(name, config.modalities[name], one.head, one.tail) for name, one in measured.items()}
    heads, tails = {name: one.head for name, one in measured.items()}, {name: one.tail for name, one in measured.items()}
    blueprint = Blueprint(config, widths, len(data.classes), _trained_weights(config, heads, tails))
    check_rules(blueprint)
    device = device_of(config.compute)
    server = MainServer(blueprint, tails, extensions.average, device)
    shared = Shared(blueprint, heads, extensions.loss, place=place_of(config), shortens=_shortens(config, measured), device=device)
    together = config.federation.server_update == "synchronous"
    # What is not split computes tails at the client, which sends tensors alone.
    link = narrowing(server, config.wire) if config.federation.split else server
    federation = InProcessFederation([Client(name, client, shared, link) for name, client in data.clients.items()], together)
    fed_server = FedServer(blueprint, federation.clients(), extensions.sampler, extensions.average)
    return Parties(blueprint, data, fed_server, federation, server, shared, measured)


def samples_of(config: Config, extensions: Extensions) -> FederatedData:
    """The samples of a run. `InputError` if there are none, or if they do not fit the settings."""
    held = extensions.data if extensions.data is not None else _data_of(config)
    data = arranged(held, config.data, config.seed)
    check_data(config, data)
    return data


def whole_encoder(
    name: str, settings: Modality, compute: Compute, encoders: Mapping[str, "PreTrainedModel"] | None, data: FederatedData
) -> tuple["PreTrainedModel", dict[str, Tensor]]:
    """The encoder of modality `name` in one piece, and two samples that it takes. `InputError` if there is no such thing."""
    return whole(name, settings, compute, _encoder(name, settings, encoders), example_of(data, name))


def _data_of(config: Config) -> FederatedData:
    if config.data.source == OBJECT:
        raise ConfigError(
            'data.source = "object", but no data set was passed: call m2fedsa.run(config, data=...), or name an embedded one.'
        )
    processors = _processors(config)
    if config.data.manifest is not None:
        return from_manifest(config.data, config.modalities, config.seed, processors, looks_of(config))
    check_paths(config)
    check_options(config.data)
    check_processors(config)
    try:
        return load_data(config.data, config.seed, processors)
    except ConfigError as error:
        raise ConfigError(option_named(str(error), config.data)) from error


def check_of(config: Config) -> "Checked":
    """All that a manifest holds, read once. `InputError` where there is none, or for what is no matter of single rows."""
    from m2fedsa.data.manifest.checking import check_manifest

    if config.data.manifest is None:
        raise ConfigError(f"data.manifest is unset: the source {config.data.source} looks at its samples by itself, when it is run.")
    return check_manifest(config.data, config.modalities, config.seed, _processors(config), looks_of(config))


def _processors(config: Config) -> dict[str, str]:
    """modality -> where the processor of its encoder lies"""
    return {name: one.processor or processor_place(one.encoder) for name, one in config.modalities.items()}


def looks_of(config: Config) -> Path:
    """Where looks at people's files are remembered."""
    return Path(config.kept.folder).expanduser() / "looks"


def example_of(data: FederatedData, modality: str) -> dict[str, Tensor]:
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


def _trained_weights(config: Config, heads: Mapping[str, Head], tails: Mapping[str, Tail]) -> dict[str, Tensor]:
    """The weights of the encoders that are not frozen, by their flat names; those that both sides hold stay as they are."""
    found: dict[str, Tensor] = {}
    for name in (name for name, one in config.modalities.items() if name in heads and not one.frozen):
        for side, part in ((HEAD, heads[name]), (TAIL, tails[name])):
            found |= {f"{name}.{side}.{key}": value for key, value in part.weights(except_for=part.plan.both).items()}
    return found


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


def _encoder(name: str, settings: Modality, encoders: Mapping[str, "PreTrainedModel"] | None) -> "str | PreTrainedModel":
    if encoders is not None and name in encoders:
        return encoders[name]
    if settings.encoder == OBJECT:
        raise ConfigError(
            f'modalities.{name}.encoder = "object", but no model was passed: call m2fedsa.run(config, encoders={{"{name}": model}}).'
        )
    return settings.encoder


def widths_of(name: str, settings: Modality, head: Head, tail: Tail) -> Widths:
    """The widths that adapters and classifiers fit. `CutError` if TA is asked for where it has no place."""
    if not settings.task_adapter:
        return Widths(head.width, head.axis, None, None, -1, tail.width)
    try:
        return Widths(head.width, head.axis, tail.width_in, tail.width_out, tail.axis, tail.width)
    except CutError as error:
        raise CutError(placed(name, error)) from error


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
