"""Files that survive a crash: written under another name, flushed to the disk and renamed; a file in place is never changed."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from m2fedsa.errors import RunDirectoryError, StorageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write, flush, rename. `StorageError` if the disk refuses; whatever stood at `path` before is then still there."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}. Everything up to the last finished round is kept."
        ) from error


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
                f"{path}: cannot be read: {error.strerror or error}. The checkpoint is incomplete; start again without --resume."
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != file:
            raise RunDirectoryError(
                f"{path}: was altered or cut short: {len(content)} bytes with SHA-256 {found[:16]}…, but the manifest names {file[:16]}…. "
                "Restore the file from a copy, or start again in a new directory."
            )
        return load(content)

    def keep(self, round_number: int) -> None:
        """Remove the files of other rounds, and what a broken write left."""
        for path in self.directory.glob("*round-*.safetensors*"):
            if path != self.path(round_number):
                path.unlink(missing_ok=True)
