"""Dataclasses as plain values, by their own annotations: what a message can say is what its class declares, and nothing else.

A tensor becomes its number in the list of tensors that travels beside the plain values; a mapping a list of pairs, so that its order and
keys that are tuples survive. Reading is strict: a missing or unknown field, a value of another type, a tensor named twice or not at all is
a `ProtocolError` that names the place.
"""

import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, cast

import torch
from torch import Tensor

from m2fedsa.errors import ProtocolError

DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.bfloat16, torch.float16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
"""The types that a tensor, or an encoder's input, can have on the wire."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_NUMBER = 2**63


@dataclass
class Tensors:
    """Tensors on their way out, in the order in which they were met; on their way in, each to be taken once."""

    all: list[Tensor]
    taken: int = 0

    def put(self, tensor: Tensor) -> int:
        """The number of a tensor that is added."""
        self.all.append(tensor)
        return len(self.all) - 1

    def take(self, number: object, place: str) -> Tensor:
        """The tensor of this number, which must be the next."""
        if type(number) is not int or number != self.taken:
            raise ProtocolError(f"{place}: is tensor {number!r:.40}, but tensor {self.taken} is the next.")
        if self.taken >= len(self.all):
            raise ProtocolError(f"{place}: is tensor {number}, but the message has {len(self.all)}.")
        self.taken += 1
        return self.all[self.taken - 1]


Write = Callable[[Any, Tensors], Any]
Read = Callable[[Any, Tensors, str], Any]


@dataclass(frozen=True)
class Form:
    """How values of one annotation are written and read."""

    write: Write
    read: Read


def form_of(annotation: Any) -> Form:
    """The form of an annotation. `TypeError` for one that has none: a message class declares something that cannot travel."""
    return _form_of(annotation)


@functools.cache
def _form_of(annotation: Any) -> Form:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Tensor:
        return Form(lambda value, tensors: tensors.put(value), lambda value, tensors, place: tensors.take(value, place))
    if annotation is torch.dtype:
        return Form(lambda value, _: _NAMES[value], _read_dtype)
    if annotation in (str, int, float, bool, object):
        return Form(lambda value, _: value, functools.partial(_read_plain, annotation))
    if origin is Literal:
        return Form(lambda value, _: value, functools.partial(_read_literal, arguments))
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is Mapping:
        return _mapping(form_of(arguments[0]), form_of(arguments[1]))
    if origin in (tuple, list, Sequence):
        return _sequence(annotation, arguments)
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, tuple)):
        return _record(annotation)
    raise TypeError(f"{annotation} has no form on the wire")


def _read_dtype(value: Any, _tensors: Tensors, place: str) -> torch.dtype:
    if not isinstance(value, str) or value not in DTYPES:
        raise _wrong(place, value, f"one of {', '.join(DTYPES)}")
    return DTYPES[value]


def _read_plain(kind: type, value: Any, _tensors: Tensors, place: str) -> Any:
    if kind is object:
        return value
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not right or (kind is int and not -_LARGEST_NUMBER <= value < _LARGEST_NUMBER):
        raise _wrong(place, value, {str: "a text", int: "a whole number of 64 bits", float: "a number", bool: "true or false"}[kind])
    return float(value) if kind is float else value


def _read_literal(known: tuple[object, ...], value: Any, _tensors: Tensors, place: str) -> Any:
    if not any(value == one and type(value) is type(one) for one in known):
        raise _wrong(place, value, f"one of {', '.join(map(str, known))}")
    return value


def _union(arguments: tuple[Any, ...]) -> Form:
    """`X | None`, or plain types of which the value itself tells the one."""
    others = [argument for argument in arguments if argument is not type(None)]
    if len(others) != 1 or len(arguments) != 2:
        raise TypeError(f"{arguments} has no form on the wire: only `X | None` has")
    form = form_of(others[0])
    return Form(
        lambda value, tensors: None if value is None else form.write(value, tensors),
        lambda value, tensors, place: None if value is None else form.read(value, tensors, place),
    )


def _mapping(key: Form, item: Form) -> Form:
    def write(value: Mapping[Any, Any], tensors: Tensors) -> list[Any]:
        return [[key.write(name, tensors), item.write(one, tensors)] for name, one in value.items()]

    def read(value: Any, tensors: Tensors, place: str) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in _listed(value, place):
            if not isinstance(pair, list) or len(pair) != 2:
                raise _wrong(place, pair, "a pair of key and value")
            name = key.read(pair[0], tensors, place)
            if name in found:
                raise ProtocolError(f"{place}: has {name!r:.60} twice.")
            found[name] = item.read(pair[1], tensors, f"{place}.{name!s:.60}")
        return found

    return Form(write, read)


def _sequence(annotation: Any, arguments: tuple[Any, ...]) -> Form:
    whole: Callable[[list[Any]], Any] = list if typing.get_origin(annotation) is list else tuple
    if typing.get_origin(annotation) is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        forms = [form_of(argument) for argument in arguments]

        def read_fixed(value: Any, tensors: Tensors, place: str) -> Any:
            if len(_listed(value, place)) != len(forms):
                raise _wrong(place, value, f"a list of {len(forms)}")
            return tuple(form.read(one, tensors, f"{place}[{at}]") for at, (form, one) in enumerate(zip(forms, value, strict=True)))

        return Form(lambda value, tensors: [form.write(one, tensors) for form, one in zip(forms, value, strict=True)], read_fixed)
    form = form_of(arguments[0])
    return Form(
        lambda value, tensors: [form.write(one, tensors) for one in value],
        lambda value, tensors, place: whole([form.read(one, tensors, f"{place}[{at}]") for at, one in enumerate(_listed(value, place))]),
    )


def _record(kind: type) -> Form:
    """A dataclass or a named tuple: an object with exactly its fields. The fields' forms are found at first use, so classes may nest."""

    @functools.cache
    def forms() -> dict[str, Form]:
        hints = typing.get_type_hints(kind)
        names = [one.name for one in fields(kind) if one.init] if is_dataclass(kind) else list(cast(Any, kind)._fields)
        return {name: form_of(hints[name]) for name in names}

    def write(value: Any, tensors: Tensors) -> dict[str, Any]:
        return {name: form.write(getattr(value, name), tensors) for name, form in forms().items()}

    def read(value: Any, tensors: Tensors, place: str) -> Any:
        known = forms()
        if not isinstance(value, dict) or list(value) != list(known):
            found = ", ".join(map(str, value))[:200] if isinstance(value, dict) else repr(value)[:60]
            raise ProtocolError(f"{place}: has {found or 'nothing'}; exactly {', '.join(known)} are needed.")
        return kind(**{name: form.read(value[name], tensors, f"{place}.{name}") for name, form in known.items()})

    return Form(write, read)


def _listed(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(place, value, "a list")
    return value


def _wrong(place: str, value: object, right: str) -> ProtocolError:
    return ProtocolError(f"{place}: is {value!r:.60}; {right} is needed.")
