"""The fed server: it samples clients, hands out tasks, averages what comes back and decides when transfer starts.

It never sees an input, an activation or the label of a sample. Everything that it knows is in `State`, which is what a checkpoint holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from m2fedsa import moments
from m2fedsa.averaging import Average, Averager, Contribution, weighted_mean
from m2fedsa.blueprint import FUSED, Blueprint, client_parts, initial_client_tensors
from m2fedsa.errors import RunError
from m2fedsa.fed_server import answers
from m2fedsa.fed_server.phases import transfer_since
from m2fedsa.messages import (
    Acceptance,
    ClientInfo,
    Evaluated,
    EvaluateTask,
    Failure,
    GlobalView,
    Phase,
    Result,
    RoundPlan,
    Task,
    TrainResult,
    TrainTask,
)
from m2fedsa.optimizers import cosine
from m2fedsa.seeding import derive, derive_seed
from m2fedsa.state import of_modalities
from m2fedsa.tasks.task import Linear

VELOCITY, MOMENTS, PRIOR, WEIGHTS = "velocity/", "moments/", "log_prior", "class_weights"


class Sampler(Protocol):
    """Who takes part in a round: names out of `eligible` (sorted by name), drawn with `generator` alone.

    A researcher's own sampler is any callable of this form.
    """

    def __call__(self, round_number: int, eligible: Sequence[ClientInfo], number: int | None, generator: torch.Generator) -> Sequence[str]:
        """See the class."""


def uniform_sampler(
    round_number: int,  # noqa: ARG001  (its place in `Sampler`)
    eligible: Sequence[ClientInfo],
    number: int | None,
    generator: torch.Generator,
) -> Sequence[str]:
    """`number` clients uniformly without replacement; all where it is None."""
    if number is None or number >= len(eligible):
        return [client.name for client in eligible]
    return sorted(eligible[index].name for index in torch.randperm(len(eligible), generator=generator)[:number].tolist())


@dataclass(frozen=True)
class State:
    """All that the fed server holds between rounds."""

    round: int
    tensors: Mapping[str, Tensor]
    log_prior: Tensor
    weights: Tensor
    """(K,): of classes in the supervised loss"""
    velocity: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """of the clients' AdamW, where they are carried from round to round"""
    losses: tuple[float, ...] = ()
    """per round the mean fused loss over samples of several modalities; the last value again where a round had none"""
    since: int | None = None
    """first round of the transfer phase"""

    def filed(self) -> dict[str, Tensor]:
        """The tensors as one flat mapping, for the checkpoint."""
        return {
            **self.tensors,
            PRIOR: self.log_prior,
            WEIGHTS: self.weights,
            **{VELOCITY + name: value for name, value in self.velocity.items()},
            **moments.filed(self.moments, MOMENTS),
        }

    def facts(self) -> dict[str, Any]:
        """What is not a tensor, for the manifest."""
        return {"losses": list(self.losses), "since": self.since}

    @classmethod
    def from_filed(cls, round_number: int, flat: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "State":
        """The inverse of `filed` and `facts`."""
        velocity = {name.removeprefix(VELOCITY): value for name, value in flat.items() if name.startswith(VELOCITY)}
        carried = moments.from_filed(flat, MOMENTS)
        tensors = {name: value for name, value in flat.items() if name not in (PRIOR, WEIGHTS) and not name.startswith((VELOCITY, MOMENTS))}
        return cls(round_number, tensors, flat[PRIOR], flat[WEIGHTS], velocity, carried, tuple(facts["losses"]), facts["since"])


class FedServer:
    """The round as the fed server sees it; `state` is replaced, never changed."""

    def __init__(
        self, blueprint: Blueprint, clients: Sequence[ClientInfo], sampler: Sampler = uniform_sampler, average: Average = weighted_mean
    ) -> None:
        """`clients`: the registry, sorted by name."""
        self.blueprint, self.sampler = blueprint, sampler
        self.clients = {client.name: client for client in clients}
        config = blueprint.config
        self._averager = Averager.of(config.averaging, blueprint.modalities, config.federation, average)
        prior, weights = blueprint.task.initial_prior(), torch.ones(blueprint.classes)
        self.state = State(0, initial_client_tensors(blueprint), prior, weights)

    def begin_round(self, present: Sequence[str] | None = None, best: int | None = None) -> tuple[RoundPlan, list[TrainTask]]:
        """Plan the next round: its phase, its clients, their tasks. `present`: who can take part now; None: everybody. `best`: the round
        whose checkpoint everybody shall keep."""
        config, number, since = self.blueprint.config, self.state.round + 1, self._since()
        rate = config.optimizer.learning_rate
        if config.optimizer.schedule == "cosine":
            rate *= cosine(number, config.federation.rounds)
        phase: Phase = "fusion" if since is None else "transfer"
        eligible = [self.clients[name] for name in self.candidates() if present is None or name in present]
        chosen = self.sampler(number, eligible, config.federation.clients_per_round, derive(config.seed, "sample", number))
        _check_chosen(chosen, eligible, number)
        roster = {name: self.clients[name].modalities for name in sorted(chosen)}
        seed = derive_seed(config.seed, "round", number)
        plan = RoundPlan(number, phase, seed, roster, rate, config.transfer.weights, since, best)
        return plan, [self._task(name, plan) for name in roster]

    def _task(self, client: str, plan: RoundPlan) -> TrainTask:
        view = self.view(client)
        return TrainTask(client, plan, view, moments.of_tensors(self.state.moments, view.tensors))

    def candidates(self) -> list[str]:
        """The names of those who have something to learn from in the next round, sorted."""
        since = self._since()
        return [name for name, one in self.clients.items() if self._takes_part(one, transfer=since is not None)]

    def _since(self) -> int | None:
        """The first round of the transfer phase, where the next round is in it."""
        return transfer_since(self.blueprint.config.transfer.start, self.state.round + 1, self.state.losses, self.state.since)

    def _takes_part(self, client: ClientInfo, transfer: bool) -> bool:
        """Whoever has something to learn from: labels; in the transfer phase also unlabelled samples of several modalities."""
        return client.labelled > 0 or (transfer and self.blueprint.config.transfer.unlabelled and client.teachable > 0)

    def view(self, client: str) -> GlobalView:
        """The global tensors that a client holds."""
        modalities = self.clients[client].modalities
        return GlobalView(
            of_modalities(self.state.tensors, modalities, (FUSED,)), self.state.log_prior, self.state.weights, self.state.round
        )

    def checked(self, task: Task, answer: Result | Failure) -> Result | Failure:
        """What a client answers to a task, or its failure where that is no answer to it."""
        return answers.checked(self.blueprint, self.clients[task.client], task, answer)

    def accept(self, plan: RoundPlan, results: Sequence[TrainResult]) -> Acceptance:
        """Which copies the main server shall average, and with which weights."""
        return Acceptance(
            plan.number, {result.client: dict(result.samples) for result in sorted(results, key=lambda result: result.client)}
        )

    def end_round(self, plan: RoundPlan, results: Sequence[TrainResult]) -> None:
        """Average the client-side tensors and note the losses."""
        contributions = [Contribution(result.client, result.tensors, result.samples) for result in results]
        tensors, velocity = self._averager.apply(self.state.tensors, contributions, self.state.velocity)
        carried = moments.averaged(self.state.moments, [Contribution(result.client, result.moments, result.samples) for result in results])
        fused = mean_losses(results).get("fused_multimodal")
        losses = self.state.losses
        if fused is not None or losses:
            losses = (*losses, losses[-1] if fused is None else fused)
        self.state = replace(
            self.state,
            round=plan.number,
            tensors=tensors,
            velocity=velocity,
            moments=carried,
            losses=losses,
            since=plan.transfer_since,
        )

    def evaluation(self, split: Evaluated) -> list[EvaluateTask]:
        """Tasks for every client that holds samples of the split."""
        holders = [client.name for client in self.clients.values() if getattr(client, split) > 0]
        return [EvaluateTask(name, self.view(name), split) for name in holders]

    def adopt(self, classifiers: Mapping[str, Linear]) -> None:
        """Take C_m per modality from the warm start."""
        tensors = dict(self.state.tensors)
        for modality, linear in classifiers.items():
            for part, value in (("weight", linear.weight), ("bias", linear.bias)):
                name = f"{modality}.classifier.{part}"
                tensors[name] = value.to(tensors[name].dtype)
        self.state = replace(self.state, tensors=tensors)

    def adopt_prior(self, prior: Tensor) -> None:
        """Take the global prior; where all classes shall count alike, their weights from it instead, and even frequencies."""
        weights, balance = self.state.weights, self.blueprint.config.loss.balance
        if balance != "none":
            found, prior = self.blueprint.task.balanced(prior)
            weights = found.to(weights.dtype) if balance == "weights" else weights
        self.state = replace(self.state, log_prior=prior.to(self.state.log_prior.dtype), weights=weights)

    def restore(self, state: State) -> None:
        """Go back to a checkpoint; `WeightsError` if its tensors do not fit the settings."""
        client_parts(self.blueprint, self.blueprint.modalities).load(state.tensors)
        self.state = state


def _check_chosen(chosen: Sequence[str], eligible: Sequence[ClientInfo], number: int) -> None:
    """`RunError` where a sampler names a client twice, or one that cannot take part; or nobody, though somebody could."""
    known = {client.name for client in eligible}
    strange = [name for name in chosen if name not in known]
    if strange:
        raise RunError(f"round {number}: the sampler chose {strange[0]!r}, which cannot take part; {len(known)} clients can.")
    if len(set(chosen)) < len(chosen):
        raise RunError(f"round {number}: the sampler chose {max(chosen, key=list(chosen).count)} more than once.")
    if known and not chosen:
        raise RunError(f"round {number}: the sampler chose nobody, though {len(known)} clients can take part.")


def mean_losses(results: Sequence[TrainResult]) -> dict[str, float]:
    """Means over the round's samples, in the order of the clients' names."""
    sums: dict[str, tuple[float, int]] = {}
    for result in sorted(results, key=lambda result: result.client):
        for name, (total, number) in result.losses.items():
            so_far, seen = sums.get(name, (0.0, 0))
            sums[name] = (so_far + total, seen + number)
    return {name: total / number for name, (total, number) in sums.items() if number}
