"""The manifest that ties the parts of a round together, with digests; each party keeps the tensors that it holds in a `Store` of its own.

The manifest is the moment at which a round becomes part of the run: what it does not name does not count.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError

MANIFEST, SEAL = "manifest.json", "sha256"
MAIN_SERVER = "main_server"
"""The folder of the main server's part, where all parts lie in one directory."""
LOCALS = "locals/"
"""First part of the names of what is noted of clients' files."""


@dataclass(frozen=True)
class Manifest:
    """Which files make up the state after a round."""

    round: int
    fed_server: str
    """SHA-256 of its file, in which those of the clients' local tensors stand"""
    main_server: str | None
    """None before the first round, when its tensors are those of the seed"""
    digest: str
    """of all global trainable tensors"""
    state: Mapping[str, Any] = field(default_factory=dict)
    """what the fed server knows beyond tensors: losses, phase"""
    best: Mapping[str, Any] | None = None
    """the manifest of the best round so far, where the settings ask for it to be kept"""

    @property
    def chosen(self) -> "Manifest":
        """What is the outcome if the run ends here: the best round, or this one where none is kept."""
        return self if self.best is None else Manifest(**self.best)

    def check_whole(self, directory: Path) -> None:
        """`RunDirectoryError` if the main server's part of the checkpoint lies elsewhere."""
        if self.main_server is not None and not (directory / MAIN_SERVER).is_dir():
            raise RunDirectoryError(
                f"{directory.parent}: is the run of a deployment, whose main server keeps what it trained in a folder of its own. "
                "`m2fedsa fed-server` goes on with it; a client predicts by `m2fedsa predict CLIENT_DIR MANIFEST --via`. To have all of it "
                "here, where its owner gives it away, copy state/checkpoint of the main server's folder to "
                f"{directory / MAIN_SERVER}."
            )

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
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunDirectoryError(
                f"{path}: was altered or cut short, or is of another version of m2fedsa ({error}). "
                "Restore it from a copy, or begin a new run with --out."
            ) from error


class LocalFiles:
    """Which file of local tensors counts for each client: in tensors, so that ten thousand clients cost a file next to nothing."""

    def __init__(self, clients: Iterable[str]) -> None:
        """`clients`: the registry, which stays the same for a whole run. None has local tensors yet."""
        self._names = sorted(clients)
        self._place = {name: place for place, name in enumerate(self._names)}
        self._rounds = torch.full((len(self._names),), -1, dtype=torch.int64)
        self._files = torch.zeros(len(self._names), 32, dtype=torch.uint8)

    def note(self, client: str, round_number: int, file: str) -> None:
        """A client has written its local tensors for a round, with this SHA-256."""
        place = self._place[client]
        self._rounds[place] = round_number
        self._files[place] = torch.frombuffer(bytearray.fromhex(file), dtype=torch.uint8)

    def plain(self) -> dict[str, tuple[int, str]]:
        """client -> (round, SHA-256), of those that have local tensors."""
        held = (self._rounds >= 0).nonzero().flatten().tolist()
        return {self._names[place]: (int(self._rounds[place]), bytes(self._files[place].tolist()).hex()) for place in held}

    def filed(self) -> dict[str, Tensor]:
        """For the checkpoint, beside the fed server's tensors."""
        return {f"{LOCALS}round": self._rounds, f"{LOCALS}sha256": self._files}

    def restore(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take back what `filed` gave out of a flat mapping, whose other tensors are returned."""
        self._rounds, self._files = flat[f"{LOCALS}round"], flat[f"{LOCALS}sha256"]
        return {name: tensor for name, tensor in flat.items() if not name.startswith(LOCALS)}


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
