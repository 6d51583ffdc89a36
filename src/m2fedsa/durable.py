"""Files that survive a crash: readers see the old one or the new one, and what was written earlier is never lost.

Free of heavy imports: the command line, the run directory and the parties' checkpoints all write through it.
"""

import os
from contextlib import suppress
from pathlib import Path

from m2fedsa.errors import StorageError


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write under another name, flush to the disk, rename. `StorageError` if the disk refuses; what stood at `path` is then still there.
    `private`: nobody but the owner can read it."""
    temporary = unfinished(path)
    try:
        _make(path.parent)
        with temporary.open("wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error) from error


def append(path: Path, content: bytes) -> None:
    """Add to the end and flush to the disk. `StorageError` if the disk refuses; a part of `content` may then stand at the end."""
    try:
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(path, error) from error


def unfinished(path: Path) -> Path:
    """Where a file lies until it is whole. A crash may leave it behind; the next write takes its place."""
    return path.with_name(f".{path.name}.new")


def _make(directory: Path) -> None:
    """Make a directory and those above it, each flushed to the disk."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        _flush(directory.parent)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written: {error.strerror or error}. Nothing written earlier is lost.")
