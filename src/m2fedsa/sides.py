"""From the settings of a modality to its two sides: of a whole encoder, cut here, or from a folder that `m2fedsa cut` wrote.

From a folder, each side reads its own files; the whole encoder is never loaded.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2fedsa.config import Compute, Modality
from m2fedsa.errors import ConfigError, CutError, WeightsError
from m2fedsa.ledger import Measured
from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.cut import Head, Tail, cut, plan, specify, verify
from m2fedsa.models.encoders import folder_of, load
from m2fedsa.models.one_token import narrow
from m2fedsa.models.plan import Plan, model_type
from m2fedsa.models.precision import attend, fed, place_and_type, prepared
from m2fedsa.models.quantise import quantise
from m2fedsa.models.recomputing import recompute
from m2fedsa.models.shapes import RANDOM
from m2fedsa.models.skeleton import hollow
from m2fedsa.models.slices import Origin, bare, cut_folder, load_head, load_tail, origins, plan_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SETTING = re.compile(r"[a-z_]+ = ")


def sides(name: str, settings: Modality, compute: Compute, encoder: "str | PreTrainedModel", example: Mapping[str, Tensor]) -> Measured:
    """Head and tail of modality `name`, tried on `example` (two samples), and what the ledger asks of the whole.

    `InputError` if the encoder cannot be loaded or cut, if it does not take these inputs, or if folder and settings disagree.
    """
    folder = cut_folder(encoder)
    _check_revision(name, settings, encoder)
    with _telling(name):
        one = _of_whole(settings, compute, encoder, example) if folder is None else _of_folder(name, settings, compute, folder, example)
        if compute.checkpoint_tails:
            recompute(one.tail, settings.blocks)
        if compute.last_block == "pooled":
            narrow(one.head, one.tail, one.head.fed(example))
        return one


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """Errors say which modality they are about."""
    try:
        yield
    except CutError as error:
        raise CutError(placed(name, error)) from error
    except WeightsError as error:
        raise WeightsError(f"modalities.{name}.encoder = {error}") from error


def processor_place(encoder: str) -> str:
    """Where the processor of an encoder lies: of one that was cut, with its head."""
    folder = cut_folder(encoder)
    return encoder if folder is None else str(folder / "head")


def placed(name: str, error: CutError) -> str:
    """The message of the models with the table that it is about; it starts with the key where it is about one."""
    return f"modalities.{name}{'.' if _SETTING.match(str(error)) else ': '}{error}"


def whole(
    name: str, settings: Modality, compute: Compute, encoder: "str | PreTrainedModel", example: Mapping[str, Tensor]
) -> tuple["PreTrainedModel", dict[str, Tensor]]:
    """The encoder of modality `name` before it is cut, and the example as it takes it. `InputError` as for `sides`."""
    _check_revision(name, settings, encoder)
    with _telling(name):
        if cut_folder(encoder):
            raise CutError(f"{encoder} is cut already. Name the whole encoder.")
        return _load(settings, compute, encoder, example)


def _load(
    settings: Modality, compute: Compute, encoder: "str | PreTrainedModel", example: Mapping[str, Tensor]
) -> tuple["PreTrainedModel", dict[str, Tensor]]:
    model = prepared(load(encoder, settings.revision), compute)
    inputs = fed(model, example)
    with _trying(model, inputs):
        model(**inputs)
    return model, inputs


def _of_whole(settings: Modality, compute: Compute, encoder: "str | PreTrainedModel", example: Mapping[str, Tensor]) -> Measured:
    model, example = _load(settings, compute, encoder, example)
    _check_readable(settings, example, model_type(model))
    planned = plan(model, example, settings.block, settings.blocks, settings.keep)
    head, tail = cut(model, planned, _pooling(settings))
    verify(model, head, tail, example, _pooling(settings))
    quantise(head.encoder, settings.head_dtype)
    return Measured(model, head, tail, _one(example))


def _of_folder(name: str, settings: Modality, compute: Compute, folder: Path, example: Mapping[str, Tensor]) -> Measured:
    origin, planned = origins(folder)[0], plan_of(folder / "head")
    _check_settings(name, settings, folder, origin, planned)
    head, tail = load_head(folder / "head"), load_tail(folder / "tail", _pooling(settings))
    for side in (head, tail):
        attend(side.encoder, compute)
        side.to(**place_and_type(compute))
    example = head.fed(example)
    _check_readable(settings, example, planned.model_type)
    _check_mask(folder, planned, example)
    model = hollow(bare(folder / "head", origin))
    with _trying(model, example):
        _check_finite(folder, head, tail, example)
    return Measured(model, head, tail, _one(example))


def _pooling(settings: Modality) -> Pooling | None:
    return None if settings.pooling == "default" else settings.pooling


def _one(example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {argument: value[:1] for argument, value in example.items()}


def _check_revision(name: str, settings: Modality, encoder: "str | PreTrainedModel") -> None:
    if settings.revision is None:
        return
    here = not isinstance(encoder, str) or encoder.startswith(RANDOM) or cut_folder(encoder) or folder_of(encoder) is not None
    if here:
        raise ConfigError(f'modalities.{name}.revision = "{settings.revision}", but only an encoder from the hub has one. Leave it out.')


def _check_settings(name: str, settings: Modality, folder: Path, origin: Origin, planned: Plan) -> None:
    """`ConfigError` where settings ask for another cut than the one in the folder."""
    if settings.block != planned.block:
        raise ConfigError(
            f"modalities.{name}.block = {settings.block}, but {folder} was cut after block {planned.block}. "
            f"Set block = {planned.block}, or cut the encoder again."
        )
    if settings.head_dtype not in ("float32", origin.head_dtype):
        raise ConfigError(
            f'modalities.{name}.head_dtype = "{settings.head_dtype}", but the head in {folder} is in {origin.head_dtype}. Leave it out, or '
            "cut the encoder again."
        )
    if settings.keep:
        raise ConfigError(
            f"modalities.{name}.keep = {list(settings.keep)}, but {folder} is cut already. Leave it out, or cut again with --keep."
        )


def _check_mask(folder: Path, planned: Plan, example: Mapping[str, Tensor]) -> None:
    mask = architecture(planned.model_type).mask
    if mask in example and mask not in planned.inputs:
        raise CutError(f"the data has an {mask}, but {folder} was traced without one. Cut the encoder again, on inputs that have it.")


@torch.no_grad()
def _check_finite(folder: Path, head: Head, tail: Tail, example: Mapping[str, Tensor]) -> None:
    """`CutError` if what leaks through the cut makes the output NaN."""
    z_BD = tail(head(example), example.get(architecture(tail.plan.model_type).mask), specify(example))
    if not bool(z_BD.isfinite().all()):
        raise CutError(f"what head and tail in {folder} put out on two samples of the data is not finite. Cut the encoder again.")


@contextmanager
def _trying(model: "PreTrainedModel", example: Mapping[str, Tensor]) -> Iterator[None]:
    """`CutError` if the encoder does not take the inputs that the data has."""
    try:
        with torch.no_grad():
            yield
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{argument} {tuple(value.shape[1:])}" for argument, value in example.items())
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CutError(
            f"{type(model).__name__} does not take the inputs that the data has, per sample {shapes} ({reason}). "
            "Choose an encoder for these."
        ) from error


def readable(block: int, example: Mapping[str, Tensor], mask: str | None) -> bool:
    """Whether text could simply be read from what travels: no block has mixed its words."""
    return block == 0 and any(name != mask and not value.is_floating_point() for name, value in example.items())


def _check_readable(settings: Modality, example: Mapping[str, Tensor], family: str) -> None:
    """`CutError` where text would leave its client unread by any block. (Section "What this protects and what it does not".)"""
    if readable(settings.block, example, architecture(family).mask) and not settings.readable_text:
        word = next(n for n, value in example.items() if n != architecture(family).mask and not value.is_floating_point())
        raise CutError(
            f"block = 0 would send the embeddings of {word}, from which the text can simply be read. "
            "Cut at 1 or later, or set readable_text = true."
        )
