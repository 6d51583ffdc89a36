"""A trained run as a folder of its own, for whoever only wants to predict:

    DIR/
        encoders/NAME/        an ordinary Hugging Face encoder in one piece, with its tokenizer or processor where the run had one
        adapters.safetensors  everything that was trained, by its flat name, and the class frequencies that the logits assume
        model.json            classes, and per modality where its adapters sit and how wide they are
        settings.toml         the settings that the networks are built from
        README.md             a model card

    model = m2fedsa.load("DIR")
    logits = model({"text": {"input_ids": ids, "attention_mask": mask}})["fused"]

Head and tail are joined again, a head in few bits with the numbers that it stood for, so that the logits are those of the federation.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from m2fedsa.assembly import OBJECT
from m2fedsa.blueprint import Blueprint, Widths
from m2fedsa.config import Columns, Compute, Config, Data, Modality
from m2fedsa.cutting import processor_files
from m2fedsa.durable import unfinished, write_atomically
from m2fedsa.errors import ConfigError, CutError, StorageError, WeightsError
from m2fedsa.models.encoders import EMBEDDED, quiet
from m2fedsa.models.encoders import load as load_encoder
from m2fedsa.models.plan import Plan
from m2fedsa.models.precision import prepared
from m2fedsa.models.shapes import RANDOM
from m2fedsa.models.tensor_file import content
from m2fedsa.prediction import described
from m2fedsa.reporting.files import RunFiles, read_config
from m2fedsa.reporting.model_card import model_card
from m2fedsa.restoring import from_run
from m2fedsa.sides import processor_place
from m2fedsa.trained import TrainedModel, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

ENCODERS, ADAPTERS, MODEL, SETTINGS, CARD = "encoders", "adapters.safetensors", "model.json", "settings.toml", "README.md"
LOG_PRIOR = "log_prior"
"""Name of log π among the tensors."""
FORMAT = 1


def load(path: Path | str, **parts: Any) -> TrainedModel:
    """The trained model of a run directory or of an export. parts: see `restoring.from_run`."""
    folder = Path(path)
    return read(folder) if (folder / MODEL).is_file() and not parts else from_run(folder, **parts)


def opened(path: Path | str, client: str | None = None) -> tuple[TrainedModel, Config]:
    """The trained model of a run directory or of an export, and the settings that say how its modalities are read.

    client: see `restoring.from_run`. `ConfigError` if one is named for an export, which is of one client or of all.
    """
    folder = Path(path)
    if not (folder / MODEL).is_file():
        return from_run(folder, client), read_config(folder)
    if client is not None:
        raise ConfigError(f"--client {client}: {folder} is an export, whose tensors were chosen when it was written. Leave --client out.")
    return read(folder), _placed(folder)


def export(directory: Path | str, out: Path, client: str | None = None, encoders: "Mapping[str, PreTrainedModel] | None" = None) -> Path:
    """Write the model of a run directory to `out`, which must not be there yet. Read again and compared before it gets its name.

    client, encoders: see `restoring.from_run`. `InputError` if there is no such model, `StorageError` if it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: is there already, and not empty. Choose another --out, or remove it.")
    files, model = RunFiles.read(directory), from_run(directory, client, encoders)
    place = unfinished(out)
    shutil.rmtree(place, ignore_errors=True)
    try:
        _write(place, model, files)
        _compare(model, read(place))
        with suppress(FileNotFoundError):
            out.rmdir()
        place.rename(out)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}. Nothing written earlier is lost.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return out


def _write(place: Path, model: TrainedModel, files: RunFiles) -> None:
    from safetensors.torch import save_file

    place.mkdir(parents=True)
    for name in model.modalities:
        folder = place / ENCODERS / name
        with quiet():
            model.whole(name).model.save_pretrained(folder)
        settings = files.config.modalities[name]
        for path in processor_files(processor_place(settings.processor or settings.encoder), settings.revision):
            shutil.copyfile(path, folder / path.name)
    tensors = {**model.trained_tensors(), LOG_PRIOR: model.log_prior}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, place / ADAPTERS, metadata={"format": "pt"})
    write_atomically(place / SETTINGS, _settings(model).to_toml().encode())
    write_atomically(place / MODEL, (json.dumps(_facts(model), indent=1) + "\n").encode())
    write_atomically(place / CARD, model_card(model, files, place / ENCODERS).encode())


def _settings(model: TrainedModel) -> Config:
    """What the networks are built from, and how samples are read; of where data and encoders lay nothing."""
    config = model.blueprint.config
    modalities = {}
    for name in model.modalities:
        one = described(name, config)
        told = {"encoder": f"{ENCODERS}/{name}", "processor": _without_files(one), "revision": None, "head_dtype": "float32"}
        modalities[name] = one.model_copy(update=told)
    data = Data(source=OBJECT, task=config.data.task, columns=Columns(id=config.data.columns.id))
    compute = Compute(precision=config.compute.precision, attention=config.compute.attention, device="cpu")
    return Config(
        name=config.name, seed=config.seed, data=data, modalities=modalities, fusion=config.fusion, loss=config.loss, compute=compute
    )


def _without_files(settings: Modality) -> str | None:
    """The processor of a modality where it is a part of this package and so has no files that could lie beside the encoder."""
    where = processor_place(settings.processor or settings.encoder)
    return where if where.startswith((EMBEDDED, RANDOM)) else None


def _placed(folder: Path) -> Config:
    """The settings of an export, with its encoders where they lie."""
    config = Config.from_file(folder / SETTINGS)
    modalities = {name: one.model_copy(update={"encoder": str(folder / one.encoder)}) for name, one in config.modalities.items()}
    return config.model_copy(update={"modalities": modalities})


def _facts(model: TrainedModel) -> dict[str, Any]:
    """model.json."""
    modalities = {}
    for name in model.modalities:
        one = model.whole(name)
        modalities[name] = {
            "plan": json.loads(one.plan.to_json()),
            "pooling": one.pooling,
            "widths": asdict(model.blueprint.widths[name]),
        }
    versions = {name: version(name) for name in ("m2fedsa", "torch", "transformers")}
    return {"format": FORMAT, "classes": list(model.classes), "modalities": modalities, "versions": versions}


def read(folder: Path) -> TrainedModel:
    """The model that `export` wrote. `WeightsError` if a file is missing, altered or of another version, or for an encoder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']}, this version reads {FORMAT}")
        classes = tuple(facts["classes"])
        plans = {name: Plan.from_json(json.dumps(one["plan"])) for name, one in facts["modalities"].items()}
        widths = {name: Widths(**one["widths"]) for name, one in facts["modalities"].items()}
        tensors = load_file(folder / ADAPTERS)
        log_prior = tensors.pop(LOG_PRIOR)
    except (OSError, ValueError, TypeError, KeyError, CutError, SafetensorError) as error:
        raise WeightsError(
            f"{folder}: is not what `m2fedsa export` writes ({type(error).__name__}: {error}). Export the run again."
        ) from error
    config = Config.from_file(folder / SETTINGS)
    wholes = {}
    for name, plan in plans.items():
        model = prepared(load_encoder(str(folder / ENCODERS / name), dtype=None), config.compute)
        wholes[name] = Whole(model, plan, cast(Any, facts["modalities"][name]["pooling"]))
    return TrainedModel(Blueprint(config, widths, len(classes)), wholes, tensors, log_prior, classes)


def _compare(ours: TrainedModel, theirs: TrainedModel) -> None:
    """`WeightsError` unless what was read again has the same numbers: what a configuration does not tell would be lost unseen."""
    for name in ours.modalities:
        here, there = (one.whole(name).model.state_dict() for one in (ours, theirs))
        lost = [key for key, tensor in here.items() if key not in there or content(tensor) != content(there[key])]
        if lost:
            raise WeightsError(
                f"modalities.{name}: {type(ours.whole(name).model).__name__} cannot be saved as a folder: read again, {lost[0]} and "
                f"{len(lost) - 1} more tensors differ. Such a run cannot be exported."
            )
