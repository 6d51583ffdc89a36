"""What a client answers in the warm start: sums of features, and the cross-entropy of candidate classifiers. (Section "Warm start".)

Legend: N training samples, n of them that have a modality, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from m2fedsa.blueprint import Blueprint
from m2fedsa.client.batches import teachable
from m2fedsa.client.sweep import Chunk, Sweep, pooled_features
from m2fedsa.client.teacher import adjustment, teach
from m2fedsa.data.samples import UNLABELLED, ClientData, Samples
from m2fedsa.messages import ALL, ClassSums, JudgeResult, JudgeTask, SumsResult, SumsTask
from m2fedsa.warm_start import class_sums


class WarmAnswers:
    """A client's part in the warm start. Each sample is sent once, whatever is asked for how often."""

    __slots__ = ("_blueprint", "_chunks", "_client", "_data")

    def __init__(self, client: str, data: ClientData, blueprint: Blueprint) -> None:
        """Nothing is sent yet."""
        self._client, self._data, self._blueprint = client, data, blueprint
        self._chunks: dict[tuple[int, str], list[Chunk]] = {}

    def clear(self) -> None:
        """Forget what came back."""
        self._chunks.clear()

    def sums(self, task: SumsTask, sweep: Sweep) -> SumsResult:
        """Sums per modality of the samples that make classifiers and of those that judge them; soft labels count among the first."""
        chunks = self._passed(sweep, unlabelled=task.soft)
        hard = self._hard_targets()
        soft = self._soft_targets(sweep, chunks) if task.soft else {}
        even: dict[str, ClassSums] = {}
        odd: dict[str, ClassSums] = {}
        for modality, (rows, pooled) in pooled_features(chunks).items():
            fitted, judged = self._halves(hard[rows])
            q = soft.get(modality, soft.get("fused"))
            if q is not None and int((q[rows].sum(1) > 0).sum()) >= self._least:
                fitted = fitted + q[rows]
            even[modality], odd[modality] = _sums(pooled, fitted), _sums(pooled, judged)
        return SumsResult(self._client, even, odd, hard.sum(0), sweep.traffic)

    def judge(self, task: JudgeTask, sweep: Sweep) -> JudgeResult:
        """Cross-entropy of every candidate on the odd samples, under the global class frequencies."""
        hard, log_prior = self._hard_targets(), task.view.log_prior.double()
        losses = {}
        for modality, (rows, pooled) in pooled_features(self._passed(sweep, unlabelled=False)).items():
            _, targets = self._halves(hard[rows])
            judged = targets.sum(1) > 0
            z, labels = pooled[judged].double(), targets[judged].argmax(1)
            table = [
                [
                    torch.nn.functional.cross_entropy(scale * (z @ weight.T + bias) + log_prior, labels, reduction="sum")
                    for scale in task.scales
                ]
                for weight, bias in task.candidates.get(modality, ())
            ]
            if table:
                losses[modality] = torch.stack([torch.stack(row) for row in table])
        return JudgeResult(self._client, losses, sweep.traffic)

    @property
    def _samples(self) -> Samples:
        assert self._data.train is not None
        return self._data.train

    @property
    def _least(self) -> int:
        return self._blueprint.config.warm_start.min_count

    def _passed(self, sweep: Sweep, *, unlabelled: bool) -> list[Chunk]:
        """What the main server made of the labelled samples, and of the unlabelled ones that can be taught. Kept until the first round:
        nothing that decides the answer changes before."""
        groups = {"labelled": (self._samples.labels != UNLABELLED, ()), "unlabelled": (teachable(self._samples), (ALL,))}
        found: list[Chunk] = []
        for name, (taken, subsets) in groups.items():
            if name == "unlabelled" and not unlabelled:
                continue
            if (sweep.at, name) not in self._chunks:
                self._chunks[sweep.at, name] = list(sweep.chunks(subsets, taken.nonzero().squeeze(1)))
            found += self._chunks[sweep.at, name]
        return found

    def _hard_targets(self) -> Tensor:
        """(N, K) float64 one-hot labels; zero for samples without one and for classes with fewer than `warm_start.min_count`."""
        labels = self._samples.labels
        targets = torch.zeros(len(labels), self._blueprint.classes, dtype=torch.float64)
        known = labels != UNLABELLED
        targets[known, labels[known]] = 1.0
        return self._frequent(targets)

    def _frequent(self, targets: Tensor) -> Tensor:
        return targets.masked_fill(targets.sum(0) < self._least, 0.0)

    def _halves(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (n, K) of the samples that make classifiers and of those that judge them. A sum over fewer samples of a class than
        `warm_start.min_count` leaves in neither."""
        judged = odd_places(targets.sum(1) > 0)[:, None]
        return self._frequent(targets * ~judged), self._frequent(targets * judged)

    def _soft_targets(self, sweep: Sweep, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """(N, K) float64 posteriors of the unlabelled samples under the client's own class frequencies, zero elsewhere; keys as those of
        `teach`."""
        counts = class_counts(self._samples.labels, self._blueprint.classes)
        taught = [chunk for chunk in chunks if ALL in chunk.reply.fused]
        return {
            name: (logits + adjustment(logits, sweep.log_prior, counts)).double().softmax(1).nan_to_num()
            for name, logits in teach(sweep, taught, self._blueprint.config.transfer.teacher).items()
        }


def _sums(features: Tensor, targets: Tensor) -> ClassSums:
    """Of the samples that have a target."""
    taken = targets.sum(1) > 0
    return class_sums(features[taken], targets[taken])


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """(K,): labelled samples per class."""
    return torch.bincount(labels[labels != UNLABELLED], minlength=classes)


def odd_places(taken: Tensor) -> Tensor:
    """(n,) bool: every other one of the taken samples, the second first: those on which classifiers are judged."""
    return taken & (taken.cumsum(0) % 2 == 0)
