"""Programs whose `--help` says what was written: typer 0.20 escapes brackets for rich even where rich does not print, and click 8.5, whose
arguments have a help text of their own, puts an empty one where typer had set its.
"""

from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

import click
import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType


class _Formatter(click.HelpFormatter):
    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Terms and what they are; `\\[required]`, which typer writes wherever rich is installed, is `[required]`."""
        super().write_dl([(term, text.replace("\\[", "[")) for term, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class _Command(TyperCommand):
    context_class = _Context

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: typer lists arguments with the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Arguments, then options."""
        hints = get_type_hints(self.callback, include_extras=True)
        for parameter in self.params:
            if isinstance(parameter, click.Argument) and not parameter.help:
                told = getattr(hints.get(parameter.name or ""), "__metadata__", ())
                parameter.help = next((one.help for one in told if getattr(one, "help", None)), None)
        super().format_options(ctx, formatter)


class _Group(TyperGroup):
    context_class = _Context


class Commands(typer.Typer):
    """A program, or a group of its commands. Arguments: see `typer.Typer`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, rich_markup_mode=None, **options)

    def command(self, *words: Any, **options: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """See `typer.Typer.command`."""
        return super().command(*words, cls=_Command, **options)
