"""What a client answers in the warm start: sums of features, and the loss of candidate classifiers. (Section "Warm start".)

Legend: N training samples, n of them that have a modality, K classes or targets.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m2fedsa.blueprint import Blueprint
from m2fedsa.client.batches import teachable
from m2fedsa.client.side_by_side import SideBySide
from m2fedsa.client.sweep import Chunk, Sweep, pooled_features
from m2fedsa.client.teacher import Teacher, teach
from m2fedsa.data.samples import ClientData, Samples, labelled
from m2fedsa.messages import ALL, ClassSums, JudgeResult, JudgeTask, SumsResult, SumsTask
from m2fedsa.tasks import Task
from m2fedsa.tasks.task import FUSED, Linear, Targets

SIDE_BY_SIDE = ("joint", "fused")


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
        chunks = self._passed(sweep, unlabelled=task.of == "soft")
        hard = self._task.targets(self._samples.labels, self._least)
        if task.of in SIDE_BY_SIDE:
            return self._side_by_side_sums(task, sweep, chunks, hard)
        teacher = self._teacher(sweep, chunks) if task.of == "soft" else None
        even: dict[str, ClassSums] = {}
        odd: dict[str, ClassSums] = {}
        for modality, (rows, pooled) in pooled_features(chunks).items():
            fitted, judged = self._halves(hard, rows)
            values = hard.values[rows]
            taught = None if teacher is None else teacher.soft(modality, rows, self._task, sweep.log_prior)
            if taught is not None and int(taught.taken.sum()) >= self._least:
                values = torch.where(taught.taken[:, None], taught.values, values)
                fitted = fitted | taught.taken
            even[modality], odd[modality] = (self._task.sums(pooled[half], values[half]) for half in (fitted, judged))
        counted = self._task.counted(self._samples.labels[hard.taken])
        return SumsResult(self._client, even, odd, counted, sweep.traffic)

    def judge(self, task: JudgeTask, sweep: Sweep) -> JudgeResult:
        """Loss of every candidate on the odd samples, or on those of validation, under the global prior."""
        if task.of == "validation":
            labels = sweep.branches.samples.labels
            features = pooled_features(sweep.chunks((), labelled(labels).nonzero().squeeze(1)))
            return JudgeResult(self._client, self._losses(task, labels, features), sweep.traffic)
        hard, prior = self._task.targets(self._samples.labels, self._least), task.view.log_prior.double()
        chunks = self._passed(sweep, unlabelled=False)
        if task.of in SIDE_BY_SIDE:
            found = SideBySide.of(task.of, sweep, chunks, task.view)
            _, judged = self._halves(hard, found.rows)
            inner = self._task.inner(self._samples.labels[found.rows], prior)
            lines = [found.losses(self._task, inner, judged, weight, task.scales) for weight, _ in task.candidates[FUSED]]
            return JudgeResult(self._client, {FUSED: torch.stack(lines)}, sweep.traffic)
        odd: dict[str, tuple[Tensor, Tensor]] = {}
        for modality, (rows, pooled) in pooled_features(chunks).items():
            _, judged = self._halves(hard, rows)
            odd[modality] = rows[judged], pooled[judged]
        return JudgeResult(self._client, self._losses(task, self._samples.labels, odd), sweep.traffic)

    def _losses(self, task: JudgeTask, labels: Tensor, features: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """modality -> (candidates, scales) on these samples (n,) and their features (n, D_z)."""
        prior = task.view.log_prior.double()
        losses = {}
        for modality, (rows, pooled) in features.items():
            z, inner = pooled.double(), self._task.inner(labels[rows], prior)
            table = [
                [self._task.judged(self._task.candidate(z, Linear(*linear), scale, prior), inner) for scale in task.scales]
                for linear in task.candidates.get(modality, ())
            ]
            if table:
                losses[modality] = torch.stack([torch.stack(row) for row in table])
        return losses

    def _side_by_side_sums(self, task: SumsTask, sweep: Sweep, chunks: Sequence[Chunk], hard: Targets) -> SumsResult:
        found = SideBySide.of(task.of, sweep, chunks, task.view)
        inner = self._task.inner(self._samples.labels[found.rows], task.view.log_prior.double())
        even, odd = (found.sums(task.of, self._task, hard, inner, half) for half in self._halves(hard, found.rows))
        counted = self._task.counted(self._samples.labels[hard.taken])
        return SumsResult(self._client, {FUSED: even}, {FUSED: odd}, counted, sweep.traffic)

    @property
    def _samples(self) -> Samples:
        assert self._data.train is not None
        return self._data.train

    @property
    def _task(self) -> Task:
        return self._blueprint.task

    @property
    def _least(self) -> int:
        return self._blueprint.config.warm_start.min_count

    def _passed(self, sweep: Sweep, *, unlabelled: bool) -> list[Chunk]:
        """What the main server made of the labelled samples, and of the unlabelled ones that can be taught. Kept until the first round:
        nothing that decides the answer changes before."""
        fused = (ALL,) if self._blueprint.config.warm_start.fused else ()
        groups = {"labelled": (labelled(self._samples.labels), fused), "unlabelled": (teachable(self._samples), (ALL,))}
        found: list[Chunk] = []
        for name, (taken, subsets) in groups.items():
            if name == "unlabelled" and not unlabelled:
                continue
            if (sweep.at, name) not in self._chunks:
                self._chunks[sweep.at, name] = list(sweep.chunks(subsets, taken.nonzero().squeeze(1)))
            found += self._chunks[sweep.at, name]
        return found

    def _halves(self, hard: Targets, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) bool each: of these rows, the samples that make classifiers and those that judge them. Neither has so few of a kind that
        `warm_start.min_count` keeps their sum back."""
        own, judged = Targets(hard.values[rows], hard.taken[rows]), odd_places(hard.taken[rows])
        fitted = self._task.enough(own, own.taken & ~judged, self._least)
        return fitted, self._task.enough(own, judged, self._least)

    def _teacher(self, sweep: Sweep, chunks: Sequence[Chunk]) -> Teacher:
        """Of the unlabelled samples, under the client's own class frequencies."""
        transfer = self._blueprint.config.transfer
        # Labelled samples may have been fused as well, for the classifier of what is fused.
        taught = [chunk for chunk in chunks if not bool(labelled(self._samples.labels[chunk.samples]).any())]
        logits = teach(sweep, taught, transfer.teacher)
        return Teacher.made(logits, self._task, self._samples, sweep.log_prior, transfer)


def odd_places(taken: Tensor) -> Tensor:
    """(n,) bool: every other one of the taken samples, the second first: those on which classifiers are judged."""
    return taken & (taken.cumsum(0) % 2 == 0)
