"""Settings as a file for people: every key below the sentence that says what it is, and what is unset as a line to be filled in.

Prose stands behind `# `, a key that is unset behind `#` alone: take that sign away and the line counts. A later table of the same kind
(a second modality) is not explained again.
"""

import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

WIDTH = 110
_HEAD = """\
Settings of m2fedsa. A key that begins with # is unset: take the # away and give it a value.
Edit and run: m2fedsa run FILE.toml
The same on the command line: --set key=value; --set key=none unsets a key."""


def commented(settings: BaseModel) -> str:
    """The complete settings as TOML with comments; parsed, they are equal to `settings`."""
    return "\n".join([*(f"# {line}" for line in _HEAD.splitlines()), "", *_table((), settings, explained=True)])


def _table(path: tuple[str, ...], section: BaseModel, explained: bool) -> Iterator[str]:
    """The keys of a table, then the tables within it."""
    within = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel | Mapping):
            within.append((name, field, value))
            continue
        if explained:
            yield from _prose(_explanation(field))
        yield f"#{_line(name, _example(section, name))}" if value is None else _line(name, value)
    yield ""
    for name, field, value in within:
        yield from _inner((*path, name), field, value, explained)


def _inner(path: tuple[str, ...], field: FieldInfo, value: Any, explained: bool) -> Iterator[str]:
    """A table of settings, a table of such tables by name, or one of plain values."""
    if isinstance(value, BaseModel):
        yield from _prose((type(value).__doc__ or "") if explained else "")
        yield _heading(path)
        yield from _table(path, value, explained)
    elif any(isinstance(one, BaseModel) for one in value.values()):
        first = next(iter(value))
        for name, one in value.items():
            yield from _prose((type(one).__doc__ or "") if name == first else f"As explained for {'.'.join((*path, first))}.")
            yield _heading((*path, name))
            yield from _table((*path, name), one, explained and name == first)
    else:
        yield from _prose(_explanation(field) if explained else "")
        yield _heading(path)
        yield from (_line(name, one) for name, one in value.items())
        yield ""


def _heading(path: Sequence[str]) -> str:
    return tomli_w.dumps({path[0]: _nested(path[1:])}).splitlines()[-1]


def _nested(path: Sequence[str]) -> dict[str, Any]:
    return {path[0]: _nested(path[1:])} if path else {}


def _line(name: str, value: Any) -> str:
    """`name = value`; a list of tables with one table a line."""
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        tables = [", ".join(_line(key, one) for key, one in table.model_dump().items()) for table in value]
        return "\n".join([f"{name} = [", *(f"    {{ {table} }}," for table in tables), "]"])
    if isinstance(value, tuple | list):
        return f"{name} = [{', '.join(_line('x', one).removeprefix('x = ') for one in value)}]"
    return tomli_w.dumps({name: value}).rstrip("\n")


def _example(section: BaseModel, name: str) -> Any:
    examples = type(section).model_fields[name].examples
    assert examples, f"{type(section).__name__}.{name} may be unset and needs an example, as Field(examples=[...])"
    return examples[0]


def _explanation(field: FieldInfo) -> str:
    """The key's docstring, with the words that it may be where the docstring does not tell them all."""
    told = field.description or ""
    words = [f'"{word}"' for word in _words(field.annotation)]
    if all(f"`{word[1:-1]}`" in told for word in words):
        return told
    return f"{told} One of {', '.join(words)}." if told.endswith(".") else f"{told}: one of {', '.join(words)}."


def _words(annotation: Any) -> list[str]:
    """The literal texts within a type."""
    if typing.get_origin(annotation) is typing.Literal:
        return [word for word in typing.get_args(annotation) if isinstance(word, str)]
    return [word for part in typing.get_args(annotation) for word in _words(part)]


def _prose(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False)]
