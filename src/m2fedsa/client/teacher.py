"""The fixed teacher of a client's unlabelled samples.

s̄ are logits in evaluation mode, computed at the client's first part in each window of `transfer.refresh` rounds since transfer started,
and kept among its local tensors: a teacher that moves with its student would feed on itself. (Section "Unlabelled samples".)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from m2fedsa.client.sweep import Chunk, Sweep, label_of
from m2fedsa.config import Transfer
from m2fedsa.data.samples import Samples
from m2fedsa.messages import ALL, Subset
from m2fedsa.tasks import Task
from m2fedsa.tasks.task import Targets

PREFIX = "teacher/"
WINDOW = "teacher window"
"""Neither can be the name of a modality's tensor: those hold a dot and no slash or space."""


def window(round_number: int, since: int, refresh: int) -> int:
    """Which window of rounds a round lies in: 0 for the first `refresh` rounds of the transfer phase."""
    return (round_number - since) // refresh


@dataclass(frozen=True)
class Teacher:
    """Teacher logits of a client's samples, per teaching modality or `fused`."""

    logits: Mapping[str, Tensor]
    """name -> (s̄ + log(π̄_u/π)) / τ (N, K): under the client's own class frequencies; NaN for samples that are not taught"""
    adjustments: Mapping[str, Tensor]
    """name -> log(π̄_u/π) (K,), or what the task has in its place"""
    weights: Mapping[str, Tensor]
    """name -> (N,) how much a sample counts, 1 for the surest; of no meaning for samples that are not taught; empty where all are to count
    alike"""

    @classmethod
    def made(cls, logits: Mapping[str, Tensor], task: Task, samples: Samples, log_prior: Tensor, transfer: Transfer) -> "Teacher":
        """From s̄ (N, K) of the samples of several modalities without a label, NaN elsewhere."""
        adjustments = {name: adjustment(source, name, task, samples, log_prior) for name, source in logits.items()}
        variances = task.variances(log_prior, samples.presence, samples.modalities)
        own = {
            name: task.tempered(task.adjusted(source, adjustments[name], variances.get(name)), transfer.temperature)
            for name, source in logits.items()
        }
        power = transfer.confidence
        weights = {name: _weights(task.confidence(source), ~source[:, 0].isnan(), power) for name, source in own.items()} if power else {}
        return cls(own, adjustments, weights)

    def of(self, batch: Tensor, modalities: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Teacher logits (B, K), the students' adjustments log(π̄_u/π) (K,), and weights (B,) where samples do not count alike, for each
        modality of the batch."""
        teachers, adjustments, weights = {}, {}, {}
        for modality in modalities:
            name = modality if modality in self.logits else "fused"
            source = self.logits.get(name)
            if source is not None and not bool(source[batch, 0].isnan().all()):
                teachers[modality], adjustments[modality] = source[batch], self.adjustments[name]
                if name in self.weights:
                    weights[modality] = self.weights[name][batch]
        return teachers, adjustments, weights

    @classmethod
    def from_local(cls, local: Mapping[str, Tensor], task: Task, samples: Samples, log_prior: Tensor, transfer: Transfer) -> "Teacher":
        """The teacher that a client's local tensors hold."""
        logits = {name.removeprefix(PREFIX): value for name, value in local.items() if name.startswith(PREFIX)}
        return cls.made(logits, task, samples, log_prior, transfer)

    def soft(self, modality: str, rows: Tensor, task: Task, log_prior: Tensor) -> Targets | None:
        """Soft labels of these rows (n,) for the closed form; None where nobody teaches the modality. Weights have a mean of 1 over what is
        taught of them, so that sums are over as many samples as without."""
        name = modality if modality in self.logits else "fused"
        if name not in self.logits:
            return None
        soft = task.soft(self.logits[name][rows], log_prior)
        if name not in self.weights or not bool(soft.taken.any()):
            return soft
        weight = self.weights[name][rows].double()
        return Targets(soft.values * (weight / weight[soft.taken].mean()).nan_to_num()[:, None], soft.taken)


def _weights(confidence: Tensor, taught: Tensor, power: float) -> Tensor:
    """Relative to the surest of the taught samples, so that no power makes all of them zero; none counts for nothing at all."""
    surest = confidence[taught].max() if bool(taught.any()) else torch.ones(())
    return ((confidence / surest) ** power).clamp_min(torch.finfo(confidence.dtype).tiny)


def to_local(logits: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """s̄ as local tensors of window `number`."""
    return {**{PREFIX + name: value for name, value in logits.items()}, WINDOW: torch.tensor(number)}


def teach(sweep: Sweep, chunks: Sequence[Chunk], teacher: Literal["fused", "self"]) -> dict[str, Tensor]:
    """s̄ (N, K) of the samples of these chunks, NaN elsewhere: under `fused`, or per modality where each teaches itself."""
    subsets: list[Subset] = [ALL] if teacher == "fused" else [(modality,) for modality in sweep.branches.samples.modalities]
    teachers = {}
    for subset, (rows, logits) in sweep.logits(subsets, chunks).items():
        whole = torch.full((len(sweep.branches.samples.labels), logits.shape[1]), float("nan"), dtype=logits.dtype)
        whole[rows] = logits
        teachers[label_of(subset)] = whole
    return teachers


def adjustment(logits: Tensor, name: str, task: Task, samples: Samples, log_prior: Tensor) -> Tensor:
    """log(π̄_u/π) (K,) from the logits (N, K) of the teacher of this name, NaN in rows that are not taught, and the client's own labels."""
    taught = ~logits[:, 0].isnan()
    variance = task.variances(log_prior, samples.presence[taught], samples.modalities).get(name)
    return task.taught_adjustment(logits[taught], variance, task.counted(samples.labels), log_prior)
