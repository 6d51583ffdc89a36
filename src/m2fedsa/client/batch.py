"""One batch of a client on its way to the main server and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from m2fedsa.blueprint import FUSED, HEAD, Blueprint, Parts
from m2fedsa.client.augment import Views
from m2fedsa.client.kept import KeptOutputs, Outputs, through
from m2fedsa.data.samples import Samples, Split
from m2fedsa.messages import Activation, Activations, InputSpec
from m2fedsa.models.cut import Head
from m2fedsa.models.padding import shortened


@dataclass(frozen=True)
class Branches:
    """What a client needs to encode: samples of one split, heads, kept outputs, trainable parts."""

    samples: Samples
    split: Split
    heads: Mapping[str, Head]
    kept: KeptOutputs
    parts: Parts
    shortens: frozenset[str] = frozenset()
    """modalities whose batches lose the padding that no sample needs"""
    views: Views | None = None
    """disturbed views of the samples, in training"""

    def presence(self, rows: Tensor) -> Tensor:
        """(B, M) bool over the client's modalities."""
        return self.samples.presence[rows]

    def encode(self, rows: Tensor, entering: Tensor) -> Activations:
        """a_m = h_m + MA_m(h_m) for the modalities that occur in the batch, with their graph. (Step 1, "encode".)"""
        presence = self.presence(rows)
        occurring = [column for column in range(presence.shape[1]) if bool(presence[:, column].any())]
        activations = {}
        for column in occurring:
            modality = self.samples.modalities[column]
            index = presence[:, column].nonzero().squeeze(1)
            hidden, mask, inputs = self._head_output(modality, rows[index])
            if modality in self.shortens:
                hidden, mask, inputs = shortened(hidden, mask, inputs)
            hidden = hidden.to(self.parts.device)
            adapter = self.parts.modules.get(f"{modality}.ma")
            if adapter is not None:
                hidden = hidden + adapter(hidden)
            activations[modality] = Activation(hidden, index, mask, inputs)
        return Activations(activations, entering[:, occurring])

    def _head_output(self, modality: str, rows: Tensor) -> Outputs:
        """h of samples that have the modality: kept, because it never changes; made anew by a head that trains, or of samples that look
        otherwise each time."""
        head, weights = self.heads[modality], self.parts.weights(modality, HEAD)
        number = 1 if self.views is None else self.views.number(modality)
        if number and not weights:
            return self._kept_views(modality, rows, number)
        raw = self.samples.inputs(modality, rows)
        if self.views is not None and number != 1:
            raw = self.views.fresh(modality)(raw)
        hidden, mask, inputs = through(head, raw, weights)
        return Outputs(hidden, mask, {name: InputSpec(tuple(value.shape), value.dtype) for name, value in inputs.items()})

    def _kept_views(self, modality: str, rows: Tensor, number: int) -> Outputs:
        """The kept outputs of these samples; of each, one of its views where there are several."""
        head = self.heads[modality]
        found = self.kept.get(self.split, modality, self.samples, head).rows(rows)
        if self.views is None or number == 1:
            return found
        hidden, mask = found.hidden.clone(), None if found.mask is None else found.mask.clone()
        which = self.views.which(modality, len(rows))
        for view in sorted(set(which.tolist()) - {0}):
            taken = which == view
            disturb = partial(self.views.view, modality, view)
            other = self.kept.get(self.split, modality, self.samples, head, view, disturb).rows(rows[taken])
            hidden[taken] = other.hidden
            if mask is not None and other.mask is not None:
                mask[taken] = other.mask
        return Outputs(hidden, mask, found.inputs)

    def lengths(self) -> Tensor:
        """(N,) int64: tokens of each sample's texts together; 0 where there are none, or where nothing is shortened."""
        total = torch.zeros(len(self.samples.labels), dtype=torch.int64)
        for modality in self.samples.modalities:
            if modality in self.shortens:
                kept = self.kept.get(self.split, modality, self.samples, self.heads[modality])
                present = kept.place >= 0
                if kept.outputs.mask is not None:
                    total[present] += kept.outputs.mask[kept.place[present]].ne(0).sum(1)
        return total


def without_graph(activations: Activations) -> Activations:
    """The message as it leaves the client: values, no graph."""
    modalities = {name: Activation(one.hidden.detach(), one.rows, one.mask, one.inputs) for name, one in activations.modalities.items()}
    return Activations(modalities, activations.entering)


def unimodal_logits(parts: Parts, pooled: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """p_m = C_m(z_m) (B_m, K)."""
    return {modality: parts.modules[f"{modality}.classifier"](z) for modality, z in pooled.items()}


def join(
    blueprint: Blueprint,
    parts: Parts,
    fused: Tensor,
    unimodal: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    entering: Tensor,
    log_prior: Tensor,
) -> Tensor:
    """s (B, K) of the samples of a batch from f and the unimodal logits; `rows`: which samples have a modality."""
    classifier: nn.Module = parts.modules[f"{FUSED}.classifier"]
    correction: Tensor = classifier(fused)
    if not blueprint.config.fusion.late:
        return correction
    places = {modality: index.to(fused.device) for modality, index in rows.items()}
    return blueprint.task.fused(correction, unimodal, places, entering.to(fused.device), log_prior.to(fused.device))
