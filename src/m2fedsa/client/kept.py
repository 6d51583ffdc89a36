"""Head outputs that a client computes once and keeps: everything before the modality adapter is frozen.

They lie in memory, or on a disk from which a batch reads its own rows alone (`shelf.py`). Either way a row has the same bits: a head runs
over fixed chunks of the client's own order, because a row's bits depend on the shape of its batch.

N samples, N_m of them with the modality, T tokens, D_h width at the cut.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2fedsa.data.ahead import made_ahead
from m2fedsa.data.columns import ColumnSamples
from m2fedsa.data.samples import Samples, Split
from m2fedsa.messages import InputSpec
from m2fedsa.models.cut import Head

CHUNK = 32
"""Samples per pass through a head."""


class Outputs(NamedTuple):
    """What a head gives for some samples."""

    hidden: Tensor
    """h (n, T, D_h)"""
    mask: Tensor | None
    """(n, T)"""
    inputs: Mapping[str, InputSpec]
    """per sample: shapes without the batch dimension"""


@dataclass(frozen=True)
class Kept:
    """One modality of one split."""

    place: Tensor
    """(N,) int64: where a sample's output lies, -1 for samples without the modality"""
    outputs: Outputs
    """of the N_m samples that have it"""

    def rows(self, rows: Tensor) -> Outputs:
        """The outputs of these samples, all of which have the modality; shapes with the batch dimension."""
        place = self.place[rows]
        hidden, mask, inputs = self.outputs
        specs = {name: InputSpec((len(rows), *spec.shape), spec.dtype) for name, spec in inputs.items()}
        return Outputs(hidden[place], None if mask is None else mask[place], specs)


Disturbance = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Source:
    """The samples of one modality and split on their way through a head."""

    name: str
    """for people: `client-03, train, image`"""
    samples: Samples
    modality: str
    head: Head
    rows: Tensor
    """(N_m,) int64: the samples that have it"""
    workers: int = 0
    """threads that decode files ahead"""
    disturb: Callable[[], Disturbance] | None = None
    """begins the draws of a view; None for the samples as they are"""

    def inputs(self) -> Iterator[dict[str, Tensor]]:
        """Encoder inputs in chunks. Only samples that are known to stand it are asked from several threads."""
        workers = self.workers if isinstance(self.samples, ColumnSamples) else 0
        chunks = made_ahead(lambda chunk: self.samples.inputs(self.modality, chunk), torch.split(self.rows, CHUNK), workers)
        return chunks if self.disturb is None else map(self.disturb(), chunks)

    def outputs(self) -> Iterator[Outputs]:
        """Head outputs in chunks."""
        for raw in self.inputs():
            hidden, mask, inputs = through(self.head, raw, {})
            specs = {name: InputSpec(tuple(value.shape[1:]), value.dtype) for name, value in inputs.items()}
            yield Outputs(hidden.cpu(), mask, specs)


def through(head: Head, raw: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """Head output h (n, T, D_h) with its mask (n, T) and the inputs as the head took them; `weights`: of a head that trains."""
    inputs = head.fed(raw)
    mask = None if head.mask_argument is None else raw.get(head.mask_argument)
    return head.under(weights, inputs, graph=bool(weights) and torch.is_grad_enabled()), mask, inputs


def layout(hidden: Tensor) -> list[int]:
    """Its dimensions as they lie in memory, the batch first: part of what decides the bits that a tail computes."""
    return [0, *sorted(range(1, hidden.dim()), key=lambda dimension: -hidden.stride()[dimension])]


def inverse(order: list[int]) -> list[int]:
    """The permutation that undoes another."""
    return sorted(range(len(order)), key=order.__getitem__)


class Place(Protocol):
    """Where outputs are kept."""

    def keep(self, source: Source) -> Outputs:
        """The outputs of a source: found here, or made and kept."""


class Memory:
    """Outputs as tensors in memory."""

    def keep(self, source: Source) -> Outputs:
        """See `Place.keep`."""
        made = list(source.outputs())
        masks = [one.mask for one in made if one.mask is not None]
        order = layout(made[0].hidden)
        hidden = torch.cat([one.hidden.permute(order) for one in made])
        return Outputs(hidden.permute(inverse(order)), torch.cat(masks) if masks else None, made[-1].inputs)


class KeptOutputs:
    """A client's head outputs, made when first asked for."""

    __slots__ = ("_client", "_kept", "_place", "_workers", "computed")

    def __init__(self, client: str = "", place: Place | None = None, workers: int = 0) -> None:
        """Nothing is computed yet. `place`: shared by the clients of a process; memory where None. `workers`: threads that decode ahead."""
        self._client, self._place, self._workers = client, place, workers
        self._kept: dict[tuple[Split, str, int], Kept] = {}
        self.computed = 0
        """samples x modalities that were asked for so far"""

    def get(
        self, split: Split, modality: str, samples: Samples, head: Head, view: int = 0, disturb: Callable[[], Disturbance] | None = None
    ) -> Kept:
        """The outputs of all samples of a split that have the modality: as they are, or one of their disturbed views (1, 2, …)."""
        key = (split, modality, view)
        if key not in self._kept:
            present = samples.presence[:, samples.modalities.index(modality)]
            rows = present.nonzero().squeeze(1)
            place = torch.full((len(present),), -1, dtype=torch.int64)
            place[rows] = torch.arange(len(rows))
            source = Source(f"{self._client}, {split}, {modality}", samples, modality, head, rows, self._workers, disturb)
            self._kept[key] = Kept(place, (self._place or Memory()).keep(source))
            self.computed += len(rows)
        return self._kept[key]
