"""One round of local training: a pure function of the task, the client's data, its local tensors and the seed.

Legend: B batch, B_m its rows that have modality m, K classes.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from m2fedsa.blueprint import FUSED, HEAD, Blueprint
from m2fedsa.client.batch import Branches, join, unimodal_logits, without_graph
from m2fedsa.client.batches import batches, drawn, even_odds, modality_dropout
from m2fedsa.client.teacher import Teacher
from m2fedsa.data.samples import labelled
from m2fedsa.errors import DataError, DivergedError
from m2fedsa.links.narrow import payload
from m2fedsa.links.port import Session
from m2fedsa.losses import Loss, Losses, Predictions, paper_loss, step_loss
from m2fedsa.messages import Activations, Features, GlobalView, Gradients, RoundPlan, Traffic
from m2fedsa.moments import give, take
from m2fedsa.optimizers import adamw, attract, clip, culprit
from m2fedsa.seeding import derive
from m2fedsa.state import snapshot

Outcome = TypeVar("Outcome")


def finished(work: Generator[None, None, Outcome]) -> Outcome:
    """What work comes to that nobody pauses."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome


@dataclass
class Account:
    """What a round adds up to: losses, which samples trained what, bytes."""

    rows: int
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    trained_by: dict[str, Tensor] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    steps: int = 0
    visits: dict[str, int] = field(default_factory=dict)
    """modality -> samples in all batches"""
    moments: dict[str, Tensor] = field(default_factory=dict)
    """of what was stepped, where they are carried on"""

    def report(self, losses: Losses) -> None:
        """Add the losses of a step, weighted by their samples."""
        for name, (mean, number) in losses.reported.items():
            total, seen = self.losses.get(name, (0.0, 0))
            self.losses[name] = (total + float(mean) * number, seen + number)

    def visit(self, prefix: str, rows: Tensor) -> None:
        """These samples trained the tensors under the prefix."""
        if len(rows):
            self.trained_by.setdefault(prefix, torch.zeros(self.rows, dtype=torch.bool))[rows] = True

    @property
    def samples(self) -> dict[str, int]:
        """prefix -> distinct samples."""
        return {prefix: int(seen.sum()) for prefix, seen in self.trained_by.items()}


@dataclass(frozen=True)
class LocalRound:
    """A client's part in a round, ready to run."""

    blueprint: Blueprint
    client: str
    branches: Branches
    plan: RoundPlan
    view: GlobalView
    teacher: Teacher | None
    loss: Loss
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """that AdamW goes on from"""

    def steps(self, session: Session) -> Generator[None, None, Account]:
        """Train for the round's epochs or steps, pausing after each step. `DivergedError` names client, batch, modality and step."""
        config, parts = self.blueprint.config, self.branches.parts
        samples = self.branches.samples
        rows = drawn(samples, self.plan.phase, config.transfer.unlabelled)
        if len(rows) == 0:
            raise DataError(f"client {self.client} has no sample to train on in the {self.plan.phase} phase of round {self.plan.number}.")
        parts.freeze([f"{FUSED}."] if self.plan.phase == "transfer" else [])
        parts.training(self.plan.seed, self.client)
        optimizer = adamw(self._groups(), config.optimizer.weight_decay)
        give(optimizer, parts.tensors, self.moments)
        account = Account(len(samples.labels))
        anchors = snapshot(parts.tensors) if config.federation.proximal else {}
        lengths = self.branches.lengths() if config.federation.batches == "by_length" else None
        odds = even_odds(rows, samples.labels) if config.loss.balance == "sampling" else None
        order = batches(rows, config.federation, self._generator("batches"), lengths, odds)
        dropout = self._generator("modality dropout")
        for batch in order:
            account.steps += 1
            self._step(batch, dropout, session, lambda: self._update(optimizer, anchors, account.steps), account)
            yield
        if config.optimizer.moments == "averaged":
            account.moments = take(optimizer, parts.tensors)
        return account

    def _step(self, batch: Tensor, dropout: torch.Generator, session: Session, update: Callable[[], None], account: Account) -> None:
        parts = self.branches.parts
        parts.clear()
        entering = self._entering(batch, dropout)
        activations = self.branches.encode(batch, entering)  # 1. encode
        sent = without_graph(activations)
        with self._at_server(account.steps):
            features = session.forward(sent)  # 2. forward
        gradients = self._learn(batch, activations, features, account)  # 3. losses
        with self._at_server(account.steps):
            received = session.backward(gradients)  # 4. backward
        self._adapt(activations, received.hidden)  # 5. adapt
        update()
        wire = self.blueprint.config.wire
        up, down = [*sent.tensors, *gradients.tensors], [*features.tensors, *received.tensors]
        account.traffic += Traffic(payload(up, wire.up), payload(down, wire.down))
        self._visit(batch, activations, account)

    def _entering(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        presence = self.branches.presence(batch)
        if self.plan.phase == "fusion":
            return modality_dropout(presence, self.blueprint.config.fusion.modality_dropout, generator)
        return presence

    def _learn(self, batch: Tensor, activations: Activations, features: Features, account: Account) -> Gradients:
        """Losses and their gradients with respect to z_m and f; classifiers collect theirs."""
        device = self.branches.parts.device
        pooled = {modality: z.detach().to(device).requires_grad_() for modality, z in features.pooled.items()}
        fused = features.fused.detach().to(device).requires_grad_()
        predictions = self._predict(batch, activations, pooled, fused)
        loss = paper_loss if self.blueprint.config.transfer.form == "paper" and self.loss is step_loss else self.loss
        losses = loss(predictions, self.plan.phase, self.plan.weights)
        self._check(losses, predictions, account.steps)
        account.report(losses)
        losses.total.backward()
        return Gradients({modality: _gradient(z) for modality, z in pooled.items()}, _gradient(fused))

    def _predict(self, batch: Tensor, activations: Activations, pooled: Mapping[str, Tensor], fused: Tensor) -> Predictions:
        task, prior, samples = self.blueprint.task, self.view.log_prior, self.branches.samples
        unimodal = unimodal_logits(self.branches.parts, pooled)
        # In the fusion phase the unimodal classifiers answer for their own loss alone.
        entering = {name: logits.detach() for name, logits in unimodal.items()} if self.plan.phase == "fusion" else unimodal
        rows = {modality: activation.rows for modality, activation in activations.modalities.items()}
        joined = join(self.blueprint, self.branches.parts, fused, entering, rows, activations.entering, prior)
        if not self.blueprint.config.fusion.learned:
            # The sum of what the modalities say, each of which learns for itself.
            joined = joined.detach()
        teachers, teacher_adjustments, teacher_weights = ({}, {}, {}) if self.teacher is None else self.teacher.of(batch, unimodal)
        device = joined.device
        return Predictions(
            unimodal=unimodal,
            rows={modality: index.to(device) for modality, index in rows.items()},
            fused=joined,
            counts=activations.entering.sum(1).to(device, joined.dtype),
            labels=task.inner(samples.labels[batch], prior).to(device),
            adjustment=self._adjustment().to(device),
            teachers={modality: logits.to(device) for modality, logits in teachers.items()},
            teacher_adjustments={modality: value.to(device) for modality, value in teacher_adjustments.items()},
            teacher_weights={modality: value.to(device) for modality, value in teacher_weights.items()},
            task=task,
            weights=self.view.weights.to(device),
            variances={name: value.to(device) for name, value in task.variances(prior, activations.entering, list(unimodal)).items()},
        )

    def _adjustment(self) -> Tensor:
        """What puts the client's own prior in the place of the global one under a supervised loss."""
        config, task, view = self.blueprint.config, self.blueprint.task, self.view
        if not config.loss.prior_adjusted:
            return task.no_adjustment(view.log_prior)
        counted, evenly = task.counted(self.branches.samples.labels), config.loss.balance == "sampling"
        return task.adjustment(counted, view.log_prior, view.weights, evenly=evenly)

    def _adapt(self, activations: Activations, hidden: Mapping[str, Tensor]) -> None:
        """Back into MA, and into a head that trains."""
        attached = [modality for modality, one in activations.modalities.items() if one.hidden.requires_grad]
        torch.autograd.backward(
            [activations.modalities[name].hidden for name in attached],
            [hidden[name].to(activations.modalities[name].hidden.device) for name in attached],
        )

    def _update(self, optimizer: torch.optim.Optimizer, anchors: Mapping[str, Tensor], step: int) -> None:
        """Clip the client's gradients by one norm and step what is not frozen."""
        config, trained = self.blueprint.config, self.branches.parts.trained()
        if anchors:
            attract(trained, anchors, config.federation.proximal)
        norm = clip(trained.values(), config.optimizer.clip_norm)
        if not math.isfinite(norm):
            raise DivergedError(f"{self._place(step)}: a gradient of {culprit(trained)} is not finite.")
        optimizer.step()

    def _visit(self, batch: Tensor, activations: Activations, account: Account) -> None:
        """Book which distinct samples trained which tensors."""
        several = activations.entering.sum(1) > 1
        account.visit(f"{FUSED}.", batch[labelled(self.branches.samples.labels[batch])])
        account.visit("fusion.", batch)
        account.visit("fusion.bilinear", batch[several])
        for column, (modality, activation) in enumerate(activations.modalities.items()):
            account.visits[modality] = account.visits.get(modality, 0) + len(activation.rows)
            enters = activations.entering[:, column]
            account.visit(f"{modality}.", batch[activation.rows])
            account.visit(f"{modality}.token.", batch[enters])
            account.visit(f"{modality}.bilinear.", batch[enters & several])

    def _groups(self) -> list[dict[str, object]]:
        """MA, and a head that trains, at the round's rate, C_m and C_f at theirs."""
        config, rate = self.blueprint.config, self.plan.learning_rate
        factors = {"ma": 1.0, HEAD: 1.0, "classifier": config.classifier_factor, FUSED: config.optimizer.fusion_factor}
        groups: dict[str, list[Tensor]] = {kind: [] for kind in factors}
        for name, parameter in self.branches.parts.tensors.items():
            first, second, *_ = name.split(".")
            if parameter.requires_grad:
                groups[FUSED if first == FUSED else second].append(parameter)
        return [{"params": parameters, "lr": rate * factors[kind]} for kind, parameters in groups.items() if parameters]

    def _check(self, losses: Losses, predictions: Predictions, step: int) -> None:
        values = {name: float(mean) for name, (mean, _) in losses.reported.items()}
        total = float(losses.total.detach())
        if not all(math.isfinite(value) for value in (*values.values(), total)):
            raise DivergedError(f"{self._place(step)}: {_what_diverged(values, predictions.unimodal, total)}.")

    @contextmanager
    def _at_server(self, step: int) -> Iterator[None]:
        """The main server knows the modality; the client adds itself and its batch."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{self._place(step)}: {error}") from error

    def _place(self, step: int) -> str:
        return f"client {self.client}, round {self.plan.number}, batch {step - 1}, step {step}"

    def _generator(self, name: str) -> torch.Generator:
        return derive(self.plan.seed, self.client, name)


def _what_diverged(reported: Mapping[str, float], unimodal: Mapping[str, Tensor], total: float) -> str:
    """Of losses of which one is not finite, whose that is. Modalities come first: a fused logit is the sum of theirs."""
    for name, logits in unimodal.items():
        if not math.isfinite(reported.get(name, 0.0)):
            return f"the loss of modality {name} is {reported[name]}"
        if not bool(logits.detach().isfinite().all()):
            return f"logits of modality {name} are not finite"
    for name, value in reported.items():
        if not math.isfinite(value):
            return f"the {name.partition('_')[0]} loss is {value}"
    return f"the total loss is {total}"


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
