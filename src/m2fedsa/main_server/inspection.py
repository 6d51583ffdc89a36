"""Activations as they arrive, looked at before anything is computed: what does not fit is a `ProtocolError` that says what would.

Legend: B batch, B_m its rows that have modality m, D_h width at the cut, M modalities of the message.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from m2fedsa.blueprint import Blueprint
from m2fedsa.errors import CutError, DivergedError, ProtocolError
from m2fedsa.messages import Activation, Activations
from m2fedsa.models.cut import Tail

_SMALL, _RATIO = 2**20, 64
"""Elements of an input that nobody minds, and how many times those of `hidden` it may have beyond: the tail makes room for it."""


def inspect(blueprint: Blueprint, tails: Mapping[str, Tail], client: str, activations: Activations, most: int) -> None:
    """`ProtocolError` that names client, modality and field unless the message fits the run.

    `most`: samples that the settings allow at once. They bound what a session has in flight, which grows with the samples.
    """
    entering, names = activations.entering, list(activations.modalities)
    unknown = [name for name in names if name not in tails]
    if unknown or not names:
        found = f"of {unknown[0]}" if unknown else "of no modality"
        raise ProtocolError(f"client {client} sent activations {found}; the run has {', '.join(tails)}.")
    if entering.dtype != torch.bool or entering.dim() != 2 or entering.shape[1] != len(names) or not len(entering):
        raise ProtocolError(
            f"client {client}: `entering` is {_told(entering)}; (samples, {len(names)}) bool is needed, a column for each of "
            f"{', '.join(names)}."
        )
    if len(entering) > most:
        raise ProtocolError(f"client {client} sent {len(entering)} samples at once; the run's settings allow {most}.")
    for column, (name, one) in enumerate(activations.modalities.items()):
        place = f"client {client}, modality {name}"
        _inspect_rows(place, one.rows, entering[:, column])
        _inspect_hidden(place, one, blueprint, name, tails[name].dtype)
        _inspect_inputs(place, one, tails[name].mask_argument)


@contextmanager
def fitting(client: str) -> Iterator[None]:
    """What an encoder says of activations whose tokens or inputs are not those that it was cut with."""
    try:
        yield
    except (CutError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError | DivergedError):
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ProtocolError(f"client {client}: the tail does not take these activations with these inputs ({reason}).") from error


def _inspect_rows(place: str, rows: Tensor, entering: Tensor) -> None:
    if rows.dtype != torch.int64 or rows.dim() != 1 or not len(rows):
        raise ProtocolError(f"{place}: `rows` is {_told(rows)}; one int64 per sample that has the modality is needed.")
    last = len(entering) - 1
    wrong = (rows < 0) | (rows > last)
    wrong[1:] |= rows.diff() <= 0
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ProtocolError(
            f"{place}: {int(wrong.sum())} of {len(rows)} `rows` are wrong, first number {first}, which is {int(rows[first])}; "
            f"rising numbers of 0 … {last} are needed."
        )
    lacking = entering.index_fill(0, rows, False).nonzero().flatten()
    if len(lacking):
        raise ProtocolError(f"{place}: sample {int(lacking[0])} enters fusion without having the modality.")


def _inspect_hidden(place: str, one: Activation, blueprint: Blueprint, name: str, dtype: torch.dtype) -> None:
    hidden, widths = one.hidden, blueprint.widths[name]
    right = hidden.dim() >= 2 and hidden.shape[0] == len(one.rows) and hidden.shape[widths.axis] == widths.head
    if not right or hidden.dtype != dtype:
        where = f"dimension {widths.axis}" if widths.axis != -1 else "its last dimension"
        raise ProtocolError(
            f"{place}: `hidden` is {_told(hidden)}; {len(one.rows)} samples with {widths.head} channels in {where} are needed, "
            f"{str(dtype).removeprefix('torch.')}."
        )


def _inspect_inputs(place: str, one: Activation, mask_argument: str | None) -> None:
    number = len(one.rows)
    for name, spec in one.inputs.items():
        if not spec.shape or spec.shape[0] != number:
            raise ProtocolError(f"{place}: the input {name} has shape {spec.shape}; {number} rows are needed, as in `hidden`.")
        if min(spec.shape) < 0 or math.prod(spec.shape) > max(_SMALL, _RATIO * one.hidden.numel()):
            raise ProtocolError(f"{place}: the input {name} has shape {spec.shape}; no encoder makes so little of so much.")
    wanted = None if mask_argument is None or mask_argument not in one.inputs else one.inputs[mask_argument]
    if (one.mask is None) != (wanted is None):
        raise ProtocolError(f"{place}: its mask is {'missing' if one.mask is None else 'not one of the encoder’s inputs'}.")
    if one.mask is not None and wanted is not None and tuple(one.mask.shape) != tuple(wanted.shape):
        raise ProtocolError(f"{place}: its mask is {_told(one.mask)}; shape {tuple(wanted.shape)} is needed.")


def _told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
