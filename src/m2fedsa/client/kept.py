"""Head outputs that a client computes once and keeps: everything before the modality adapter is frozen.

N_m samples that have the modality, T tokens, D_h width at the cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from m2fedsa.data.samples import Samples, Split
from m2fedsa.messages import InputSpec
from m2fedsa.models.architectures import architecture
from m2fedsa.models.cut import Head

CHUNK = 32
"""Samples per pass through a head. Fixed, and cut from the client's own order: a row's bits depend on the shape of its batch."""


@dataclass(frozen=True)
class Kept:
    """One modality of one split."""

    place: Tensor
    """(N,) int64: where a sample's output lies, -1 for samples without the modality"""
    hidden: Tensor
    """h (N_m, T, D_h)"""
    mask: Tensor | None
    """(N_m, T)"""
    inputs: Mapping[str, InputSpec]
    """per sample: shapes without the batch dimension"""

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor | None, dict[str, InputSpec]]:
        """h, mask and input shapes of these samples, all of which have the modality."""
        place = self.place[rows]
        specs = {name: InputSpec((len(rows), *spec.shape), spec.dtype) for name, spec in self.inputs.items()}
        return self.hidden[place], None if self.mask is None else self.mask[place], specs


class KeptOutputs:
    """A client's head outputs, made when first asked for."""

    __slots__ = ("_kept", "computed")

    def __init__(self) -> None:
        """Nothing is computed yet."""
        self._kept: dict[tuple[Split, str], Kept] = {}
        self.computed = 0
        """samples x modalities that went through a head so far"""

    def get(self, split: Split, modality: str, samples: Samples, head: Head) -> Kept:
        """The outputs of all samples of a split that have the modality."""
        key = (split, modality)
        if key not in self._kept:
            self._kept[key] = self._compute(modality, samples, head)
        return self._kept[key]

    def _compute(self, modality: str, samples: Samples, head: Head) -> Kept:
        present = samples.presence[:, samples.modalities.index(modality)]
        rows = present.nonzero().squeeze(1)
        place = torch.full((len(present),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        hidden, masks = [], []
        specs: dict[str, InputSpec] = {}
        for chunk in torch.split(rows, CHUNK):
            inputs = samples.inputs(modality, chunk)
            specs = {name: InputSpec(tuple(value.shape[1:]), value.dtype) for name, value in inputs.items()}
            with torch.no_grad():
                hidden.append(head(inputs))
            mask = inputs.get(architecture(head.plan.model_type).mask)
            if mask is not None:
                masks.append(mask)
        self.computed += len(rows)
        return Kept(place, torch.cat(hidden), torch.cat(masks) if masks else None, specs)
