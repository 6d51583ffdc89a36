"""A client: it answers the fed server's tasks, over a link to the main server.

An idle client costs its data, its kept head outputs and a few references; modules are made for a task and dropped after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from m2fedsa.averaging import rule_for
from m2fedsa.blueprint import Blueprint, client_parts
from m2fedsa.client.batch import Branches
from m2fedsa.client.batches import teachable
from m2fedsa.client.kept import KeptOutputs, Memory, Place
from m2fedsa.client.local_round import LocalRound
from m2fedsa.client.sweep import Sweep, all_subsets, label_of
from m2fedsa.client.teacher import PREFIX, WINDOW, Teacher, window
from m2fedsa.data.samples import UNLABELLED, ClientData, Split
from m2fedsa.errors import DataError
from m2fedsa.links.port import Link
from m2fedsa.losses import Loss, step_loss
from m2fedsa.messages import (
    ALL,
    ClassSums,
    ClientInfo,
    EvaluateResult,
    EvaluateTask,
    GlobalView,
    JudgeResult,
    JudgeTask,
    Result,
    SumsResult,
    SumsTask,
    Task,
    Traffic,
    TrainResult,
    TrainTask,
)
from m2fedsa.metrics import Tally
from m2fedsa.models.cut import Head
from m2fedsa.state import by_prefix, digest, fingerprints
from m2fedsa.storage import Store
from m2fedsa.warm_start import class_sums


@dataclass
class Shared:
    """What all clients of one process share: settings, frozen heads, the loss, and where their checkpoints lie."""

    blueprint: Blueprint
    heads: Mapping[str, Head]
    loss: Loss = step_loss
    checkpoint: Path | None = None
    """a directory with one directory per client that has local tensors; None to keep none"""
    place: Place = field(default_factory=Memory)
    """where head outputs are kept"""
    shortens: frozenset[str] = frozenset()
    """modalities whose batches lose the padding that no sample needs"""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(slots=True)
class Client:
    """One participant."""

    name: str
    data: ClientData
    shared: Shared
    link: Link
    kept: KeptOutputs = field(init=False)
    local: dict[str, Tensor] = field(default_factory=dict)
    """tensors that never leave: personal ones by an averaging rule, and teachers of unlabelled samples"""
    _staged: tuple[int, dict[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        self.kept = KeptOutputs(f"client {self.name}", self.shared.place)

    @property
    def store(self) -> Store | None:
        """Where its local tensors survive the process."""
        return None if self.shared.checkpoint is None else Store(self.shared.checkpoint / self.name)

    def info(self) -> ClientInfo:
        """What the fed server may know."""
        train = self.data.train
        labelled = 0 if train is None else int((train.labels != UNLABELLED).sum())
        taught = 0 if train is None else int(teachable(train).sum())
        number, validation, test = (0 if one is None else len(one.labels) for one in (train, self.data.validation, self.data.test))
        return ClientInfo(self.name, self.data.modalities, number, labelled, taught, validation, test)

    def perform(self, task: Task) -> Result:
        """Answer a task. Errors of the tree in `errors` go to the federation, which reports the client as failed."""
        match task:
            case TrainTask():
                return self._train(task)
            case SumsTask():
                return self._sums(task)
            case JudgeTask():
                return self._judge(task)
            case EvaluateTask():
                return self._evaluate(task)

    # --- tasks ----------------------------------------------------------------------------------------------------------------------

    def _train(self, task: TrainTask) -> TrainResult:
        branches = self._branches("train", task.view)
        local, traffic = self._teacher_of_round(task, branches)
        teacher = Teacher.from_local(local, task.view.log_prior) if WINDOW in local else None
        local_round = LocalRound(self.shared.blueprint, self.name, branches, task.plan, task.view.log_prior, teacher, self.shared.loss)
        with self.link.session(self.name, task.plan.number) as session:
            account = local_round.run(session)
        trained = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in branches.parts.tensors.items()
            if parameter.requires_grad and by_prefix(account.samples, name) > 0
        }
        personal = {name: value for name, value in trained.items() if self._is_local(name)}
        digest = self._stage(task.plan.number, {**local, **personal})
        shared = {name: value for name, value in trained.items() if name not in personal}
        return TrainResult(self.name, shared, account.samples, account.losses, account.steps, account.traffic + traffic, digest)

    def _sums(self, task: SumsTask) -> SumsResult:
        sweep = self._sweep("train", task.view)
        hard = self._hard_targets()
        soft = self._teach(sweep) if task.soft else {}
        even: dict[str, ClassSums] = {}
        odd: dict[str, ClassSums] = {}
        for modality, (rows, pooled) in sweep.pooled().items():
            logits = soft.get(modality, soft.get("fused"))
            targets = hard if logits is None else hard + logits.double().softmax(1).nan_to_num()
            q, judged = targets[rows], odd_places(hard[rows].sum(1) > 0)
            fitted = (q.sum(1) > 0) & ~judged
            even[modality], odd[modality] = class_sums(pooled[fitted], q[fitted]), class_sums(pooled[judged], q[judged])
        return SumsResult(self.name, even, odd, hard.sum(0), sweep.traffic)

    def _judge(self, task: JudgeTask) -> JudgeResult:
        """Cross-entropy of every candidate on the odd samples, under the global class frequencies."""
        sweep = self._sweep("train", task.view)
        targets, log_prior = self._hard_targets(), task.view.log_prior.double()
        losses = {}
        for modality, (rows, pooled) in sweep.pooled().items():
            judged = odd_places(targets[rows].sum(1) > 0)
            z, labels = pooled[judged].double(), targets[rows][judged].argmax(1)
            table = [
                [
                    torch.nn.functional.cross_entropy(scale * (z @ weight.T + bias) + log_prior, labels, reduction="sum")
                    for scale in task.scales
                ]
                for weight, bias in task.candidates.get(modality, ())
            ]
            if table:
                losses[modality] = torch.stack([torch.stack(row) for row in table])
        return JudgeResult(self.name, losses, sweep.traffic)

    def _evaluate(self, task: EvaluateTask) -> EvaluateResult:
        sweep = self._sweep(task.split, task.view)
        labels = sweep.branches.samples.labels
        tallies = {}
        for subset, (rows, logits) in sweep.logits(all_subsets(self.data.modalities)).items():
            known = labels[rows] != UNLABELLED
            if bool(known.any()):
                tallies[label_of(subset)] = Tally.of(logits[known], labels[rows][known]).tensors()
        return EvaluateResult(self.name, tallies, sweep.traffic)

    # --- parts of tasks -------------------------------------------------------------------------------------------------------------

    def _branches(self, split: Split, view: GlobalView) -> Branches:
        samples = self.data.split(split)
        if samples is None or len(samples.labels) == 0:
            raise DataError(f"client {self.name} was given a task on its {split} samples, but it has none.")
        parts = client_parts(self.shared.blueprint, self.data.modalities)
        parts.load({**view.tensors, **{name: value for name, value in self.local.items() if name in view.tensors}})
        return Branches(samples, split, self.shared.heads, self.kept, parts.to(self.shared.device), self.shared.shortens)

    def _sweep(self, split: Split, view: GlobalView) -> Sweep:
        return Sweep(self.name, self._branches(split, view), self.link, view.round, self.shared.blueprint.config, view.log_prior)

    def _hard_targets(self) -> Tensor:
        """(N, K) float64 one-hot labels; zero for samples without one and for classes with fewer than `warm_start.min_count`."""
        assert self.data.train is not None
        labels = self.data.train.labels
        targets = torch.zeros(len(labels), self.shared.blueprint.classes, dtype=torch.float64)
        known = labels != UNLABELLED
        targets[known, labels[known]] = 1.0
        rare = targets.sum(0) < self.shared.blueprint.config.warm_start.min_count
        return targets.masked_fill(rare, 0.0)

    def _teach(self, sweep: Sweep) -> dict[str, Tensor]:
        """s̄ (N, K) of the unlabelled samples of several modalities, NaN elsewhere; per modality where each teaches itself."""
        samples = sweep.branches.samples
        taught = teachable(samples)
        fused = self.shared.blueprint.config.transfer.teacher == "fused"
        subsets = [ALL] if fused else [(modality,) for modality in self.data.modalities]
        teachers = {}
        for subset, (rows, logits) in sweep.logits(subsets).items():
            whole = torch.full((len(taught), logits.shape[1]), float("nan"), dtype=logits.dtype)
            whole[rows] = logits
            whole[~taught] = float("nan")
            teachers[label_of(subset)] = whole
        return teachers

    def _teacher_of_round(self, task: TrainTask, branches: Branches) -> tuple[dict[str, Tensor], Traffic]:
        """The client's local tensors for this round, with a teacher of the round's window if it has unlabelled samples to teach."""
        config, plan = self.shared.blueprint.config, task.plan
        if plan.transfer_since is None or not config.transfer.unlabelled or not bool(teachable(branches.samples).any()):
            return self.local, Traffic()
        number = window(plan.number, plan.transfer_since, config.transfer.refresh)
        if WINDOW in self.local and int(self.local[WINDOW]) == number:
            return self.local, Traffic()
        sweep = self._sweep("train", task.view)
        teacher = Teacher(self._teach(sweep), task.view.log_prior)
        kept = {name: value for name, value in self.local.items() if not name.startswith(PREFIX)}
        return {**kept, **teacher.to_local(number)}, sweep.traffic

    def _is_local(self, name: str) -> bool:
        return rule_for(self.shared.blueprint.config.averaging.rules, name) == "nothing"

    # --- local tensors --------------------------------------------------------------------------------------------------------------

    def _stage(self, round_number: int, local: dict[str, Tensor]) -> str | None:
        """Write the local tensors of a round where they wait for its commit; their digest, None if there are none."""
        if not local:
            return None
        self._staged = (round_number, local)
        return digest(fingerprints(local)) if self.store is None else self.store.write(round_number, local)

    def commit(self, round_number: int) -> None:
        """The round counts: what was staged for it is the client's own from now on."""
        if self._staged is not None and self._staged[0] == round_number:
            self.local, self._staged = self._staged[1], None
            if self.store is not None:
                self.store.keep(round_number)

    def restore(self, round_number: int, file: str) -> None:
        """Take the local tensors written for a round."""
        assert self.store is not None
        self.local, self._staged = self.store.read(round_number, file), None

    def forget(self) -> None:
        """Have no local tensors, as before the first round."""
        self.local, self._staged = {}, None


def odd_places(taken: Tensor) -> Tensor:
    """(n,) bool: every other one of the taken samples, the second first: those on which classifiers are judged."""
    return taken & (taken.cumsum(0) % 2 == 0)
