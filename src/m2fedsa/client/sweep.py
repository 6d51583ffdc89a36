"""One pass of a client's samples through the link in evaluation mode, and what it is made for: metrics, sums, judgements, teachers.

Samples pass in fixed chunks of the client's own order, so that a sample's bits never depend on the occasion.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from m2fedsa.blueprint import Blueprint
from m2fedsa.client.batch import Branches, join, unimodal_logits, without_graph
from m2fedsa.errors import DivergedError
from m2fedsa.links.narrow import payload
from m2fedsa.links.port import Link
from m2fedsa.messages import ALL, EvaluationReply, EvaluationRequest, Subset, Traffic, restricted


@dataclass(frozen=True)
class Chunk:
    """What came back for some samples; the activations that were sent are forgotten."""

    samples: Tensor
    """(B,) int64"""
    rows: Mapping[str, Tensor]
    """modality -> (B_m,) which of them have it"""
    entering: Tensor
    """(B, M), a column for each modality of `rows`"""
    reply: EvaluationReply


@dataclass
class Sweep:
    """A client's samples, the link, and the round whose tensors are asked for."""

    client: str
    branches: Branches
    link: Link
    at: int
    blueprint: Blueprint
    log_prior: Tensor
    traffic: Traffic = field(default_factory=Traffic)

    def chunks(self, subsets: Sequence[Subset], samples: Tensor | None = None) -> Iterator[Chunk]:
        """Send samples (n,) once, all of them where None; f comes back for each subset."""
        wanted = torch.arange(len(self.branches.samples.labels)) if samples is None else samples
        for batch in torch.split(wanted, self.blueprint.config.evaluation.batch_size) if len(wanted) else ():
            with torch.no_grad():
                activations = without_graph(self.branches.encode(batch, self.branches.presence(batch)))
            request = EvaluationRequest(activations, tuple(subsets), self.at)
            reply = self.link.evaluate(self.client, request).to(self.branches.parts.device)
            wire = self.blueprint.config.wire
            self.traffic += Traffic(payload(request.tensors, wire.up), payload(reply.tensors, wire.down))
            for modality, pooled in reply.pooled.items():
                self._check(f"features of modality {modality}", pooled)
            rows = {modality: one.rows for modality, one in activations.modalities.items()}
            yield Chunk(batch, rows, activations.entering, reply)

    @torch.no_grad()
    def logits(self, subsets: Sequence[Subset], chunks: Iterable[Chunk] | None = None) -> dict[Subset, tuple[Tensor, Tensor]]:
        """Per subset the samples that have it (n,) and their logits (n, K): p_m for one modality, s restricted to the subset for more.

        The subset `ALL` gives s with all modalities that a sample has. `chunks`: of a pass that was made before, with f for `subsets`.
        """
        found: dict[Subset, list[tuple[Tensor, Tensor]]] = {subset: [] for subset in subsets}
        joint = [subset for subset in subsets if len(subset) != 1]
        for chunk in self.chunks(joint) if chunks is None else chunks:
            unimodal = unimodal_logits(self.branches.parts, chunk.reply.pooled)
            for modality, logits in unimodal.items():
                self._check(f"logits of modality {modality}", logits)
            for subset in subsets:
                if len(subset) == 1:
                    if subset[0] in unimodal:
                        found[subset].append((chunk.samples[chunk.rows[subset[0]]], unimodal[subset[0]].cpu()))
                else:
                    places, logits = self._restricted(chunk, subset, unimodal)
                    found[subset].append((chunk.samples[places], logits))
        return {
            subset: (torch.cat([rows for rows, _ in parts]), torch.cat([s for _, s in parts])) for subset, parts in found.items() if parts
        }

    def _check(self, what: str, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise DivergedError(f"client {self.client}, evaluation after round {self.at}: {what} are not finite.")

    def _restricted(self, chunk: Chunk, subset: Subset, unimodal: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """s over the modalities of a subset, for the chunk's samples that have them all."""
        entering, member = restricted(list(chunk.rows), chunk.entering, subset)
        fused = chunk.reply.fused[subset]
        whole = fused.new_zeros(len(chunk.samples), fused.shape[1])
        whole[member.to(fused.device)] = fused
        logits = join(self.blueprint, self.branches.parts, whole, unimodal, chunk.rows, entering, self.log_prior)
        self._check("fused logits", logits)
        return member.nonzero().squeeze(1), logits.cpu()[member]


def pooled_features(chunks: Iterable[Chunk]) -> dict[str, tuple[Tensor, Tensor]]:
    """Per modality the samples that have it (n,) and their features z_m (n, D_z)."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for chunk in chunks:
        for modality, pooled in chunk.reply.pooled.items():
            found.setdefault(modality, []).append((chunk.samples[chunk.rows[modality]], pooled.cpu()))
    return {modality: (torch.cat([rows for rows, _ in parts]), torch.cat([z for _, z in parts])) for modality, parts in found.items()}


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """`ALL`, and every non-empty subset in the run's order, small ones first."""
    sizes = range(1, len(modalities) + 1)
    return [ALL, *(subset for size in sizes for subset in combinations(modalities, size))]


def label_of(subset: Subset) -> str:
    """`fused`, `image`, `image+audio`."""
    return "+".join(subset) if subset else "fused"
