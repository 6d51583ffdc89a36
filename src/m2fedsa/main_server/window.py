"""Steps of several clients as one batch through the trunk: the rows of all, each with its own task adapter; fusion and everything that
trains stay apart. Results differ from those of one by one by rounding alone.

Whose gradients are there go back together too; who comes later goes back alone, through the same graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m2fedsa.blueprint import TAIL
from m2fedsa.errors import M2FedSAError
from m2fedsa.main_server.copies import Copies, Graph, Pass, encode, go_back
from m2fedsa.main_server.inspection import fitting
from m2fedsa.main_server.server import ServerSession
from m2fedsa.messages import Activation, ActivationGradients, Activations, Features, Gradients, InputSpec
from m2fedsa.models.adapter import Dropout
from m2fedsa.models.architectures import architecture

_UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, M2FedSAError)
"""What an encoder may say to activations that it does not take."""


class Beside(nn.Module):
    """The adapters of several clients, each for its own rows of what it receives."""

    def __init__(self, adapters: Sequence[nn.Module], rows: Sequence[int], dimension: int) -> None:
        """`rows`: samples of each client, one behind the other along `dimension`."""
        super().__init__()
        self._adapters, self._rows, self._dimension = tuple(adapters), rows, dimension

    def forward(self, received: Tensor) -> Tensor:
        """What each adapter puts out for its rows. The graph holds copies of their weights: one client steps while others have still to
        go back through it."""
        many = received.shape[self._dimension] // sum(self._rows)
        parts = torch.split(received, [many * number for number in self._rows], self._dimension)
        given = []
        for adapter, part in zip(self._adapters, parts, strict=True):
            weights = {name: parameter.clone() for name, parameter in adapter.named_parameters()}
            given.append(functional_call(adapter, weights, (part,)))
        return torch.cat(given, self._dimension)


@dataclass
class Member:
    """One client's step, on its way through the trunk."""

    place: int
    session: ServerSession
    activations: Activations
    hidden: Mapping[str, Tensor]
    pooled: dict[str, Tensor] = field(default_factory=dict)

    @property
    def copies(self) -> Copies:
        """Its own trainable parts."""
        return self.session.copies

    def dice(self) -> list[torch.Generator]:
        """The generators of its dropouts."""
        modules = [one for module in self.copies.parts.modules.values() for one in module.modules() if isinstance(one, Dropout)]
        return [one.generator for one in modules if one.generator is not None]


def forward_together(steps: Sequence[tuple[ServerSession, Activations]]) -> list[Features | Exception]:
    """What each session's `forward` would answer or raise. What is refused is refused alone, and keeps nobody else from it."""
    answers: dict[int, Features | Exception] = {}
    members: list[Member] = []
    for place, (session, activations) in enumerate(steps):
        try:
            session.expect(activations)
            members.append(Member(place, session, activations, session.copies.enter(activations)))
        except M2FedSAError as error:
            answers[place] = error
    before = [[one.get_state() for one in member.dice()] for member in members]
    try:
        _encode(members)
        graph: Graph | None = Graph(len(members)) if len(members) > 1 else None
    except _UNFIT:
        # One of them does not fit the encoder: each goes alone, with the dice that it had, and hears of its own faults.
        graph = None
        for member, states in zip(members, before, strict=True):
            member.pooled.clear()
            for one, state in zip(member.dice(), states, strict=True):
                one.set_state(state)
    for member in members:
        answers[member.place] = _left(member, graph)
    return [answers[place] for place in range(len(steps))]


def backward_together(steps: Sequence[tuple[ServerSession, Gradients]]) -> list[ActivationGradients | Exception]:
    """What each session's `backward` would answer or raise; those that share a graph go back through it once."""
    answers: dict[int, ActivationGradients | Exception] = {}
    ways: dict[int, list[tuple[int, ServerSession, Pass, Any]]] = {}
    for place, (session, gradients) in enumerate(steps):
        try:
            done = session.taken()
            way = session.copies.roots(done, gradients, session.plan)
            ways.setdefault(id(done.graph) if done.graph else -1 - place, []).append((place, session, done, way))
        except M2FedSAError as error:
            answers[place] = error
    for shared in ways.values():
        go_back([(session.copies, done, *way) for _, session, done, way in shared])
        for place, session, done, _ in shared:
            try:
                answers[place] = session.copies.stepped(done, session.plan)
            except M2FedSAError as error:
                answers[place] = error
    return [answers[place] for place in range(len(steps))]


def _left(member: Member, graph: Graph | None) -> Features | Exception:
    """Through fusion, alone; through the trunk too, where it has not been there."""
    session, copies = member.session, member.copies
    try:
        with fitting(session.client):
            pooled = member.pooled or encode(copies.tails, copies.parts, member.activations, member.hidden)
            ordered = {name: pooled[name] for name in member.activations.modalities}
            return session.passed(copies.leave(member.activations, member.hidden, ordered, session.plan, graph))
    except M2FedSAError as error:
        if graph is not None:
            graph.due -= 1
        return error


def _encode(members: Sequence[Member]) -> None:
    """z_m of all, modality by modality: together those whose activations have one shape but for their rows."""
    for name in dict.fromkeys(name for member in members for name in member.activations.modalities):
        alike: dict[object, list[Member]] = {}
        for member in members:
            if name in member.activations.modalities:
                alike.setdefault(_shape(member, name), []).append(member)
        for group in alike.values():
            for member, pooled in zip(group, _through(name, group), strict=True):
                member.pooled[name] = pooled


def _shape(member: Member, name: str) -> object:
    """Equal for members that can be one batch. Where a client's encoder itself trains, only the client's own."""
    one, parts = member.activations.modalities[name], member.copies.parts
    if parts.weights(name, TAIL) or f"{name}.ta" not in parts.modules:
        return member.place
    mask = None if one.mask is None else one.mask.shape[1:]
    return one.hidden.shape[1:], mask, tuple((argument, spec.shape[1:], spec.dtype) for argument, spec in one.inputs.items())


def _through(name: str, group: Sequence[Member]) -> Sequence[Tensor]:
    """z_m of the members of a batch."""
    first = group[0]
    if len(group) == 1:
        only = Activations({name: first.activations.modalities[name]}, first.activations.entering)
        return [encode(first.copies.tails, first.copies.parts, only, first.hidden)[name]]
    tail = first.copies.tails[name]
    ones: list[Activation] = [member.activations.modalities[name] for member in group]
    rows = [len(one.rows) for one in ones]
    masks = [one.mask for one in ones if one.mask is not None]
    adapters = Beside([member.copies.parts.modules[f"{name}.ta"] for member in group], rows, architecture(tail.plan.model_type).rows)
    inputs = {argument: InputSpec((sum(rows), *spec.shape[1:]), spec.dtype) for argument, spec in ones[0].inputs.items()}
    hidden = torch.cat([member.hidden[name] for member in group])
    z = tail(hidden, torch.cat(masks).to(hidden.device) if masks else None, inputs, adapters)
    return torch.split(z.to(next(iter(first.copies.parts.tensors.values())).dtype), rows)
