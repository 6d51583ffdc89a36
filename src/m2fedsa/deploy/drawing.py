"""What every party's folder holds besides its own: the settings, and what was measured when the folders were made.

    config.toml      the settings of the run, the same everywhere
    blueprint.json   widths, classes, which slices go with which, who may shorten texts

With these a party assembles itself without the encoders and samples of the others, and to the same bits as in one process.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2fedsa.blueprint import Blueprint, Widths
from m2fedsa.config import Config
from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError

CONFIG, BLUEPRINT = "config.toml", "blueprint.json"
FORMAT = 1
"""Of blueprint.json and of what the parties say to each other; another one is another protocol."""


@dataclass(frozen=True)
class Drawing:
    """Settings, and what was measured on the encoders and samples that no party has all of."""

    blueprint: Blueprint
    classes: tuple[str, ...]
    shortens: frozenset[str]
    """modalities whose batches lose the padding that no sample needs"""
    slices: Mapping[str, Mapping[str, str]]
    """modality -> `encoder`, its name; `digest` of all its tensors; `head` and `tail`, SHA-256 of their files"""

    def write(self, folder: Path) -> None:
        """Both files."""
        values = {
            "format": FORMAT,
            "classes": self.classes,
            "widths": {name: asdict(one) for name, one in self.blueprint.widths.items()},
            "shortens": sorted(self.shortens),
            "slices": self.slices,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, self.blueprint.config.to_toml().encode())
        write_atomically(folder / BLUEPRINT, json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> "Drawing":
        """What `write` wrote. `InputError` if a file is missing, broken or of another version."""
        config = Config.from_file(folder / CONFIG)
        values = read_json(folder / BLUEPRINT)
        if values.get("format") != FORMAT:
            raise RunDirectoryError(
                f"{folder / BLUEPRINT}: has format {values.get('format')}, but this version of m2fedsa reads format {FORMAT}. "
                "Install the version that wrote it, or run `m2fedsa deploy init` again."
            )
        try:
            widths = {name: Widths(**one) for name, one in values["widths"].items()}
            classes = tuple(values["classes"])
            return cls(Blueprint(config, widths, len(classes)), classes, frozenset(values["shortens"]), values["slices"])
        except (KeyError, TypeError) as error:
            raise RunDirectoryError(f"{folder / BLUEPRINT}: was altered ({error}). Copy the folder again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. `RunDirectoryError` if the file is missing or is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}. Copy the folder again, as `m2fedsa deploy init` wrote it.") from error
    if not isinstance(values, dict):
        raise RunDirectoryError(f"{path}: holds no JSON object. Copy the folder again.")
    return values
