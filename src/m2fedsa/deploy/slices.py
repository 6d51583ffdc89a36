"""Head and tail of every modality, cut before anything is handed out: clients get the one folder, the main server the other."""

import shutil
from pathlib import Path

from m2fedsa.assembly import example_of
from m2fedsa.complaints import shown
from m2fedsa.config import Config, Modality
from m2fedsa.cutting import PROCESSOR_FILES, Choice, cut_model, processor_files
from m2fedsa.data.samples import FederatedData
from m2fedsa.errors import ConfigError
from m2fedsa.ledger import Measured
from m2fedsa.models.encoders import load
from m2fedsa.models.precision import fed
from m2fedsa.models.slices import cut_folder, origins
from m2fedsa.sides import sides


def cut_all(config: Config, data: FederatedData, out: Path) -> dict[str, Measured]:
    """Write `out/<modality>/head` and `tail`, and read them again as the parties will. `InputError` if an encoder cannot be cut."""
    measured = {}
    for name in data.modalities:
        settings = config.modalities[name]
        _cut(settings, data, name, out / name)
        _give_processor(settings, out / name / "head")
        measured[name] = sides(name, _from_folder(settings), config.compute, str(out / name), example_of(data, name))
    return measured


def _cut(settings: Modality, data: FederatedData, name: str, out: Path) -> None:
    folder = cut_folder(settings.encoder)
    if folder is not None:
        origins(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, out)
        return
    model = load(settings.encoder, settings.revision)
    pooling = None if settings.pooling == "default" else settings.pooling
    choice = Choice(settings.block, settings.head_dtype, settings.blocks, settings.keep, pooling)
    beside = processor_files(settings.encoder, settings.revision)
    cut_model(model, fed(model, example_of(data, name)), choice, out, settings.encoder, settings.revision, beside)


def _give_processor(settings: Modality, head: Path) -> None:
    """A processor of the settings' own takes the place of the encoder's beside the head: by it a client reads new samples."""
    if settings.processor is None:
        return
    for name in PROCESSOR_FILES:
        (head / name).unlink(missing_ok=True)
    for file in processor_files(settings.processor):
        shutil.copy(file, head)


def _from_folder(settings: Modality) -> Modality:
    """The settings of a modality whose encoder was cut: what the folder tells itself is left out."""
    return settings.model_copy(update={"keep": (), "revision": None, "blocks": None, "head_dtype": "float32"})


def described(slices: Path) -> dict[str, str]:
    """What was cut, and the SHA-256 of both files; see `drawing.Drawing.slices`."""
    head, tail = origins(slices)
    return {"encoder": head.encoder, "digest": head.digest, "head": head.weights, "tail": tail.weights}


def check_deployable(config: Config) -> None:
    """`ConfigError` for what only one process can do."""
    federation = config.federation
    for key, found, right in (
        ("federation.server_update", federation.server_update, "copies"),
        ("federation.client_update", federation.client_update, "parallel"),
        ("federation.split", federation.split, True),
        *((f"modalities.{name}.frozen", one.frozen, True) for name, one in config.modalities.items()),
    ):
        if found != right:
            raise ConfigError(f"{key} = {shown(found)} is for comparison in one process. Set {shown(right)} to deploy.")
    parts = config.objects.model_dump(exclude_none=True)
    if parts:
        part, named = next(iter(parts.items()))
        raise ConfigError(f'objects.{part} = "{named}": parts that are passed to run cannot be deployed. Leave the key out.')
    if config.data.source == "object" or any(one.encoder == "object" for one in config.modalities.values()):
        raise ConfigError("these settings name objects that were passed to run; a deployment needs a data source and encoders by name.")
