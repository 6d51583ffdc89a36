"""Photos and titles of products, seven categories: a folder with `data.csv` and the photos that it names.

Columns of `data.csv`: `id`, `image` (a path within the folder), `title`, `description`, `label` (0 to 6), `category`, `split` (train, val,
test); others are not looked at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, look_at
from m2fedsa.data.columns.media import ImageColumn
from m2fedsa.data.columns.tables import TextColumn
from m2fedsa.data.csv_rows import classes_of, read_rows, splits_of
from m2fedsa.data.processors.image import image_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.readers.image import read_image
from m2fedsa.data.samples import FederatedData, Split
from m2fedsa.data.spread import Table, spread
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

CLASSES = 7
TWENTY = Data(clients=20)
PATHS = {
    "data.options.folder": "a folder with data.csv and its photos (docs/results_real.md says where they come from)",
    "modalities.image.encoder": "an image encoder: a folder as save_pretrained writes it, or google/mobilenet_v2_1.0_224 from the hub",
    "modalities.text.encoder": "a text encoder with its tokenizer: any copy of sentence-transformers/all-MiniLM-L6-v2, or that name itself",
}
"""Settings that only the user can give, and what to give."""


def products(
    *,
    seed: int,
    processors: Mapping[str, str],
    folder: str,
    settings: Data = TWENTY,
    image_size: int = 0,
    text: str = "title",
    text_tokens: int = 0,
    division: int = 0,
) -> FederatedData:
    """Which category is a product of? Seven classes, two modalities: `image` and `text`.

    processors: modality -> where its encoder's processor lies. folder: with `data.csv`. image_size: pixels a side; 0 for what the
    processor says. text: the column that is read, `title` or `description` (which tends to name the category). text_tokens: read of a
    text at most; 0 for as many as the tokenizer takes. division: 0 for the file's own training, validation and test samples; another
    number draws others, as many of each class.
    settings: who holds what. A client `evaluation` has the validation and test samples.

    Errors: ConfigError when a setting is out of range, DataError when a file is missing or a row cannot be used.
    """
    if text not in ("title", "description"):
        raise ConfigError(f'text is "{text}"; it is the column "title" or "description"')
    path = Path(folder).expanduser() / "data.csv"
    rows = read_rows(path, ("id", "image", text, "label", "category", "split"))
    labels, wrong_labels = classes_of(rows, "label", CLASSES)
    splits, wrong_splits = splits_of(rows)
    photos = [path.parent / row["image"] for row in rows]
    every = range(len(rows))
    columns: dict[str, Column] = {
        "image": ImageColumn("image", every, lambda row: read_image(photos[row]), image_processor(processors, "image", image_size)),
        "text": TextColumn(text, every, lambda row: rows[row][text], text_processor(processors, "text", text_tokens)),
    }
    notes = look_at(columns.values(), str(path), [row["id"] for row in rows], [*wrong_labels, *wrong_splits])
    if division:
        splits = _divided(labels, splits, division)
    names = {label: row["category"] for label, row in zip(labels, rows, strict=True)}
    classes = tuple(names.get(label, f"class {label}") for label in range(CLASSES))
    table = Table(classes, columns, torch.tensor(labels), splits, ["evaluation"] * len(rows), notes)
    return spread(table, settings, seed)


def _divided(labels: Sequence[int], splits: Sequence[Split], division: int) -> list[Split]:
    """Splits dealt out anew within each class."""
    drawn = list(splits)
    for label in sorted(set(labels)):
        rows = [row for row, its in enumerate(labels) if its == label]
        order = torch.randperm(len(rows), generator=derive(division, "products", "division", label)).tolist()
        for row, place in zip(rows, order, strict=True):
            drawn[row] = splits[rows[place]]
    return drawn
