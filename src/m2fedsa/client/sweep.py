"""One pass of a client's samples through the link in evaluation mode, and what it is made for: metrics, sums, judgements, teachers.

Samples pass in fixed chunks of the client's own order, so that a sample's bits never depend on the occasion.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from m2fedsa.client.batch import Branches, chunks, join, unimodal_logits, without_graph
from m2fedsa.config import Config
from m2fedsa.errors import DivergedError
from m2fedsa.links.port import Link
from m2fedsa.messages import ALL, Activations, EvaluationReply, EvaluationRequest, Subset, Traffic


@dataclass(frozen=True)
class Chunk:
    """One chunk on its way back."""

    rows: Tensor
    activations: Activations
    reply: EvaluationReply


@dataclass
class Sweep:
    """A client's samples, the link, and the round whose tensors are asked for."""

    client: str
    branches: Branches
    link: Link
    at: int
    config: Config
    log_prior: Tensor
    traffic: Traffic = field(default_factory=Traffic)

    def chunks(self, subsets: Sequence[Subset]) -> Iterator[Chunk]:
        """Send every sample once; f comes back for each subset."""
        for rows in chunks(len(self.branches.samples.labels), self.config.evaluation.batch_size):
            with torch.no_grad():
                activations = without_graph(self.branches.encode(rows, self.branches.presence(rows)))
            request = EvaluationRequest(activations, tuple(subsets), self.at)
            reply = self.link.evaluate(self.client, request).to(self.branches.parts.device)
            self.traffic += Traffic(request.nbytes, reply.nbytes)
            for modality, pooled in reply.pooled.items():
                if not bool(pooled.isfinite().all()):
                    raise DivergedError(
                        f"client {self.client}, evaluation after round {self.at}: features of modality {modality} are not finite."
                    )
            yield Chunk(rows, activations, reply)

    def pooled(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Per modality the samples that have it (n,) and their features z_m (n, D_z)."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for chunk in self.chunks([]):
            for modality, pooled in chunk.reply.pooled.items():
                found.setdefault(modality, []).append((chunk.rows[chunk.activations.modalities[modality].rows], pooled.cpu()))
        return {modality: (torch.cat([rows for rows, _ in parts]), torch.cat([z for _, z in parts])) for modality, parts in found.items()}

    @torch.no_grad()
    def logits(self, subsets: Sequence[Subset]) -> dict[Subset, tuple[Tensor, Tensor]]:
        """Per subset the samples that have it (n,) and their logits (n, K): p_m for one modality, s restricted to the subset for more.

        The subset `ALL` gives s with all modalities that a sample has.
        """
        found: dict[Subset, list[tuple[Tensor, Tensor]]] = {subset: [] for subset in subsets}
        joint = [subset for subset in subsets if len(subset) != 1]
        for chunk in self.chunks(joint):
            unimodal = unimodal_logits(self.branches.parts, chunk.reply.pooled)
            for subset in subsets:
                if len(subset) == 1:
                    if subset[0] in unimodal:
                        found[subset].append((chunk.rows[chunk.activations.modalities[subset[0]].rows], unimodal[subset[0]].cpu()))
                else:
                    rows, logits = self._restricted(chunk, subset, unimodal)
                    found[subset].append((chunk.rows[rows], logits))
        return {
            subset: (torch.cat([rows for rows, _ in parts]), torch.cat([s for _, s in parts])) for subset, parts in found.items() if parts
        }

    def _restricted(self, chunk: Chunk, subset: Subset, unimodal: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """s over the modalities of a subset, for the chunk's rows that have them all."""
        entering, member = chunk.activations.restricted(subset)
        fused = chunk.reply.fused[subset]
        whole = fused.new_zeros(len(chunk.rows), fused.shape[1])
        whole[member.to(fused.device)] = fused
        limited = Activations(chunk.activations.modalities, entering)
        logits = join(self.branches.parts, whole, unimodal, limited, self.log_prior, late=self.config.fusion.late)
        return member.nonzero().squeeze(1), logits.cpu()[member]


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """`ALL`, and every non-empty subset in the run's order, small ones first."""
    sizes = range(1, len(modalities) + 1)
    return [ALL, *(subset for size in sizes for subset in combinations(modalities, size))]


def label_of(subset: Subset) -> str:
    """`fused`, `image`, `image+audio`."""
    return "+".join(subset) if subset else "fused"
