"""A party's checkpoint files, each known by its SHA-256."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError


@dataclass(frozen=True)
class Store:
    """One party's checkpoint files: `round-<n>.safetensors` in a directory of its own."""

    directory: Path

    def path(self, round_number: int) -> Path:
        """The file of a round."""
        return self.directory / f"round-{round_number:06d}.safetensors"

    def write(self, round_number: int, tensors: Mapping[str, Tensor]) -> str:
        """Write the tensors of a round; returns the SHA-256 of the file."""
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())})
        write_atomically(self.path(round_number), content)
        return hashlib.sha256(content).hexdigest()

    def read(self, round_number: int, file: str) -> dict[str, Tensor]:
        """Read the tensors of a round. `RunDirectoryError` if the file is missing, cut short or not the one with this SHA-256."""
        path = self.path(round_number)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunDirectoryError(
                f"{path}: cannot be read: {error.strerror or error}. The checkpoint is incomplete. "
                "Restore the file from a copy, or begin a new run with --out."
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != file:
            raise RunDirectoryError(
                f"{path}: was altered or cut short: {len(content)} bytes with SHA-256 {found[:16]}…, but the manifest names {file[:16]}…. "
                "Restore the file from a copy, or begin a new run with --out."
            )
        return load(content)

    def keep(self, round_number: int, best: int | None = None) -> None:
        """Remove the files of other rounds, and what a broken write left; but not the file that stood after round `best`."""
        kept = {self.path(round_number)}
        if best is not None:
            kept |= set(sorted(path for path in self.directory.glob("round-*.safetensors") if path <= self.path(best))[-1:])
        for path in self.directory.glob("*round-*.safetensors*"):
            if path not in kept:
                path.unlink(missing_ok=True)
