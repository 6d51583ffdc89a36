"""From one file of a person's (or its bytes) to a picture, a recording, frames or readings; `DataError` says why there is none."""

from pathlib import Path

from m2fedsa.errors import DataError

Source = Path | bytes
"""Where something lies, or the content of such a file."""


def found(source: Source) -> str:
    """How a source is called in messages. `DataError` for a file that is missing or empty."""
    if isinstance(source, bytes):
        if not source:
            raise DataError("the cell holds a file of 0 bytes")
        return "the file in the cell"
    if not source.is_file():
        raise DataError(f"{source}: {'this is a folder' if source.is_dir() else 'no such file'}")
    if source.stat().st_size == 0:
        raise DataError(f"{source}: the file is empty (0 bytes)")
    return str(source)
