"""A client: it answers the fed server's tasks, over a link to the main server.

An idle client costs its data, its kept head outputs and a few references; modules are made for a task and dropped after it.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from m2fedsa.blueprint import Blueprint, client_parts
from m2fedsa.client.augment import Views
from m2fedsa.client.batch import Branches
from m2fedsa.client.batches import teachable
from m2fedsa.client.kept import KeptOutputs, Memory, Place
from m2fedsa.client.local_round import LocalRound, finished
from m2fedsa.client.sweep import Sweep, all_subsets, label_of
from m2fedsa.client.teacher import PREFIX, WINDOW, Teacher, teach, to_local, window
from m2fedsa.client.warm import WarmAnswers
from m2fedsa.data.samples import ClientData, Split, labelled
from m2fedsa.errors import DataError
from m2fedsa.links.port import Link
from m2fedsa.losses import Loss, step_loss
from m2fedsa.messages import (
    ALL,
    ClientInfo,
    EvaluateResult,
    EvaluateTask,
    GlobalView,
    JudgeTask,
    Result,
    SumsTask,
    Task,
    Traffic,
    TrainResult,
    TrainTask,
)
from m2fedsa.metrics.tally import tensors_of
from m2fedsa.models.cut import Head
from m2fedsa.moments import of_tensors
from m2fedsa.state import by_prefix, digest, fingerprints
from m2fedsa.storage import Store


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
    _best: int | None = None
    """the round whose file is kept beside the last one"""
    _warm: WarmAnswers = field(init=False)

    def __post_init__(self) -> None:
        self.kept = KeptOutputs(f"client {self.name}", self.shared.place, self.shared.blueprint.config.compute.workers)
        self._warm = WarmAnswers(self.name, self.data, self.shared.blueprint)

    @property
    def store(self) -> Store | None:
        """Where its local tensors survive the process."""
        return None if self.shared.checkpoint is None else Store(self.shared.checkpoint / self.name)

    def info(self) -> ClientInfo:
        """What the fed server may know."""
        train = self.data.train
        known = 0 if train is None else int(labelled(train.labels).sum())
        taught = 0 if train is None else int(teachable(train).sum())
        number, validation, test = (0 if one is None else len(one.labels) for one in (train, self.data.validation, self.data.test))
        return ClientInfo(self.name, self.data.modalities, number, known, taught, validation, test)

    def perform(self, task: Task) -> Result:
        """Answer a task. Errors of the tree in `errors` go to the federation, which reports the client as failed."""
        match task:
            case TrainTask():
                return finished(self.learning(task))
            case SumsTask():
                return self._warm.sums(task, self.sweep("train", task.view))
            case JudgeTask():
                return self._warm.judge(task, self.sweep("validation" if task.of == "validation" else "train", task.view))
            case EvaluateTask():
                return self._evaluate(task)

    # --- tasks ----------------------------------------------------------------------------------------------------------------------

    def learning(self, task: TrainTask) -> Generator[None, None, TrainResult]:
        """A round of training that pauses after each step, for clients that go side by side."""
        self._warm.clear()
        self._best = task.plan.best
        branches = self._branches("train", task.view)
        local, teaching = self._teacher_of_round(task, branches)
        teacher = self._teacher(local, branches, task.view) if WINDOW in local else None
        branches = replace(branches, views=Views(self.shared.blueprint.config, self.name, task.plan.seed))
        local_round = LocalRound(self.shared.blueprint, self.name, branches, task.plan, task.view, teacher, self.shared.loss, task.moments)
        with self.link.session(self.name, task.plan.number) as session:
            account = yield from local_round.steps(session)
        trained = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in branches.parts.tensors.items()
            if parameter.requires_grad and by_prefix(account.samples, name) > 0
        }
        personal = {name: value for name, value in trained.items() if self._is_local(name)}
        digest = self._stage(task.plan.number, {**local, **personal})
        shared = {name: value for name, value in trained.items() if name not in personal}
        return TrainResult(
            self.name,
            shared,
            account.samples,
            account.losses,
            account.steps,
            account.traffic,
            teaching,
            digest,
            account.visits,
            of_tensors(account.moments, shared),
        )

    def _evaluate(self, task: EvaluateTask) -> EvaluateResult:
        sweep = self.sweep(task.split, task.view)
        labels = sweep.branches.samples.labels
        tallies = {}
        for subset, (rows, logits) in sweep.logits(all_subsets(self.data.modalities)).items():
            known = labelled(labels[rows])
            if bool(known.any()):
                tally = self.shared.blueprint.task.tally(logits[known], labels[rows][known], task.view.log_prior)
                tallies[label_of(subset)] = tensors_of(tally)
        return EvaluateResult(self.name, tallies, sweep.traffic)

    # --- parts of tasks -------------------------------------------------------------------------------------------------------------

    def _branches(self, split: Split, view: GlobalView) -> Branches:
        samples = self.data.split(split)
        if samples is None or len(samples.labels) == 0:
            raise DataError(f"client {self.name} was given a task on its {split} samples, but it has none.")
        parts = client_parts(self.shared.blueprint, self.data.modalities)
        parts.load({**view.tensors, **{name: value for name, value in self._own(view.round).items() if name in view.tensors}})
        return Branches(samples, split, self.shared.heads, self.kept, parts.to(self.shared.device), self.shared.shortens)

    def sweep(self, split: Split, view: GlobalView) -> Sweep:
        """A pass over the samples of a split, with the global tensors and its own."""
        return Sweep(self.name, self._branches(split, view), self.link, view.round, self.shared.blueprint, view.log_prior)

    def _teacher_of_round(self, task: TrainTask, branches: Branches) -> tuple[dict[str, Tensor], Traffic]:
        """The client's local tensors for this round, with a teacher of the round's window if it has unlabelled samples to teach."""
        config, plan = self.shared.blueprint.config, task.plan
        if plan.transfer_since is None or not config.transfer.unlabelled or not bool(teachable(branches.samples).any()):
            return self.local, Traffic()
        number = window(plan.number, plan.transfer_since, config.transfer.refresh)
        if WINDOW in self.local and int(self.local[WINDOW]) == number:
            return self.local, Traffic()
        sweep = self.sweep("train", task.view)
        taught = list(sweep.chunks([ALL], teachable(branches.samples).nonzero().squeeze(1)))
        made = to_local(teach(sweep, taught, config.transfer.teacher), number)
        kept = {name: value for name, value in self.local.items() if not name.startswith(PREFIX)}
        return {**kept, **made}, sweep.traffic

    def _teacher(self, local: dict[str, Tensor], branches: Branches, view: GlobalView) -> Teacher:
        blueprint = self.shared.blueprint
        return Teacher.from_local(local, blueprint.task, branches.samples, view.log_prior, blueprint.config.transfer)

    def _is_local(self, name: str) -> bool:
        return self.shared.blueprint.config.averaging.over(name) == "nothing"

    # --- local tensors --------------------------------------------------------------------------------------------------------------

    def _own(self, round_number: int) -> dict[str, Tensor]:
        """The local tensors as they stand after a round; what it has made of them counts as soon as that round is asked for, which for
        its validation is before it commits."""
        return self._staged[1] if self._staged is not None and self._staged[0] == round_number else self.local

    def _stage(self, round_number: int, local: dict[str, Tensor]) -> str | None:
        """Write the local tensors of a round where they wait for its commit; their digest, None if there are none."""
        if not local:
            return None
        self._staged = (round_number, local)
        return digest(fingerprints(local)) if self.store is None else self.store.write(round_number, local)

    def commit(self, round_number: int) -> None:
        """The round counts: what was staged for it is the client's own from now on. Round 0 is the warm start."""
        self._warm.clear()
        if self._staged is not None and self._staged[0] == round_number:
            self.local, self._staged = self._staged[1], None
            if self.store is not None:
                self.store.keep(round_number, self._best)

    def restore(self, round_number: int, file: str) -> None:
        """Take the local tensors written for a round."""
        assert self.store is not None
        self.local, self._staged = self.store.read(round_number, file), None

    def forget(self) -> None:
        """Have no local tensors, as before the first round."""
        self.local, self._staged = {}, None
