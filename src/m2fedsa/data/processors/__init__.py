"""From decoded pictures, waveforms, frames, texts, records and series to what an encoder takes, by the processor beside the encoder.

Networks are unknown here: an encoder is a folder or a name on the hub, and only its processor's files and its config.json are read. Where
there are none, pictures become squares in [-1, 1] (MobileNet, ViT) and waveforms log-mel patches (YAMNet); texts, records and series need
theirs.

N items, S pixels a side, T frames or readings, L tokens, C channels or columns.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m2fedsa.errors import ConfigError
from m2fedsa.hub import out_of_reach, reachable, refusal

Inputs = dict[str, Tensor]
"""An encoder's keyword arguments, first dimension N."""
_SETTINGS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_WITHOUT_FILES = ("embedded:", "random:", "object")
"""Encoders that are no folder, so that no processor lies beside them."""


def place_of(processors: Mapping[str, str], modality: str) -> str:
    """Where the processor of a modality lies. Errors: ConfigError for a modality without an encoder."""
    if modality not in processors:
        raise ConfigError(f"modalities.{modality} is missing: the data has this modality, and it needs an encoder.")
    return processors[modality]


def own(kind: Any, processors: Mapping[str, str], modality: str, **options: Any) -> Any:
    """The processor of this kind that lies with a modality's encoder; None if the encoder is a folder without one, or no folder at all.

    Code that lies there is not run. Errors: ConfigError where it cannot be read.
    """
    where = place_of(processors, modality)
    if where.startswith(_WITHOUT_FILES):
        return None
    folder = folder_of(where, modality)
    if folder is not None and "Tokenizer" not in kind.__name__ and not any((folder / name).is_file() for name in _SETTINGS):
        return None
    asked = folder is None and reachable()
    try:
        return kind.from_pretrained(str(folder or where), local_files_only=not asked, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        if folder is None:
            nowhere = not asked and not encoder_facts(processors, modality)
            if refused := out_of_reach(where) if nowhere else refusal(error, where, None):
                raise ConfigError(f"modalities.{modality}.encoder = {refused}") from error
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        raise ConfigError(
            f"modalities.{modality}.encoder = {where!r}, but no processor of its inputs can be read there "
            f"({type(error).__name__}: {reason}). Give a folder that has one, or name that with modalities.{modality}.processor."
        ) from error


def folder_of(where: str, modality: str) -> Path | None:
    """The folder that is meant; None for a name on the hub. Errors: ConfigError for a path at which there is none."""
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    # The hub's names are `name` or `owner/name`.
    if where.startswith((".", "/", "~")) or len(folder.parts) > 2:
        raise ConfigError(f"modalities.{modality}.encoder = {where!r}, but there is no such folder. Give one, or a name on the hub.")
    return None


def encoder_facts(processors: Mapping[str, str], modality: str) -> dict[str, Any]:
    """What config.json says of the encoder that a processor lies beside; empty where there is no such file."""
    return _json_beside(processors, modality, "config.json")


def settings_beside(processors: Mapping[str, str], modality: str, kind: str) -> dict[str, Any]:
    """What preprocessor_config.json says, if it is of this kind of this package's; else nothing."""
    found = _json_beside(processors, modality, "preprocessor_config.json")
    return found if found.get("processor_class") == kind else {}


def _json_beside(processors: Mapping[str, str], modality: str, name: str) -> dict[str, Any]:
    where = place_of(processors, modality)
    if where.startswith(_WITHOUT_FILES):
        return {}
    folder = folder_of(where, modality)
    if folder is None:
        from transformers.utils.hub import cached_file

        silent = ("missing_entries", "connection_errors", "gated_repo")
        options = {f"_raise_exceptions_for_{what}": False for what in silent}
        found = cached_file(where, name, local_files_only=not reachable(), **options)
        path = None if found is None else Path(found)
    else:
        path = folder / name
    try:
        facts: dict[str, Any] = {} if path is None or not path.is_file() else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"modalities.{modality}.encoder = {where!r}: {name} cannot be read ({error}).") from error
    return facts
