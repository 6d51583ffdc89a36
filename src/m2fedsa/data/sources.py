"""The data sets that come with the package, by name."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from m2fedsa.config import Data
from m2fedsa.data import epic_kitchens as epic_kitchens_table
from m2fedsa.data import hateful_memes as hateful_memes_table
from m2fedsa.data import meld as meld_table
from m2fedsa.data import meld_text as meld_text_table
from m2fedsa.data import products as products_table
from m2fedsa.data import spoken_digits as spoken_digits_table
from m2fedsa.data.digits import digits, match
from m2fedsa.data.epic_kitchens import epic_kitchens
from m2fedsa.data.hateful_memes import hateful_memes
from m2fedsa.data.meld import meld
from m2fedsa.data.meld_text import meld_text
from m2fedsa.data.products import products
from m2fedsa.data.random_shapes import random_shapes
from m2fedsa.data.samples import FederatedData
from m2fedsa.data.spoken_digits import spoken_digits
from m2fedsa.data.synthetic import synthetic
from m2fedsa.errors import ConfigError

SOURCES: Mapping[str, Callable[..., FederatedData]] = {
    "digits": digits,
    "match": match,
    "synthetic": synthetic,
    "products": products,
    "spoken_digits": spoken_digits,
    "hateful_memes": hateful_memes,
    "meld": meld,
    "epic_kitchens": epic_kitchens,
    "meld_text": meld_text,
    "random_shapes": random_shapes,
}
PATHS: Mapping[str, Mapping[str, str]] = {
    "products": products_table.PATHS,
    "spoken_digits": spoken_digits_table.PATHS,
    "hateful_memes": hateful_memes_table.PATHS,
    "meld": meld_table.PATHS,
    "epic_kitchens": epic_kitchens_table.PATHS,
    "meld_text": meld_text_table.PATHS,
}
"""source -> settings that only the user can give -> what to give"""
COMMON = ("clients", "partition", "alpha", "minimum", "multimodal_fraction", "missing_rate", "labelled_fraction")
"""Settings that a source may take as arguments of these names; one that spreads a table over clients takes all of them as `settings`."""
PASSED = ("seed", "processors", "settings")
"""Arguments of a source that are no options: the run gives them."""


def load_data(settings: Data, seed: int, processors: Mapping[str, str] | None = None) -> FederatedData:
    """The data set that the settings name.

    processors: modality -> the folder or hub name where the processor of its encoder lies; only sources of raw files look there.
    Errors: ConfigError for an unknown source, or an option that it does not have.
    """
    if settings.source not in SOURCES:
        near = difflib.get_close_matches(settings.source, SOURCES, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are {', '.join(SOURCES)}."
        raise ConfigError(f"data.source = {settings.source!r} is not known. {advice}")
    source = SOURCES[settings.source]
    known = inspect.signature(source).parameters
    options = {name: value for name, value in _options(settings, known).items() if name in known}
    if "processors" in known:
        options["processors"] = processors or {}
    if "settings" in known:
        options["settings"] = settings
    return source(seed=seed, **options)


def _options(settings: Data, known: Mapping[str, object]) -> dict[str, Any]:
    """What the source is called with: the common settings that it has, and its own."""
    own = [name for name in known if name not in (*COMMON, *PASSED)]
    for name in settings.options:
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            advice = f"Did you mean data.options.{near[0]}?" if near else f"It has {', '.join(own)}."
            raise ConfigError(f"data.options.{name}: the source {settings.source} has no such option. {advice}")
    return {**{name: getattr(settings, name) for name in COMMON}, **settings.options}
