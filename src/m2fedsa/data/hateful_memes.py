"""Hateful Memes (Kiela et al. 2020) as its owners distribute it: pictures and the words on them, hateful or not.

    FOLDER/train.jsonl  dev_seen.jsonl  test_seen.jsonl  dev_unseen.jsonl  test_unseen.jsonl
    FOLDER/img/42953.png …

A line of a `.jsonl` file is `{"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character …"}`; a test file of the
competition has no labels.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, Fault, look_at
from m2fedsa.data.columns.media import ImageColumn
from m2fedsa.data.columns.tables import TextColumn
from m2fedsa.data.layout import complain, inventory, require, surplus_note
from m2fedsa.data.processors.image import image_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.readers.image import look_at_image, read_image
from m2fedsa.data.samples import UNLABELLED, FederatedData, Split
from m2fedsa.data.spread import Table, spread
from m2fedsa.errors import ConfigError, DataError

CLASSES = ("not hateful", "hateful")
PARTS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("dev_seen", "dev_unseen", "dev"),
    "test": ("test_seen", "test_unseen", "test", "dev_seen", "dev_unseen"),
}
WHERE = "https://hatefulmemeschallenge.com has them; docs/paper_tasks.md lists all files."
PATHS = {
    "data.options.folder": "the folder with train.jsonl, dev_seen.jsonl, test_seen.jsonl and img/ (docs/paper_tasks.md)",
}
"""Settings that only the user can give, and what to give."""


def hateful_memes(
    *,
    seed: int,
    processors: Mapping[str, str],
    folder: str,
    settings: Data,
    validation: str = "dev_seen",
    test: str = "test_seen",
    image_size: int = 0,
    text_tokens: int = 0,
    incomplete: bool = False,
) -> FederatedData:
    """Is a meme hateful? Two classes, two modalities: `image` and `text`.

    processors: modality -> where its encoder's processor lies. folder: as above. settings: who holds what. validation, test: which files
    these samples come from. image_size, text_tokens: as for `products`. incomplete: take a meme whose picture is missing by its text
    alone. A client `evaluation` has the validation and test samples, so that their ROC-AUC is exact.

    Errors: ConfigError when a setting is out of range, DataError when files are missing or a row cannot be used.
    """
    parts, place = _parts(validation, test), Path(folder).expanduser()
    require(place, [*(f"{part}.jsonl" for part in parts.values()), "img"], WHERE)
    lines = {split: _read(place / f"{part}.jsonl") for split, part in parts.items()}
    tested, before = {row["id"] for row in lines["test"]}, len(lines["validation"])
    lines["validation"] = [row for row in lines["validation"] if row["id"] not in tested]  # dev_seen and dev_unseen share memes
    twice = before - len(lines["validation"])
    rows = [line for its in lines.values() for line in its]
    splits: list[Split] = [split for split, its in lines.items() for _ in its]
    others = [line for path in sorted(place.glob("*.jsonl")) if path.stem not in parts.values() for line in _read(path)]
    found = inventory(place, [row["img"] for row in [*rows, *others]], ["img"])
    missing = {row["img"] for row in rows} & set(found.missing)
    if not incomplete:
        complain(place, found._replace(missing=tuple(sorted(missing))), f"{WHERE} To do without them, set data.options.incomplete = true.")
    pictured = [number for number, row in enumerate(rows) if row["img"] not in missing]
    paths = [place / row["img"] for row in rows]
    seen, read = image_processor(processors, "image", image_size), text_processor(processors, "text", text_tokens)
    columns: dict[str, Column] = {
        "image": ImageColumn("img", pictured, lambda row: read_image(paths[row]), seen, lambda row: look_at_image(paths[row])),
        "text": TextColumn("text", range(len(rows)), lambda row: rows[row]["text"], read),
    }
    labels, faults = _labels(rows)
    told = [f"{parts[split]} {row['id']}" for split, row in zip(splits, rows, strict=True)]
    notes = look_at(columns.values(), str(place), told, faults, deep=False)
    table = Table(
        CLASSES,
        columns,
        labels,
        splits,
        ["evaluation"] * len(rows),
        (*surplus_note(found), *_told(len(rows) - len(pictured), twice), *notes),
        presence=torch.tensor([[row["img"] not in missing, True] for row in rows]),
    )
    return spread(table, settings, seed)


def _parts(validation: str, test: str) -> dict[Split, str]:
    """Which file each split comes from. `ConfigError` for one that there is not, or for the same twice."""
    parts: dict[Split, str] = {"train": "train", "validation": validation, "test": test}
    for split, part in parts.items():
        if part not in PARTS[split]:
            raise ConfigError(f'{split} is "{part}"; it is one of {", ".join(PARTS[split])}')
    if validation == test:
        raise ConfigError(f'test is "{test}", and so is validation; take different files')
    return parts


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file. `DataError` for one that is not JSON, or that lacks a field."""
    rows: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            row = json.loads(line)
            lacking = [name for name in ("id", "img", "text") if name not in row]
            if lacking:
                raise DataError(f"{path}: line {number} has no {lacking[0]!r}, but {', '.join(row)}. Copy the file again.")
            rows.append(row)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: line {len(rows) + 1} cannot be read as UTF-8 JSON ({error}). Copy the file again.") from error
    if not rows:
        raise DataError(f"{path}: has not one line. Copy the file again.")
    return rows


def _labels(rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, list[Fault]]:
    """(R,) int64, -1 where a line has none; and the lines whose label is no class."""
    given = [row.get("label", UNLABELLED) for row in rows]
    faults = [Fault(row, "label", f"{label!r} is neither 0 nor 1") for row, label in enumerate(given) if label not in (0, 1, UNLABELLED)]
    return torch.tensor([label if label in (0, 1) else UNLABELLED for label in given]), faults


def _told(lost: int, twice: int) -> tuple[str, ...]:
    notes = [f"img: {lost:,} pictures are missing; these memes are taken by their text alone"] if lost else []
    if twice:
        notes.append(f"{twice:,} validation samples are test samples as well and are left out of validation")
    return tuple(notes)
