"""Where to cut: what every possible cut of every encoder would store, compute and send, and which one fits given limits.

FLOPs are counted on the real modules while one sample passes through them, bytes are those of the real tensors and messages. A cut is on
the front if no other cut of the same encoder is as good in all of these and better in one: bytes that a client stores, its work per sample
and step, bytes that travel per sample and step.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from m2fedsa.assembly import Extensions, samples_of, whole_encoder, widths_of
from m2fedsa.blueprint import Blueprint
from m2fedsa.config import Config, Modality
from m2fedsa.errors import ConfigError, CutError
from m2fedsa.ledger import Measured, ledger
from m2fedsa.models.cut import cut, plan
from m2fedsa.models.quantise import HEAD_DTYPES, HeadDtype, stored_bytes
from m2fedsa.reporting.records import Side
from m2fedsa.sides import readable

if TYPE_CHECKING:
    from m2fedsa.data.samples import FederatedData

_SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_RATES = {"bit": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)(?:/s)?\s*")
UPLINK, DOWNLINK = 10e6, 50e6
"""Bits a second of a client's line, where nothing else is said."""


@dataclass(frozen=True)
class Limits:
    """What a client has."""

    client_bytes: float | None = None
    """for all of its modalities together: frozen heads, adapters and classifiers"""
    uplink: float = UPLINK
    """bits a second"""
    downlink: float = DOWNLINK
    step_seconds: float | None = None
    """longest time on the line of one step"""


@dataclass(frozen=True)
class CutCosts:
    """One cut of one encoder."""

    modality: str
    block: int
    blocks: int
    stored: Mapping[HeadDtype, int]
    """bytes of the frozen head at each type"""
    trained: int
    """bytes of MA and C_m"""
    head_flops: float
    """per sample, once if outputs are kept"""
    client_flops: tuple[float, float]
    """(forward, backward) per sample and step with kept outputs"""
    server_bytes: int
    server_flops: tuple[float, float]
    up: int
    """bytes per sample and step: activation, its mask, ∂L/∂z"""
    down: int
    """bytes per sample and step: z, ∂L/∂a"""
    task_adapter: bool
    """whether TA has a place behind the cut"""
    readable: bool
    """whether text could simply be read from what travels"""
    kept: int = 0
    """bytes of a head output and its mask: a client keeps one per sample and view"""
    front: bool = False
    """whether no other cut that can be proposed is better in everything"""

    @property
    def proposable(self) -> bool:
        """Some block must have mixed the input, which before the first can be read or computed back; and TA needs a place."""
        return self.block > 0 and self.task_adapter

    def step_seconds(self, batch: int, limits: Limits) -> float:
        """Time on the line of a step of so many samples."""
        return 8 * batch * (self.up / limits.uplink + self.down / limits.downlink)

    def plain(self, batch: int, limits: Limits) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "step_seconds": self.step_seconds(batch, limits)}


@dataclass(frozen=True)
class Choice:
    """A cut and the type of its head."""

    costs: CutCosts
    dtype: HeadDtype

    @property
    def client_bytes(self) -> int:
        """What a client stores of this modality."""
        return self.costs.stored[self.dtype] + self.costs.trained


@dataclass(frozen=True)
class Plans:
    """All cuts of a run's encoders, and what is proposed."""

    config: Config
    limits: Limits
    cuts: Mapping[str, Sequence[CutCosts]]
    whole: Mapping[str, int]
    """bytes of each whole encoder in float32"""
    proposed: Mapping[str, Choice] | None
    """None where no cuts fit the limits"""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        batch = self.config.federation.batch_size
        proposed = None
        if self.proposed is not None:
            proposed = {
                name: {"block": one.costs.block, "head_dtype": one.dtype, "client_bytes": one.client_bytes}
                for name, one in self.proposed.items()
            }
        return {
            "batch": batch,
            "limits": asdict(self.limits),
            "whole_bytes": dict(self.whole),
            "cuts": {name: [one.plain(batch, self.limits) for one in many] for name, many in self.cuts.items()},
            "proposed": proposed,
        }


def plan_cuts(config: Config, limits: Limits, extensions: Extensions | None = None) -> Plans:
    """Measure every cut of every encoder of the settings, on their own samples. `InputError` as `assembly.assemble` raises it."""
    extensions = extensions or Extensions()
    data = samples_of(config, extensions)
    cuts, whole = {}, {}
    for name in data.modalities:
        cuts[name], whole[name] = _measure(config, extensions, data, name)
    return Plans(config, limits, cuts, whole, propose(cuts, config.federation.batch_size, limits))


def _measure(config: Config, extensions: Extensions, data: "FederatedData", name: str) -> tuple[list[CutCosts], int]:
    settings = config.modalities[name]
    model, example = whole_encoder(name, settings, config.compute, extensions.encoders, data)
    found, block, blocks = [], 0, 1
    known: dict[str, Side] = {}
    while block <= blocks:
        planned = plan(model, example, block, settings.blocks, settings.keep)
        blocks = planned.blocks
        head, tail = cut(model, planned, None if settings.pooling == "default" else settings.pooling)
        here = settings.model_copy(update={"block": block, "task_adapter": settings.task_adapter and tail.takes_adapter})
        one = Measured(model, head, tail, {argument: value[:1] for argument, value in example.items()})
        blueprint = Blueprint(_with(config, name, here), {name: widths_of(name, here, head, tail)}, len(data.classes))
        entry = ledger(blueprint, {name: one}, known)[name]
        known = {name: entry["whole"]}
        client, server = entry["client"], entry["server"]
        found.append(
            CutCosts(
                modality=name,
                block=block,
                blocks=blocks,
                stored={dtype: stored_bytes(head.encoder, dtype) for dtype in HEAD_DTYPES},
                trained=client["trainable"]["bytes"],
                head_flops=client["flops"]["head"],
                client_flops=(client["flops"]["forward"] - client["flops"]["head"], client["flops"]["backward"]),
                server_bytes=server["frozen"]["bytes"] + server["trainable"]["bytes"],
                server_flops=(server["flops"]["forward"], server["flops"]["backward"]),
                up=entry["bytes"]["up"],
                down=entry["bytes"]["down"],
                task_adapter=tail.takes_adapter,
                readable=readable(block, example, head.mask_argument),
                kept=entry["kept"],
            )
        )
        block += 1
    return on_front(found, settings.head_dtype), sum(parameter.nbytes for parameter in model.parameters())


def _with(config: Config, name: str, settings: Modality) -> Config:
    return config.model_copy(update={"modalities": {name: settings}})


def on_front(cuts: Sequence[CutCosts], dtype: HeadDtype) -> list[CutCosts]:
    """The same cuts, with those marked that no other is better than in everything."""
    costs = {one.block: (one.stored[dtype] + one.trained, sum(one.client_flops), one.up + one.down) for one in cuts if one.proposable}
    fronts = {block for block, mine in costs.items() if not any(_better(other, mine) for other in costs.values())}
    return [replace(one, front=one.block in fronts) for one in cuts]


def _better(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def propose(cuts: Mapping[str, Sequence[CutCosts]], batch: int, limits: Limits) -> dict[str, Choice] | None:
    """One cut per modality that together fit the limits: of all such choices the one that is the shortest time on the line, then the most
    exact, then the smallest. See `CutCosts.proposable`."""
    many = {name: [Choice(one, dtype) for one in costs if one.proposable for dtype in HEAD_DTYPES] for name, costs in cuts.items()}
    best: tuple[tuple[float, ...], tuple[Choice, ...]] | None = None
    for choice in itertools.product(*(_undominated(one, batch, limits) for one in many.values())):
        stored = sum(one.client_bytes for one in choice)
        seconds = sum(one.costs.step_seconds(batch, limits) for one in choice)
        if (limits.client_bytes is not None and stored > limits.client_bytes) or seconds > (limits.step_seconds or float("inf")):
            continue
        rank = (seconds, sum(HEAD_DTYPES.index(one.dtype) for one in choice), stored)
        if best is None or rank < best[0]:
            best = rank, choice
    return None if best is None else dict(zip(many, best[1], strict=True))


def _undominated(choices: Sequence[Choice], batch: int, limits: Limits) -> list[Choice]:
    """Without those that another beats in time, exactness and bytes: few are left, and their products can be looked through."""
    ranks = [(one.costs.step_seconds(batch, limits), HEAD_DTYPES.index(one.dtype), one.client_bytes) for one in choices]
    return [one for one, mine in zip(choices, ranks, strict=True) if not any(_better(other, mine) for other in ranks)]


def bytes_of(text: str) -> float:
    """`50MB` in bytes. `ConfigError` if it is no size."""
    return _quantity(text, _SIZES, "a size, e.g. 50MB or 1.5GB")


def bits_of(text: str) -> float:
    """`10Mbit` in bits a second. `ConfigError` if it is no rate."""
    return _quantity(text, _RATES, "a rate, e.g. 10Mbit or 1Gbit (a second)")


def _quantity(text: str, units: Mapping[str, float], wanted: str) -> float:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in units or not float(found[1]):
        raise ConfigError(f"{text} is not {wanted}; units are {', '.join(units)}.")
    return float(found[1]) * units[found[2]]


def unfit(plans: Plans) -> CutError:
    """What to say where no cuts fit."""
    least = {name: min(one.stored["int4"] + one.trained for one in many if one.proposable) for name, many in plans.cuts.items()}
    told = ", ".join(f"{name} {value / 1e6:.3g} MB" for name, value in least.items())
    return CutError(f"no cuts fit these limits. The least that a client can store is {told} (int4). Raise --client-bytes or the rates.")
