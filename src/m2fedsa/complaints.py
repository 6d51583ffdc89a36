"""What is wrong with settings, in the words of the person who wrote them: pydantic's problems as lines of TOML."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def complaints(error: ValidationError, values: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """One line per key for what `model` refuses in `values`: place, what was found, what would be right.

    Unknown keys come first, and a key is not missed beside its misspelling.
    """
    unknown: dict[str, str] = {}
    wrong: dict[str, tuple[str, list[str]]] = {}
    missing: list[str] = []
    conflicts: list[str] = []
    for problem in error.errors():
        kind, path = problem["type"], _place(problem["loc"], problem["type"], values)
        if kind == "extra_forbidden":
            unknown[_key(path)] = _nearest(path, model)
        elif kind == "too_long" or (kind == "missing" and isinstance(path[-1], int)):
            whole = path if kind == "too_long" else path[:-1]
            wrong[_key(whole)] = (shown(_value_at(whole, values)), [_list_of(_annotation_at(whole, model))])
        elif kind == "missing":
            missing.append(_key(path))
        elif kind == "value_error":
            conflicts.append(f"{problem['ctx']['error']}.")
        else:
            wrong.setdefault(_key(path), (shown(problem["input"]), []))[1].append(_should(problem["msg"]))
    return [
        *(f"unknown key {key}. {advice}" for key, advice in unknown.items()),
        *(f"{key} = {found}, but it should be {_either(right)}." for key, (found, right) in wrong.items()),
        *(_missed(key) for key in missing if not any(f" {key}?" in advice for advice in unknown.values())),
        *conflicts,
    ]


def _place(loc: tuple[int | str, ...], kind: str, values: Any) -> tuple[int | str, ...]:
    """Where a problem lies. To a value that may be of several types pydantic adds the name of the type, which is no key."""
    if not loc or kind in ("missing", "extra_forbidden"):
        return loc
    *above, last = loc
    for part in above:
        values = values[part] if isinstance(part, int) else values.get(part) if isinstance(values, Mapping) else None
    known = isinstance(last, int) or (isinstance(values, Mapping) and last in values)
    return loc if known else tuple(above)


def _key(path: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _nearest(path: Sequence[int | str], model: type[BaseModel]) -> str:
    known = _fields_at(path[:-1], model)
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    return f"Did you mean {_key((*path[:-1], near[0]))}?" if near else f"Known here: {', '.join(known)}."


def _missed(key: str) -> str:
    example = ' Give a folder, a name on the hub or one that ships, e.g. encoder = "embedded:digits-image".'
    return f"{key} is missing; it has to be given.{example if key.endswith('.encoder') else ''}"


_WORDS = (
    ("a valid integer, got a number with a fractional part", "a whole number"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    ("a valid string", "a text"),
    ("a valid tuple", "a list"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)


def _should(message: str) -> str:
    """What would be right, in words of TOML."""
    said = message.removeprefix("Input should be ")
    if said.startswith("a valid dictionary"):
        return "a table"
    if " should have at least 1 item" in said:
        return "a list of one or more"
    for pydantic, plain in _WORDS:
        said = said.replace(pydantic, plain)
    return said


def _either(right: Sequence[str]) -> str:
    *others, last = dict.fromkeys(right)
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: Any) -> str:
    """A value as TOML writes it; `unset` where there is none."""
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)


def _fields_at(path: Sequence[int | str], model: Any) -> list[str]:
    """Names of the settings in the table at `path`; empty where there is no such table."""
    return list(getattr(_annotation_at(path, model), "model_fields", {}))


def _annotation_at(path: Sequence[int | str], model: Any) -> Any:
    """The type of the value at `path`; None where there is no such key."""
    for part in path:
        if isinstance(part, int):
            model = next(iter(typing.get_args(model)), None)
        elif typing.get_origin(model) is dict:
            model = typing.get_args(model)[1]
        else:
            field = getattr(model, "model_fields", {}).get(part)
            model = None if field is None else field.annotation
        if isinstance(model, types.UnionType):
            model = next(iter(typing.get_args(model)))
    return model


def _value_at(path: Sequence[int | str], values: Any) -> Any:
    for part in path:
        values = values[part]
    return values


def _list_of(annotation: Any) -> str:
    """What a list of fixed length should be."""
    number = len(typing.get_args(annotation))
    return f"a list of {('no', 'one', 'two', 'three', 'four')[number] if number < 5 else number} numbers"
