"""Encoders of records and series, made from a manifest: what `m2fedsa encoder` does.

Nobody publishes one encoder for all tables. Whoever has rows that may be shown (public ones, one's own) makes a small one from them: its
columns and their scale, and weights that learned, without any label, to guess what was hidden of a row.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2fedsa.durable import unfinished
from m2fedsa.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recipe:
    """Sizes and pretraining of a small encoder."""

    width: int = 64
    blocks: int = 3
    epochs: int = 20
    """passes over the rows; 0 leaves the weights as they are drawn"""
    seed: int = 0
    hidden: float = 0.3
    """share of a row that is hidden in pretraining"""
    learning_rate: float = 1e-3
    batch_size: int = 128


@dataclass(frozen=True)
class Made:
    """An encoder in a folder."""

    folder: Path
    parameters: int
    rows: int
    """that it was made from"""
    facts: dict[str, Any]
    """what its processor knows of them"""
    first: float | None
    """mean error of guessing what is hidden, of rows that it was not trained on: before pretraining"""
    last: float | None
    """and of the encoder that was kept: no more than before, since weights that pretraining made worse are taken back"""


def is_taken(folder: Path) -> bool:
    """Whether there is something in the way of an encoder in this folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def require_free(folder: Path) -> None:
    """Errors: ConfigError for a folder that is in use."""
    if is_taken(folder):
        raise ConfigError(f"{folder}: is there already, and not empty. Choose another --out, or remove it.")


def write_encoder(model: "PreTrainedModel", facts: dict[str, Any], folder: Path, told: dict[str, Any]) -> None:
    """Write an encoder as a folder: weights, config.json, preprocessor_config.json (`facts`), pretraining.json (`told`).

    Errors: ConfigError for a folder that is in use.
    """
    require_free(folder)
    place = unfinished(folder)
    shutil.rmtree(place, ignore_errors=True)
    try:
        model.save_pretrained(place)
        for name, content in (("preprocessor_config.json", facts), ("pretraining.json", told)):
            (place / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        place.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
