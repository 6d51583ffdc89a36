"""Cutting an encoder into two folders: what `m2fedsa cut` does, and what it says."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2fedsa.durable import unfinished
from m2fedsa.errors import ConfigError, StorageError
from m2fedsa.hub import reachable
from m2fedsa.ledger import whole_flops
from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.cut import Head, specify, verify
from m2fedsa.models.encoders import folder_of, load
from m2fedsa.models.examples import example_for
from m2fedsa.models.frozen import Frozen
from m2fedsa.models.plan import Plan, plan
from m2fedsa.models.quantise import HeadDtype, in_float32
from m2fedsa.models.shapes import RANDOM
from m2fedsa.models.skeleton import hollow, kind_of, missing_modules, skeleton
from m2fedsa.models.slices import WEIGHTS, Origin, digest_of, load_head, load_tail, owned_by, write_slice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
)
"""What a client needs to make inputs; each is copied where the source has it."""


@dataclass(frozen=True)
class Choice:
    """Where an encoder is cut, and how its head is stored."""

    block: int
    head_dtype: HeadDtype = "float32"
    blocks: Sequence[str] | None = None
    keep: Sequence[str] = ()
    pooling: Pooling | None = None


@dataclass(frozen=True)
class Cut:
    """An encoder in two folders."""

    out: Path
    plan: Plan
    origin: Origin
    """of the head"""
    head_bytes: int
    """of the head's model.safetensors"""
    tail_bytes: int
    off: tuple[float, float]
    """relative error of what the head puts out, and of the pooled output; zero for a head in float32, which is exact"""


def cut_encoder(encoder: str, choice: Choice, out: Path, revision: str | None = None) -> Cut:
    """Cut an encoder from the package, a folder or the hub, and write head and tail under `out`.

    The source is mapped into memory and read tensor by tensor. `InputError` if it cannot be loaded or cut, or if `out` is in use.
    """
    _free(out)
    model = load(encoder, revision, dtype=None)
    return cut_model(model, example_for(model), choice, out, encoder, revision, processor_files(encoder, revision))


def cut_model(
    model: "PreTrainedModel",
    example: Mapping[str, Tensor],
    choice: Choice,
    out: Path,
    encoder: str = "object",
    revision: str | None = None,
    beside: Sequence[Path] = (),
) -> Cut:
    """Cut a model that is at hand, traced on `example` (two samples are enough); the files `beside` go with the head.

    What was written is read again and compared with the whole model, to the bit, before it gets its name: a cut that was interrupted
    or is not exact leaves nothing that looks like one. `InputError` as for `cut_encoder`.
    """
    _free(out)
    planned = plan(model, example, choice.block, choice.blocks, choice.keep)
    origin = _origin(model, planned, example, choice, encoder, revision)
    place = unfinished(out)
    shutil.rmtree(place, ignore_errors=True)
    try:
        head = write_slice(place / "head", model, planned, origin)
        write_slice(place / "tail", model, planned, replace(origin, side="tail"))
        for path in beside:
            shutil.copyfile(path, place / "head" / path.name)
        off = _prove(place, model, planned, example, head)
        head_bytes, tail_bytes = ((place / side / WEIGHTS).stat().st_size for side in ("head", "tail"))
        with suppress(FileNotFoundError):
            out.rmdir()
        place.rename(out)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror or error}. Nothing written earlier is lost.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Cut(out, planned, head, head_bytes, tail_bytes, off)


def processor_files(encoder: str, revision: str | None = None) -> list[Path]:
    """The files that make inputs for an encoder, as far as its source has them."""
    from transformers.utils.hub import cached_file

    if encoder.startswith(RANDOM):
        return []
    folder = folder_of(encoder)
    if folder is not None:
        return [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    options = {"revision": revision, "local_files_only": not reachable(), "_raise_exceptions_for_missing_entries": False}
    found = (cached_file(encoder, name, **options) for name in PROCESSOR_FILES)
    return [Path(path) for path in found if path is not None]


def _free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: is there already, and not empty. Choose another --out, or remove it.")


def _origin(
    model: "PreTrainedModel", planned: Plan, example: Mapping[str, Tensor], choice: Choice, encoder: str, revision: str | None
) -> Origin:
    kind = kind_of(model)
    absent = missing_modules(model, skeleton(copy.deepcopy(model.config), kind))
    bare = skeleton(copy.deepcopy(model.config), kind, absent)
    pooling = choice.pooling or architecture(planned.model_type).pooling
    parameters = sum(parameter.numel() for parameter in bare.parameters())
    forward, backward = whole_flops(hollow(bare), {name: value[:1] for name, value in _in_float32(example).items()}, pooling)
    return Origin(
        side="head",
        encoder=encoder,
        revision=revision,
        kind=kind,
        absent=absent,
        digest=digest_of(model),
        head_dtype=choice.head_dtype,
        pooling=pooling,
        parameters=parameters,
        bytes=4 * parameters,
        flops={"forward": forward, "backward": backward},
        versions={name: version(name) for name in ("m2fedsa", "torch", "transformers")},
    )


@torch.no_grad()
def _prove(place: Path, model: "PreTrainedModel", planned: Plan, example: Mapping[str, Tensor], origin: Origin) -> tuple[float, float]:
    """Read both sides again; `CutError` unless they are the whole model to the bit, but for the bits that a quantised head lacks."""
    example = _in_float32(example)
    served, tail = load_head(place / "head", mapped=True), load_tail(place / "tail", mapped=True)
    exact = served
    if origin.head_dtype != "float32":
        bare = skeleton(place / "head", origin.kind, origin.absent)
        owned = (one.tensors().items() for one in owned_by(model, planned, "head", "float32"))
        exact = Head(bare, planned, {name: tensor for its in owned for name, tensor in its})
    verify(_reference(model, origin), exact, tail, example, origin.pooling)
    if exact is served:
        return 0.0, 0.0
    mask, specs = example.get(architecture(planned.model_type).mask), specify(example)
    ours, theirs = served(example), exact(example)
    return _off(ours, theirs), _off(tail(ours, mask, specs), tail(theirs, mask, specs))


def _reference(model: "PreTrainedModel", origin: Origin) -> nn.Module:
    """The whole model in float32. In half precision its weights stay where they lie; what its constructor computes is taken anew."""
    if model.dtype == torch.float32:
        return model
    # The same tensors in modules of their own: the caller's stay as they were.
    copied = Frozen(model, list(model.state_dict())).encoder
    in_float32(copied)
    fresh = dict(skeleton(copy.deepcopy(model.config), origin.kind, origin.absent).named_buffers())
    for path, module in copied.named_modules():
        for name in module._non_persistent_buffers_set:
            if (full := f"{path}.{name}".lstrip(".")) in fresh:
                module._buffers[name] = fresh[full]
    return copied


def _in_float32(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}


def _off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
