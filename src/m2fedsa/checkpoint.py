"""The manifest that ties the parts of a round together, with digests; each party keeps the tensors that it holds in a `Store` of its own.

The manifest is the moment at which a round becomes part of the run: what it does not name does not count.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m2fedsa.errors import RunDirectoryError
from m2fedsa.storage import write_atomically

MANIFEST = "manifest.json"


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
    """what the fed server knows beyond tensors: losses, phase, accounts"""

    def write(self, directory: Path) -> None:
        """Put the manifest in force."""
        write_atomically(directory / MANIFEST, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The manifest in force; None before the first checkpoint. `RunDirectoryError` if it is not readable."""
        path = directory / MANIFEST
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text())
            values["clients"] = {name: (int(number), str(file)) for name, (number, file) in values["clients"].items()}
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise RunDirectoryError(
                f"{path}: is not a manifest of this version ({error}). Restore it from a copy, or start again in a new directory."
            ) from error
