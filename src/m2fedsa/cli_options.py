"""What several commands share: options, and what a person names as settings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import click
import typer

if TYPE_CHECKING:
    from m2fedsa.config import Config

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set federation.rounds=10; key=none unsets it. Repeatable."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]


def settings_of(target: str | None, settings: Sequence[str] | None) -> "Config":
    """The settings of a recipe or of a TOML file, with changes."""
    if target is None:
        raise click.UsageError("Name what to run: a recipe (see `m2fedsa recipes`) or a TOML file; or --resume DIR.")
    from m2fedsa import recipes

    return recipes.settings_of(target, settings or ())
