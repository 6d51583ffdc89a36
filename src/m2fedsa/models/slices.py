"""Slices as files: a folder that is all a client needs, another that is all the main server needs.

    DIR/head, DIR/tail
        model.safetensors   the tensors that this side owns, by the names of their modules
        config.json         the encoder's configuration, from which the modules are built
        plan.json           who owns what
        source.json         what the slice was cut from (`Origin`), and the SHA-256 of model.safetensors
        tokenizer.json …    in the head: what makes inputs, where the source has it

Loading builds the modules on meta and reads these files alone: neither side ever holds or reads the other's tensors.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from m2fedsa.durable import write_atomically
from m2fedsa.errors import CutError, WeightsError
from m2fedsa.models.architectures import Pooling
from m2fedsa.models.head import Head
from m2fedsa.models.plan import Plan
from m2fedsa.models.quantise import HeadDtype, part_name, scheme, weight_name
from m2fedsa.models.skeleton import skeleton
from m2fedsa.models.stored import Layout
from m2fedsa.models.tail import Tail
from m2fedsa.models.tensor_file import content, map_tensors, read_tensors, write_tensors
from m2fedsa.state import digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SideName = Literal["head", "tail"]
WEIGHTS, CONFIG, PLAN, SOURCE = "model.safetensors", "config.json", "plan.json", "source.json"


@dataclass(frozen=True)
class Origin:
    """What a slice was cut from: source.json."""

    side: SideName
    encoder: str
    """as the user named it"""
    revision: str | None
    kind: str
    """the class of the encoder"""
    absent: tuple[str, ...]
    """modules that it does not have though its configuration asks for them"""
    digest: str
    """SHA-256 over the sorted name, type, shape and SHA-256 of all tensors of the whole encoder"""
    head_dtype: HeadDtype
    pooling: Pooling
    parameters: int
    """of the whole encoder"""
    bytes: int
    """of the whole encoder in float32"""
    flops: Mapping[str, float]
    """of the whole encoder, forward and backward, for one sample of the plan's inputs"""
    versions: Mapping[str, str]
    weights: str = ""
    """SHA-256 of model.safetensors"""

    def to_json(self) -> str:
        """source.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. `ValueError`, `TypeError` or `KeyError` if it is something else."""
        fields: dict[str, Any] = json.loads(text)
        fields["absent"] = tuple(fields["absent"])
        for name, known in (("side", SideName), ("head_dtype", HeadDtype), ("pooling", Pooling)):
            if fields[name] not in get_args(known):
                raise ValueError(f"{name} = {fields[name]!r}")
        return cls(**fields)


def cut_folder(source: object) -> Path | None:
    """The folder that `source` names if `m2fedsa cut` wrote it, else None; a side may be missing."""
    folder = Path(source).expanduser() if isinstance(source, str) else None
    return folder if folder and any((folder / side / SOURCE).is_file() for side in get_args(SideName)) else None


def write_slice(folder: Path, model: "PreTrainedModel", plan: Plan, origin: Origin) -> Origin:
    """Write the files of one side of `model` in float32, the head at `origin.head_dtype`; `origin` with their SHA-256.

    One tensor at a time is in memory, of a quantised one only its codes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = origin.head_dtype if origin.side == "head" else "float32"
    owned = [*owned_by(model, plan, origin.side, dtype)]
    layout = {name: entry for one in owned for name, entry in one.layout.items()}
    sha256 = write_tensors(folder / WEIGHTS, layout, (entry for one in owned for entry in one.tensors().items()))
    model.config.save_pretrained(folder)
    done = replace(origin, weights=sha256)
    write_atomically(folder / PLAN, (plan.to_json() + "\n").encode())
    write_atomically(folder / SOURCE, done.to_json().encode())
    return done


@dataclass(frozen=True)
class Owned:
    """A tensor of a slice before it is stored."""

    name: str
    tensor: Tensor
    kind: Any
    """how it is stored; None: as it is, floats as float32"""

    @property
    def layout(self) -> Layout:
        """Names, types and shapes of what `tensors` gives."""
        shape = tuple(self.tensor.shape)
        if self.kind is not None:
            return {part_name(self.name, self.kind.kind, part): entry for part, entry in self.kind.layout(shape).items()}
        return {self.name: (torch.float32 if self.tensor.is_floating_point() else self.tensor.dtype, shape)}

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds of it."""
        if self.kind is not None:
            return {part_name(self.name, self.kind.kind, part): value for part, value in self.kind.of(self.tensor).parts.items()}
        return {self.name: self.tensor.detach().to(self.layout[self.name][0])}


def owned_by(model: nn.Module, plan: Plan, side: SideName, dtype: HeadDtype) -> Iterator[Owned]:
    """The tensors of one side of `model`, each once, whatever number of names it has."""
    modules, seen = dict(model.named_modules()), set[int]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in (*(plan.head if side == "head" else plan.tail), *plan.both) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        path, _, own = name.rpartition(".")
        yield Owned(name, tensor, scheme(modules[path], dtype) if own == "weight" else None)


def digest_of(model: nn.Module) -> str:
    """SHA-256 over the sorted name, type, shape and SHA-256 of all tensors of `model`; none is copied."""
    return digest(
        {
            name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(content(tensor)).hexdigest()]
            for name, tensor in model.state_dict().items()
        }
    )


def load_head(folder: Path, *, mapped: bool = False) -> Head:
    """The client's side from its folder; `mapped`, its weights stay in the file, which must then stay too.

    `WeightsError` if a file is missing, altered or not of this head; `CutError` for the plan.
    """
    model, plan, _, stored = _read(folder, "head", mapped)
    with _named(folder):
        return Head(model, plan, stored)


def load_tail(folder: Path, pooling: Pooling | None = None, *, mapped: bool = False) -> Tail:
    """The main server's side from its folder; `pooling` in place of that which the encoder was cut with. Errors as for `load_head`."""
    model, plan, origin, stored = _read(folder, "tail", mapped)
    with _named(folder):
        return Tail(model, plan, pooling or origin.pooling, stored)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors about tensors say in which file."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{folder / WEIGHTS}: {error}. Cut the encoder again.") from error


def origin_of(folder: Path, side: SideName) -> Origin:
    """What the slice in `folder` was cut from. `WeightsError` if the folder holds no slice, or the other side's."""
    path = folder / SOURCE
    try:
        origin = Origin.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{folder}: holds no slice ({path.name}: {error.strerror or error}). `m2fedsa cut` writes {side}s.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: is not what `m2fedsa cut` writes ({error}). Cut the encoder again.") from error
    if origin.side != side:
        raise WeightsError(f"{folder}: holds the {origin.side} of an encoder, but its {side} is needed.")
    return origin


def origins(folder: Path) -> tuple[Origin, Origin]:
    """What head and tail in `folder` were cut from. `WeightsError` unless it is the same, at the same place."""
    head, tail = origin_of(folder / "head", "head"), origin_of(folder / "tail", "tail")
    if head.digest != tail.digest:
        raise WeightsError(
            f"{folder}: head and tail are of different encoders ({head.encoder}, digest {head.digest[:16]}…; {tail.encoder}, digest "
            f"{tail.digest[:16]}…). Take both from one `m2fedsa cut`."
        )
    ours, theirs = plan_of(folder / "head"), plan_of(folder / "tail")
    if ours != theirs:
        raise WeightsError(
            f"{folder}: the head was cut after block {ours.block}, the tail after block {theirs.block}, or with other settings. "
            "Take both from one `m2fedsa cut`."
        )
    return head, tail


def plan_of(folder: Path) -> Plan:
    """The plan of the slice in `folder`. `WeightsError` if there is none, `CutError` if it is none."""
    path = folder / PLAN
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}. Copy the slice again, or cut the encoder again.") from error
    except CutError as error:
        raise CutError(f"{path}: {error}") from error


def bare(folder: Path, origin: Origin) -> "PreTrainedModel":
    """The whole encoder that a slice was cut from, without a weight."""
    return skeleton(folder, origin.kind, origin.absent)


def _read(folder: Path, side: SideName, mapped: bool) -> tuple["PreTrainedModel", Plan, Origin, dict[str, Tensor]]:
    origin, plan = origin_of(folder, side), plan_of(folder)
    model = bare(folder, origin)
    state = model.state_dict(keep_vars=True)
    for name in (*plan.head, *plan.tail, *plan.both):
        if name not in state:
            raise CutError(f"{folder / PLAN}: is the plan of another model: {type(model).__name__} has no tensor {name}. Cut it again.")
    stored = (map_tensors if mapped else read_tensors)(folder / WEIGHTS, origin.weights)
    there = {weight_name(name) for name in stored}
    # A tensor with several names lies in the file under one of them.
    same = {id(state[name]) for name in there if name in state}
    owned = (*(plan.head if side == "head" else plan.tail), *plan.both)
    missing = [name for name in owned if id(state[name]) not in same]
    if missing:
        raise WeightsError(f"{folder / WEIGHTS}: has no tensor {missing[0]} and {len(missing) - 1} more. Cut the encoder again.")
    return model, plan, origin, stored
