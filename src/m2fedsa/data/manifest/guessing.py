"""What the columns of a manifest look like: whose, what for, and of which kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

from m2fedsa.config import MODALITY_NAME, RESERVED_NAMES
from m2fedsa.data.manifest.guessing_task import Task, guess_task
from m2fedsa.data.manifest.labels import SPLIT_NAMES
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.tabular import category, is_number
from m2fedsa.errors import DataError

ROLES: Mapping[str, Sequence[str]] = {
    "split": ("split", "set", "fold", "subset", "partition"),
    "id": ("id", "uid", "uuid", "guid", "index", "row", "key"),
    "label": ("label", "labels", "class", "target", "category", "y", "emotion", "diagnosis", "outcome"),
    "client": ("client", "user", "user_id", "speaker", "participant", "site", "hospital", "patient", "centre", "center", "shop", "device"),
}
"""What a column is for -> names that tell it, the likeliest first."""
ENDINGS = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"),
    "video": (".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg"),
    "series": (".npy", ".npz"),
}
_LOOKED_AT = 200
_MOSTLY = 0.8
_FEW = 50
"""Different values of a column of categories, at most."""
_WORDS = 2.5
"""Words of a text on average, at least."""


@dataclass
class Guessed:
    """What was found."""

    roles: dict[str, str] = field(default_factory=dict)
    """label, client, split, id -> column"""
    task: Task = "single_label"
    kinds: dict[str, str] = field(default_factory=dict)
    """modality -> kind"""
    columns: dict[str, str] = field(default_factory=dict)
    """modality -> column"""
    tabular: list[str] = field(default_factory=list)
    """columns of records"""
    categorical: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """a line for each column"""


def guess_columns(rows: Rows, label: str | None = None) -> Guessed:
    """Look at names and first cells. Errors: DataError where nothing looks like a label or like a modality."""
    found = Guessed()
    cells = {name: _first_cells(rows, name) for name in rows.names}
    if label is not None:
        found.roles["label"] = rows.require(label, "--label")
    for role, names in ROLES.items():
        if role not in found.roles:
            taken = found.roles.values()
            column = next((name for told in names for name in rows.names if name.lower() == told and name not in taken), None)
            if column is not None and _fits(role, cells[column]):
                found.roles[role] = column
    if "label" not in found.roles:
        raise DataError(f"{rows.source}: no column looks like a label. Name it with --label; there are {', '.join(rows.names)}.")
    found.task, why_task = guess_task(rows, found.roles["label"])
    role_of = {column: role for role, column in found.roles.items()}
    for name in rows.names:
        if name in role_of:
            said = f": {found.task}, {why_task}" if role_of[name] == "label" else ""
            found.told.append(f"{name:<20} {role_of[name]}{said}")
            continue
        kind, why = _kind(cells[name])
        found.told.append(f"{name:<20} {kind or 'left out'}: {why}")
        if kind == "tabular":
            found.tabular.append(name)
        elif kind is not None:
            modality = _modality(name, kind, found.kinds)
            found.kinds[modality], found.columns[modality] = kind, name
    if not found.kinds and not found.tabular:
        raise DataError(f"{rows.source}: no column looks like a modality. Looked at {', '.join(rows.names)}.")
    return found


def _first_cells(rows: Rows, name: str) -> list[Any]:
    """The first that are not empty."""
    found: list[Any] = []
    for cell in rows.column(name):
        if cell is not None:
            found.append(cell)
        if len(found) == _LOOKED_AT:
            break
    return found


def _fits(role: str, cells: Sequence[Any]) -> bool:
    if role == "split":
        return bool(cells) and all(str(cell).strip().lower() in SPLIT_NAMES for cell in cells)
    if role == "id":
        return len({str(cell) for cell in cells}) == len(cells)
    return bool(cells)


def _kind(cells: Sequence[Any]) -> tuple[str | None, str]:
    """A column's kind, None for one of no use; and by what it was known."""
    if not cells:
        return None, "nothing in it"
    if isinstance(cells[0], Mapping | bytes):
        names = [str(cell.get("path") or "") for cell in cells if isinstance(cell, Mapping)]
        return next((kind for kind, endings in ENDINGS.items() if _share(names, endings) > _MOSTLY), "image"), "files in its cells"
    if isinstance(cells[0], list) or (isinstance(cells[0], str) and cells[0].lstrip().startswith("[")):
        return "series", "lists"
    if isinstance(cells[0], date | time | timedelta):
        return None, f"times such as {cells[0]}"
    texts = [category(cell) for cell in cells]
    for kind, endings in ENDINGS.items():
        if _share(texts, endings) > _MOSTLY:
            return kind, f"paths such as {texts[0]}"
    if all(map(is_number, cells)):
        return "tabular", f"numbers such as {texts[0]}"
    different, words = len(set(texts)), sum(len(text.split()) for text in texts) / len(texts)
    if words < _WORDS and different <= min(_FEW, max(2, len(texts) // 2)):
        return "tabular", f"{different} categories such as {texts[0]}"
    if words < _WORDS and different == len(texts) and all(len(text.split()) == 1 and any(map(str.isdigit, text)) for text in texts):
        return None, f"names of rows such as {texts[0]}"
    return "text", f"texts such as {texts[0][:40]!r}"


def _share(texts: Sequence[str], endings: Sequence[str]) -> float:
    return sum(Path(text).suffix.lower() in endings for text in texts) / max(len(texts), 1)


def _modality(name: str, kind: str, taken: Mapping[str, str]) -> str:
    """A modality's name from that of its column."""
    if MODALITY_NAME.fullmatch(name) and name not in RESERVED_NAMES:
        return name
    number, made = 1, kind
    while made in taken:
        number, made = number + 1, f"{kind}_{number + 1}"
    return made
