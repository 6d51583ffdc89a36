"""A trained run at a client that holds heads alone: the tails of the encoders, and fusion, answer from the main server.

B batch, B_m its samples that have modality m, M modalities of the client, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m2fedsa.assembly import cpu_threads
from m2fedsa.blueprint import FUSED, Blueprint
from m2fedsa.client import Client, Shared
from m2fedsa.config import Config, Modality
from m2fedsa.cutting import processor_files
from m2fedsa.data.samples import UNLABELLED, ClientData, InMemorySamples
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.keepsake import Keepsake
from m2fedsa.deploy.links import link_of
from m2fedsa.deploy.places import CLIENT_TOML, HEADS, STATE
from m2fedsa.deploy.programs import ClientProgram, read_program
from m2fedsa.deploy.site import shared_of
from m2fedsa.errors import RefusedError
from m2fedsa.links.grpc_client import GrpcLink
from m2fedsa.messages import ALL, GlobalView
from m2fedsa.models.encoders import EMBEDDED
from m2fedsa.prediction import Answers, predict


@dataclass(frozen=True)
class Remote:
    """Answers as `trained.TrainedModel` does: activations go to the main server, features come back."""

    name: str
    modalities: tuple[str, ...]
    """of the client, in the run's order"""
    classes: tuple[str, ...]
    shared: Shared
    view: GlobalView
    local: Mapping[str, Tensor]
    """tensors that are the client's own, where averaging rules say so"""
    link: GrpcLink

    @property
    def blueprint(self) -> Blueprint:
        """Of the run."""
        return self.shared.blueprint

    def answers(self, logits: Tensor) -> Tensor:
        """See `TrainedModel.answers`."""
        return self.blueprint.task.answers(logits, self.view.log_prior)

    def __call__(self, inputs: Mapping[str, Mapping[str, Tensor]], presence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`fused`, and each modality of `inputs`: logits (B, K), NaN in rows of samples without it.

        inputs: modality -> the arguments of its head, rows of the samples that have it. presence: modality -> (B,) bool. Errors are those
        of the link: `RefusedError`, `LinkError`, `ProtocolError`.
        """
        samples = _samples(self.modalities, inputs, presence)
        client = Client(self.name, ClientData(self.modalities, test=samples), self.shared, self.link, dict(self.local))
        with cpu_threads(self.blueprint.config.compute.threads):
            found = client.sweep("test", self.view).logits([ALL, *((name,) for name in inputs)])
        told = {}
        for subset, (rows, logits) in found.items():
            values = logits.new_full((len(samples.labels), logits.shape[1]), float("nan"))
            values[rows] = logits
            told[subset[0] if subset else FUSED] = values
        return told


def _samples(modalities: tuple[str, ...], inputs: Mapping[str, Mapping[str, Tensor]], presence: Mapping[str, Tensor]) -> InMemorySamples:
    """A batch as the samples of a client."""
    number = len(next(iter(presence.values())))
    held = torch.stack([presence.get(name, torch.zeros(number, dtype=torch.bool)) for name in modalities], 1)
    places = held.cumsum(0) - 1
    return InMemorySamples(inputs, places, torch.full((number,), UNLABELLED), held, modalities)


def predict_via(folder: Path, manifest: str, *, paths: str | None = None, skip: bool = False) -> Answers:
    """What the run says of each row of a manifest that lies at a client.

    folder: the client's. paths, skip: see `prediction.predict`. `InputError` if something in the folder or the manifest cannot be used, or
    if the run has not ended yet; `LinkError` if the main server cannot be reached, `RefusedError` if it does not let the client in.
    """
    remote, config = opened_at(folder)
    try:
        return predict(remote, config, manifest, folder=paths, skip=skip)
    except RefusedError as error:
        raise RefusedError(f"{error} `m2fedsa fed-server`, started once more, gives all that it still admits a new token.") from error
    finally:
        remote.link.close()


def opened_at(folder: Path) -> tuple[Remote, Config]:
    """The run at a client's folder, and its settings with processors as they lie beside the heads.

    `InputError` if something in the folder is missing or broken, or if the run has not ended yet.
    """
    program, drawing = read_program(folder / CLIENT_TOML, ClientProgram), Drawing.read(folder)
    kept = Keepsake.read(folder / STATE)
    modalities = tuple(program.modalities)
    shared = shared_of(folder, drawing, modalities)
    link = link_of(folder, program)
    link.token = kept.token
    owner = Client(program.name, ClientData(modalities), shared, link)
    if kept.local is not None:
        owner.restore(*kept.local)
    config = drawing.blueprint.config
    read = {name: _beside(one, folder / HEADS / name) if name in modalities else one for name, one in config.modalities.items()}
    remote = Remote(program.name, modalities, drawing.classes, shared, kept.view, owner.local, link)
    return remote, config.model_copy(update={"modalities": read})


def _beside(settings: Modality, head: Path) -> Modality:
    """Inputs are made as the files beside the head say, for the whole encoder does not lie here; but a processor of its own is kept."""
    if settings.encoder.startswith(EMBEDDED) or (settings.processor is not None and not processor_files(str(head))):
        return settings
    return settings.model_copy(update={"processor": str(head)})
