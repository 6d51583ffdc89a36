"""A manifest by what it is: a file of some kind, a folder, or a name on the hub."""

from pathlib import Path

from m2fedsa.data.manifest import files, hub
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.errors import DataError


def read_rows(manifest: str, folder: str | None = None) -> Rows:
    """The rows of a manifest.

    manifest: a file, a folder, or the name of a data set on the hub. folder: where paths in cells begin, if not where the manifest lies.
    Errors: DataError for what is missing, of no known kind, without rows, or not UTF-8 where it should be text.
    """
    path = Path(manifest).expanduser()
    readers = {".csv": files.read_csv, ".tsv": files.read_csv, ".jsonl": files.read_jsonl, ".ndjson": files.read_jsonl}
    readers[".parquet"] = files.read_parquet
    reader = readers.get(path.suffix.lower())
    if path.is_file() and reader is None:
        raise DataError(
            f"{manifest}: a manifest is a .csv, .tsv, .jsonl or .parquet file, or a Hugging Face data set, not {path.suffix!r}."
        )
    if reader is None or path.is_dir():
        found = hub.read_dataset(manifest, path)
    elif not path.is_file():
        raise DataError(f"{manifest}: no such file (in {Path.cwd()}).")
    else:
        found = reader(path)
    if len(found) == 0:
        raise DataError(f"{manifest}: there is not one row{' beneath the head line' if path.suffix in ('.csv', '.tsv') else ''}.")
    if folder is None:
        return found
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"data.folder = {folder!r}, but there is no such folder (in {Path.cwd()}).")
    return Rows(found.source, root, found.table, found.faults, found.classes)
