"""From a run directory to the model that it trained, in one piece: settings, checkpoint, and the whole encoders once more.

No sample of the run is read: encoders are traced on inputs made from their configuration.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from m2fedsa.assembly import OBJECT, cpu_threads, widths_of
from m2fedsa.blueprint import HEAD, TAIL, Blueprint, Widths, initial_server_tensors
from m2fedsa.checkpoint import MAIN_SERVER, LocalFiles, Manifest
from m2fedsa.config import Config, Modality
from m2fedsa.errors import ConfigError, RunDirectoryError, WeightsError
from m2fedsa.fed_server.server import State
from m2fedsa.figures import Accounts
from m2fedsa.ledger import Measured
from m2fedsa.main_server.state import State as ServerState
from m2fedsa.models.architectures import architecture
from m2fedsa.models.cut import specify, whole
from m2fedsa.models.encoders import load
from m2fedsa.models.examples import example_for
from m2fedsa.models.frozen import Frozen
from m2fedsa.models.quantise import place, whole_weights
from m2fedsa.models.slices import bare, cut_folder, origins
from m2fedsa.reporting.files import RunFiles
from m2fedsa.sides import sides
from m2fedsa.state import digest, fingerprints
from m2fedsa.storage import Store
from m2fedsa.trained import TrainedModel, Whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_APART = 1e-5
"""Largest difference, relative to the largest entry, between an encoder in one piece and its two sides."""


def from_run(
    directory: Path | str,
    client: str | None = None,
    encoders: "Mapping[str, PreTrainedModel] | None" = None,
    examples: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> TrainedModel:
    """The model of the last checkpoint of a run, or of the best one where `evaluation.keep_best` asks for it.

    client: whose own tensors take the place of global ones, where averaging rules keep some local. encoders: those that were passed to
    `run`. examples: modality -> encoder inputs of two samples, for an encoder whose inputs cannot be made from its configuration.
    `RunDirectoryError` if there is no checkpoint or if it was altered; other `InputError` if an encoder cannot be loaded.
    """
    files = RunFiles.read(directory)
    if files.facts is None:
        raise RunDirectoryError(f"{directory}: clients.json is missing. Restore it from a copy.")
    kept = _Kept.read(files)
    config, classes = files.config, tuple(files.facts["classes"])
    with cpu_threads(config.compute.threads):
        wholes: dict[str, Whole] = {}
        widths: dict[str, Widths] = {}
        for name in files.facts["modalities"]:
            wholes[name], widths[name] = _whole(name, config, encoders or {}, (examples or {}).get(name))
        blueprint = Blueprint(config, widths, len(classes))
        tensors = {**kept.client.tensors, **kept.server_tensors(blueprint)}
        kept.check(directory, tensors)
        tensors |= kept.own(config, client)
        wholes = {name: _with_trained(one, name, tensors) for name, one in wholes.items()}
        if client is not None:
            held = files.facts["clients"][client]["modalities"]
            wholes = {name: wholes[name] for name in held}
            blueprint = Blueprint(config, {name: widths[name] for name in held}, len(classes))
        return TrainedModel(blueprint, wholes, tensors, kept.client.log_prior, classes)


@dataclass(frozen=True)
class _Kept:
    """A checkpoint."""

    directory: Path
    manifest: Manifest
    client: State
    server: ServerState | None
    locals: Mapping[str, tuple[int, str]]
    """client -> round and SHA-256 of the file with its own tensors"""

    @classmethod
    def read(cls, files: RunFiles) -> "_Kept":
        directory = files.path / "checkpoint"
        last = Manifest.read(directory)
        if last is None or files.facts is None:
            raise RunDirectoryError(f"{files.path}: has no checkpoint yet. Go on with the run: `m2fedsa run --resume {files.path}`.")
        manifest = last.chosen
        names = list(files.facts["clients"])
        noted = LocalFiles(names)
        flat = noted.restore(Accounts(names).restore(Store(directory / "fed_server").read(manifest.round, manifest.fed_server)))
        server = None
        if manifest.main_server is not None:
            manifest.check_whole(directory)
            server = ServerState.from_filed(manifest.round, Store(directory / MAIN_SERVER).read(manifest.round, manifest.main_server))
        return cls(directory, manifest, State.from_filed(manifest.round, flat, manifest.state["fed_server"]), server, noted.plain())

    def server_tensors(self, blueprint: Blueprint) -> dict[str, Tensor]:
        """The main server's global ones; before the first round those of the seed."""
        return initial_server_tensors(blueprint) if self.server is None else dict(self.server.tensors)

    def check(self, directory: Path | str, tensors: Mapping[str, Tensor]) -> None:
        """`RunDirectoryError` unless the tensors are those that the manifest names."""
        found = digest(fingerprints(tensors))
        if found != self.manifest.digest:
            raise RunDirectoryError(
                f"{directory}: the tensors have the digest {found[:16]}…, but the manifest names {self.manifest.digest[:16]}…. "
                "Restore the checkpoint from one copy."
            )

    def own(self, config: Config, client: str | None) -> dict[str, Tensor]:
        """A client's own tensors. `ConfigError` where rules keep some and no client is named, or one that has none."""
        names = [*self.client.tensors, *(self.server.tensors if self.server else ())]
        local = [name for name in sorted(names) if config.averaging.over(name) == "nothing"]
        if client is None:
            if local and self.manifest.round:
                raise ConfigError(
                    f"averaging.rules keeps {local[0]} and {len(local) - 1} more with each client, so that there is no one model. "
                    f"Name a client, with --client: {', '.join(sorted(self.locals)[:5])}."
                )
            return {}
        if client not in self.locals and client not in (self.server.local if self.server else {}):
            raise ConfigError(f"client {client} has no tensors of its own in this run. Leave --client out, or name one that has.")
        found = dict(self.server.local.get(client, {})) if self.server else {}
        if client in self.locals:
            found |= Store(self.directory / "clients" / client).read(*self.locals[client])
        return {name: value for name, value in found.items() if name in local}


def _whole(
    name: str, config: Config, encoders: "Mapping[str, PreTrainedModel]", example: Mapping[str, Tensor] | None
) -> tuple[Whole, Widths]:
    """An encoder with the weights that both sides compute with, and the widths of its cut."""
    settings = config.modalities[name]
    source, settings = _source(name, settings, encoders)
    folder = cut_folder(source)
    if example is None:
        # A source is a text only where it names a folder that was cut.
        example = example_for(cast("PreTrainedModel", source) if folder is None else bare(folder / "head", origins(folder)[0]))
    one = sides(name, settings, config.compute, source, example)
    exact = folder is None and settings.head_dtype == "float32"
    model = one.model if exact else _joined(name, one)
    return Whole(model, one.tail.plan, one.tail.pooling), widths_of(name, settings, one.head, one.tail)


@torch.no_grad()
def _with_trained(one: Whole, name: str, tensors: Mapping[str, Tensor]) -> Whole:
    """The encoder with its own weights as the run has trained them, where it was not frozen."""
    own = {key.split(".", 2)[2]: value for key, value in tensors.items() if key.startswith((f"{name}.{HEAD}.", f"{name}.{TAIL}."))}
    if not own:
        return one
    model = copy.deepcopy(one.model)
    for key, parameter in model.named_parameters():
        if key in own:
            parameter.copy_(own[key])
    return replace(one, model=model)


def _source(name: str, settings: Modality, encoders: "Mapping[str, PreTrainedModel]") -> tuple["str | PreTrainedModel", Modality]:
    """A folder that was cut, else the model itself."""
    if name in encoders:
        return encoders[name], settings
    if settings.encoder == OBJECT:
        raise ConfigError(
            f"modalities.{name}.encoder is an object that a program passed to the run. Pass it again: "
            f'm2fedsa.load(directory, encoders={{"{name}": model}}).'
        )
    if cut_folder(settings.encoder):
        return settings.encoder, settings
    try:
        model = load(settings.encoder, settings.revision)
    except WeightsError as error:
        raise WeightsError(f"modalities.{name}.encoder = {error}") from error
    return model, settings.model_copy(update={"revision": None})


@torch.no_grad()
def _joined(name: str, one: Measured) -> "PreTrainedModel":
    """The encoder in one piece, with what a head in few bits stands for. `WeightsError` if that is not what both sides compute."""
    found = {**whole_weights(one.tail.encoder), **whole_weights(one.head.encoder)}
    model: Any = Frozen(one.model, list(one.model.state_dict())).encoder
    place(model, found)
    mask = one.example.get(architecture(one.tail.plan.model_type).mask)
    split = one.tail(one.head(one.example), mask, specify(one.example))
    joined = whole(model, one.example, one.tail.pooling)
    apart = float((split - joined).abs().max() / split.abs().max())
    if not apart <= _APART:
        raise WeightsError(
            f"modalities.{name}: head and tail hold different copies of a tensor that both need, the head in {one.head.dtype}; "
            f"in one piece the encoder is off by {apart:.1e}. Such a run cannot be exported."
        )
    return cast("PreTrainedModel", model)
