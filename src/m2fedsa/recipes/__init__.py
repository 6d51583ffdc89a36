"""Named configurations: functions that return one `Config`, so that a line of Python or a file of TOML can start from them."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from m2fedsa.config import Config
from m2fedsa.errors import ConfigError
from m2fedsa.recipes.digits import digits, few_labels, match
from m2fedsa.recipes.meld_text import meld_text
from m2fedsa.recipes.paper_shapes import paper_shapes
from m2fedsa.recipes.paper_tasks import epic_kitchens, hateful_memes, meld
from m2fedsa.recipes.products import products
from m2fedsa.recipes.spoken_digits import spoken_digits

RECIPES: dict[str, Callable[..., Config]] = {
    "digits": digits,
    "match": match,
    "few_labels": few_labels,
    "products": products,
    "spoken_digits": spoken_digits,
    "hateful_memes": hateful_memes,
    "meld": meld,
    "epic_kitchens": epic_kitchens,
    "meld_text": meld_text,
    "paper_shapes": paper_shapes,
}

__all__ = [
    "RECIPES",
    "digits",
    "epic_kitchens",
    "few_labels",
    "hateful_memes",
    "match",
    "meld",
    "meld_text",
    "named",
    "paper_shapes",
    "products",
    "settings_of",
    "spoken_digits",
    "summaries",
]


def summaries() -> dict[str, str]:
    """name -> the first line of what its function says of itself."""
    return {name: (recipe.__doc__ or "").strip().partition("\n")[0] for name, recipe in RECIPES.items()}


def named(name: str) -> Config:
    """The settings of a recipe; `ConfigError` names the nearest if there is none of this name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(RECIPES)}; a file's name ends in .toml."
        raise ConfigError(f"unknown recipe {name!r}. {advice}")
    return RECIPES[name]()


def settings_of(target: str, changes: Sequence[str] = ()) -> Config:
    """The settings of a recipe, or of a file whose name ends in `.toml`, with changes (`key=value`). `ConfigError` if there are none."""
    if target.endswith(".toml"):
        found = Config.from_file(Path(target))
    elif target not in RECIPES and Path(target).is_dir():
        raise ConfigError(_what_of(Path(target)))
    else:
        found = named(target)
    return found.override(changes) if changes else found


def _what_of(directory: Path) -> str:
    """What to write instead of a directory."""
    from m2fedsa.reporting.program import word

    settings = directory / "config.toml"
    if not settings.is_file():
        return f"{directory} is a directory. Name a recipe (see `m2fedsa recipes`) or a TOML file."
    return (
        f"{directory} is a run directory, not a recipe or a TOML file. "
        f"Go on with it: `m2fedsa run --resume {word(directory)}`; the same settings anew: `m2fedsa run {word(settings)}`."
    )
