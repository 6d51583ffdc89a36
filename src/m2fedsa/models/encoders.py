"""Where frozen encoders come from: the package itself, a folder, the Hugging Face hub, or the user's own hands.

transformers is imported when an encoder is loaded, and of it only the model's own family.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from m2fedsa.errors import WeightsError
from m2fedsa.hub import reachable, refusal
from m2fedsa.models.shapes import RANDOM, drawn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED = "embedded:"
_FOLDER = Path(__file__).parent / "embedded"
_PRETRAINING_ONLY = ("mask_token", "masked_spec_embed")
"""Tensors that only masked pretraining reads; checkpoints often lack them."""
_TOWERS = {
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
"""Family of a checkpoint that holds more than an encoder -> the class that reads its encoder alone."""


def load(source: "str | PreTrainedModel", revision: str | None = None, dtype: torch.dtype | None = torch.float32) -> "PreTrainedModel":
    """An encoder in `dtype` (None: as it is stored), in evaluation mode, without gradients.

    source: "embedded:digits-image" for one that ships with the package, "random:swin-tiny" for one with random weights, a folder that
    `save_pretrained` wrote, a name on the hub (of which `revision` picks a commit, tag or branch), or a model, which is frozen and
    returned.

    A pooler that the checkpoint lacks is left out rather than drawn at random. Heads of other tasks in the checkpoint are ignored. Of a
    checkpoint with more than one part comes the encoder: the vision tower of CLIP and SigLIP, the encoder of T5, Whisper, BART. A stored
    `dtype` is mapped into memory, not read: pages that are not looked at cost nothing.
    Raises `WeightsError` if a folder or file is missing or broken, if the hub refuses, or if the weights do not fit their configuration.
    """
    if not isinstance(source, str):
        return _freeze(source)
    if source.startswith(RANDOM):
        return _freeze(drawn(source.removeprefix(RANDOM)))
    folder = _folder(source)
    if folder is not None and not (folder / "config.json").is_file():
        raise WeightsError(f"{source}: {folder} has no config.json; an encoder is a folder as `save_pretrained` writes it")
    with quiet():
        model, report = _read(source, folder, revision, dtype)
    _fit(source, model, report)
    if model.config.is_encoder_decoder and getattr(model, "decoder", None) is not None:
        model = model.get_encoder()
    return _freeze(model)


def folder_of(source: str) -> Path | None:
    """The folder that `source` names, None if it names a model on the hub or random weights. `WeightsError` if it is neither."""
    return None if source.startswith(RANDOM) else _folder(source)


def _freeze(model: "PreTrainedModel") -> "PreTrainedModel":
    model.train(False)
    model.requires_grad_(False)
    return model


def _folder(source: str) -> Path | None:
    """The folder that `source` names, None if it names a model on the hub."""
    if source.startswith(EMBEDDED):
        folder = _FOLDER / source.removeprefix(EMBEDDED)
        if not folder.is_dir() or folder.parent != _FOLDER:
            known = sorted(f"{EMBEDDED}{path.name}" for path in _FOLDER.glob("*/") if (path / "config.json").is_file())
            raise WeightsError(f"{source} does not ship with this package; what does: {', '.join(known) or 'nothing'}")
        return folder
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    # The hub's names are `name` or `owner/name`.
    if source.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise WeightsError(f"{source} is not a folder; an encoder is a folder as `save_pretrained` writes it, or a name on the hub")
    return None


def _read(source: str, folder: Path | None, revision: str | None, dtype: torch.dtype | None) -> tuple["PreTrainedModel", dict[str, Any]]:
    from safetensors import SafetensorError
    from transformers import AutoConfig

    where = str(folder or source)
    importlib.import_module("m2fedsa.models.tabular")  # which tells transformers of itself
    options: dict[str, Any] = {"local_files_only": folder is not None or not reachable(), "revision": revision or "main"}
    try:
        config = AutoConfig.from_pretrained(where, **options)
        if getattr(config, "do_mask_input", False):
            config.do_mask_input = False  # as PatchTST was pretrained; it would hide a part of every series for ever
        kind = _class_of(config)
        if config.model_type in _TOWERS:
            config = kind.config_class.from_pretrained(where, **options)
        found: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            where, config=config, dtype=dtype or "auto", output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except SafetensorError as error:
        raise WeightsError(f"{source}: a file of weights in {where} is broken or cut short ({error}); copy it again") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if folder is None and (refused := refusal(error, source, revision)):
            raise WeightsError(refused) from error
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{source}: no encoder could be loaded from {where} ({type(error).__name__}: {reason})") from error
    return found


def _class_of(config: Any) -> Any:
    """The class that wrote the checkpoint if that is an encoder alone (T5EncoderModel), else the one that its family is read with."""
    import transformers

    if config.model_type in _TOWERS:
        return getattr(transformers, _TOWERS[config.model_type])
    for name in config.architectures or []:
        if name.endswith("Model") and hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.AutoModel


def _fit(source: str, model: "PreTrainedModel", report: dict[str, Any]) -> None:
    """Raise `WeightsError` unless every tensor of the encoder was read, and every tensor for it used."""
    missing = {name for name in report["missing_keys"] if name.rpartition(".")[2] not in _PRETRAINING_ONLY}
    if missing and all(name.startswith("pooler.") for name in missing):
        setattr(model, "pooler", None)  # noqa: B010  (for its type a module is a module)
        missing = set()
    parts = {name for name, _ in model.named_children()}
    unexpected = {name for name in report["unexpected_keys"] if name.partition(".")[0] in parts}
    shapes = {f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]}
    faults = [
        f"{len(names)} tensors {what} ({', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''})"
        for what, names in (("are missing", missing), ("are too many", unexpected), ("have another shape", shapes))
        if names
    ]
    if faults:
        raise WeightsError(f"{source}: the weights do not fit config.json of {type(model).__name__}: {'; '.join(faults)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its table of what it loaded: `_fit` says what matters."""
    import transformers

    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
