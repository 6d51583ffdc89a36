"""Files that readers see whole, whatever happens while they are written."""

import os
from pathlib import Path

from m2fedsa.errors import StorageError


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: readers see the old text or the new one, also after a crash. `StorageError` leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a person."""
    return StorageError(
        f"{path}: cannot be written: {error.strerror or error}. Nothing written earlier is lost; "
        "make room, then go on with `m2fedsa run --resume DIR`."
    )
