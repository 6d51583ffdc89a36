"""The manifest that ties the parts of a round together, with digests; each party keeps the tensors that it holds in a `Store` of its own.

The manifest is the moment at which a round becomes part of the run: what it does not name does not count.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError

MANIFEST, SEAL = "manifest.json", "sha256"


@dataclass(frozen=True)
class Manifest:
    """Which files make up the state after a round."""

    round: int
    fed_server: str
    """SHA-256 of its file"""
    main_server: str | None
    """None before the first round, when its tensors are those of the seed"""
    clients: Mapping[str, tuple[int, str]]
    """client -> (round, SHA-256) of its local tensors"""
    digest: str
    """of all global trainable tensors"""
    state: Mapping[str, Any] = field(default_factory=dict)
    """what the fed server knows beyond tensors: losses, phase"""

    def write(self, directory: Path) -> None:
        """Put the manifest in force."""
        values = asdict(self)
        write_atomically(directory / MANIFEST, json.dumps({**values, SEAL: _seal(values)}, indent=1).encode())

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The manifest in force; None before the first checkpoint. `RunDirectoryError` if it was altered or cut short."""
        path = directory / MANIFEST
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text())
            if values.pop(SEAL) != _seal(values):
                raise ValueError("its values do not have the SHA-256 that it names")
            values["clients"] = {name: (int(number), str(file)) for name, (number, file) in values["clients"].items()}
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunDirectoryError(
                f"{path}: was altered or cut short, or is of another version of m2fedsa ({error}). "
                "Restore it from a copy, or begin a new run with --out."
            ) from error


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
