"""Folders in the layout of a data set's owners: what its tables name against what lies there, told as one list."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from m2fedsa.data.columns import TOLD
from m2fedsa.errors import DataError


class Inventory(NamedTuple):
    """Paths within a folder."""

    missing: tuple[str, ...]
    """that a table names and that are not there"""
    surplus: tuple[str, ...]
    """that are there and that no table names"""


def inventory(folder: Path, wanted: Iterable[str], within: Sequence[str], spare: Callable[[str], bool] = lambda _name: False) -> Inventory:
    """What is missing and what is too much.

    wanted: paths of files within `folder`. within: the folders in it where nothing else should lie. spare: which other files the owners
    are known to ship. What a desktop leaves behind (`._name`, `.DS_Store`, `Thumbs.db`) counts as nothing.
    """
    named = set(wanted)
    there = {
        path.relative_to(folder).as_posix()
        for part in within
        if (folder / part).is_dir()
        for path in (folder / part).iterdir()
        if not path.name.startswith(".") and path.name != "Thumbs.db"
    }
    lacking = (name for name in named - there if not (folder / name).exists())
    return Inventory(tuple(sorted(lacking)), tuple(sorted(name for name in there - named if not spare(Path(name).name))))


def require(folder: Path, names: Sequence[str], where: str) -> None:
    """`DataError` with all tables and folders that are not there, and with what is. where: where to get them."""
    missing = [name for name in names if not (folder / name).exists()]
    if not missing:
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. {where}")
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:TOLD]) or "nothing"
    lines = "\n       ".join(missing)
    raise DataError(f"{folder}: {_files(len(missing))} missing; there is {there}. {where}\n       {lines}")


def complain(folder: Path, found: Inventory, advice: str) -> None:
    """`DataError` if a file is missing; it lists both kinds, the first twenty of each. advice: what else could be done."""
    if not found.missing:
        return
    parts = [f"{folder}: {_files(len(found.missing))} missing. {advice}", *_listed(found.missing)]
    if found.surplus:
        count = len(found.surplus)
        parts += [f"and {count:,} that no table names, perhaps under another name than they should have:", *_listed(found.surplus)]
    raise DataError("\n       ".join(parts))


def surplus_note(found: Inventory) -> tuple[str, ...]:
    """What is said of files that no table names, where none is missing: they do no harm."""
    if not found.surplus:
        return ()
    count = len(found.surplus)
    which = "1 file is" if count == 1 else f"{count:,} files are"
    return (f"{which} left alone, since no table names {'it' if count == 1 else 'them'}: {', '.join(_listed(found.surplus))}",)


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count:,} files are"


def _listed(names: Sequence[str]) -> list[str]:
    more = len(names) - TOLD
    return [*names[:TOLD], *([f"… and {more:,} more"] if more > 0 else [])]
