"""Hugging Face data sets as rows: from a folder, or by their name on the hub."""

from pathlib import Path
from typing import Any

from m2fedsa.data.manifest.rows import Rows
from m2fedsa.errors import DataError
from m2fedsa.hub import reachable


def read_dataset(name: str, path: Path) -> Rows:
    """A Hugging Face data set: a folder that `save_to_disk` wrote, one that `load_dataset` takes, or a name on the hub.

    Its splits become a column `split`; pictures and recordings stay the files that they are.
    """
    import datasets

    try:
        loaded = _in_folder(path) if path.is_dir() else _by_name(name)
    except DataError:
        raise
    except Exception as error:  # whatever a builder, the hub or the disk lets out
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        kind = "no data set can be read from this folder" if path.is_dir() else "no such file, and no such data set on the hub"
        raise DataError(f"{name}: {kind} ({type(error).__name__}: {reason}).") from error
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    tables = []
    for split, one in splits.items():
        one = _undecoded(one).flatten_indices() if one._indices is not None else _undecoded(one)
        table = one.data.table
        if split and "split" not in table.column_names:
            table = table.append_column("split", [[str(split)] * table.num_rows])
        tables.append(table)
    import pyarrow

    try:
        whole = pyarrow.concat_tables(tables)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{name}: its splits have different columns ({str(error).partition(chr(10))[0]}).") from error
    features = next(iter(splits.values())).features
    classes = {key: list(one.names) for key, one in features.items() if isinstance(one, datasets.ClassLabel)}
    return Rows(name, path if path.is_dir() else Path.cwd(), whole, classes=classes)


def _in_folder(path: Path) -> Any:
    import datasets

    saved = (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()
    return datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))


def _by_name(name: str) -> Any:
    """From the hub, or from the cache of data sets where the hub cannot be reached: asking it in vain would take half a minute."""
    import datasets

    if reachable():
        return datasets.load_dataset(name)
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(name)
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"{name}: there is no such file or folder (in {Path.cwd()}), no data set of that name in the cache "
            f"{datasets.config.HF_DATASETS_CACHE}, and the hub cannot be reached. Load it once where there is a network "
            f"(datasets.load_dataset({name!r})) and copy the cache, or give a file or folder."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _undecoded(dataset: Any) -> Any:
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset
