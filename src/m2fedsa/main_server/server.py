"""The main server: global task adapters and fusion, a set of copies per client of the round, and the round's begin, end, commit, abort."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from m2fedsa.averaging import Average, Averager, Contribution, weighted_mean
from m2fedsa.blueprint import Blueprint, initial_server_tensors, server_parts
from m2fedsa.errors import ProtocolError, RefusedError, UnfinishedError
from m2fedsa.main_server.copies import Copies, Pass, encode, fuse_members
from m2fedsa.main_server.inspection import fitting, inspect
from m2fedsa.main_server.state import State
from m2fedsa.main_server.synchronous import Synchronous
from m2fedsa.messages import (
    Acceptance,
    ActivationGradients,
    Activations,
    Averaged,
    EvaluationReply,
    EvaluationRequest,
    Features,
    Gradients,
    RoundPlan,
)
from m2fedsa.models.cut import Tail
from m2fedsa.moments import averaged
from m2fedsa.state import fingerprints, snapshot
from m2fedsa.storage import Store


class MainServer:
    """Serves sessions of the round that was begun, and evaluations of the tensors in force or prepared."""

    store: Store | None = None
    """where its checkpoint lies; None to keep none"""

    def __init__(
        self,
        blueprint: Blueprint,
        tails: Mapping[str, Tail],
        average: Average = weighted_mean,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (a value, never changed)
    ) -> None:
        """`tails`: per modality, on `device`, where everything is computed; tensors between rounds are kept in main memory."""
        self.blueprint, self._tails, self._device = blueprint, tails, device
        config = blueprint.config
        self._averager = Averager.of(config.averaging, blueprint.modalities, config.federation, average)
        self._in_force = State(0, initial_server_tensors(blueprint))
        self._prepared: State | None = None
        self._plan: RoundPlan | None = None
        self._copies: dict[str, Copies] = {}
        self._shared: Copies | None = None
        self._sessions: dict[str, ServerSession] = {}
        self._closed: set[str] = set()
        self._serving: tuple[str, int, Copies] | None = None

    # --- sessions -------------------------------------------------------------------------------------------------------------------

    def session(self, client: str, round_number: int) -> "ServerSession":
        """See `links.port.Link.session`. A client whose session broke starts again from the global tensors; one that has closed
        it in order has taken part, and a second time would undo that."""
        plan = self._plan
        if plan is None or plan.number != round_number:
            raise ProtocolError(
                f"client {client} asks for round {round_number}, but {'no round' if plan is None else f'round {plan.number}'} is open."
            )
        if client not in plan.roster:
            raise ProtocolError(f"client {client} is not on the roster of round {round_number}.")
        if client in self._closed:
            raise RefusedError(
                f"client {client} has taken part in round {round_number} already: its session closed in order. It may in the next."
            )
        self._copies[client] = self._open(client, plan)
        self._sessions[client] = ServerSession(self, client, plan, self._copies[client])
        return self._sessions[client]

    def _open(self, client: str, plan: RoundPlan) -> Copies:
        if self._shared is not None:
            return self._shared
        copies = self._make(self._in_force.seen_by(client))
        copies.prepare(plan, client, self._in_force.moments)
        return copies

    def _make(self, tensors: Mapping[str, Tensor], kind: type[Copies] = Copies) -> Copies:
        parts = server_parts(self.blueprint)
        parts.load(tensors)
        return kind(self.blueprint, self._tails, parts.to(self._device))

    def check(self, session: "ServerSession", client: str, round_number: int) -> None:
        """`ProtocolError` if the session was opened anew since, or if its round is over: what it would compute could not count."""
        if self._sessions.get(client) is not session:
            raise ProtocolError(
                f"client {client}: this session of round {round_number} is over; it was opened anew, or the round has ended."
            )

    def close(self, session: "ServerSession", client: str, in_order: bool) -> None:
        """A session ended; only one that ended in order can count. One that was opened anew since, or whose round is over, says nothing."""
        if self._sessions.get(client) is not session or client in self._closed:
            return
        if in_order:
            self._closed.add(client)
            if self._shared is None:
                self._copies[client].rest()
        else:
            self._copies.pop(client, None)

    @torch.no_grad()
    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        """See `links.port.Link.evaluate`."""
        copies = self._serving_copies(client, request.at)
        activations = request.activations
        inspect(self.blueprint, self._tails, client, activations, self.blueprint.config.evaluation.batch_size)
        hidden = {name: one.hidden.to(self._device) for name, one in activations.modalities.items()}
        with fitting(client):
            pooled = encode(self._tails, copies.parts, activations, hidden)
        rows = {name: one.rows for name, one in activations.modalities.items()}
        fused = {}
        for subset in request.subsets:
            entering, member = activations.restricted(subset)
            fused[subset] = fuse_members(copies.parts, self.blueprint.modalities, pooled, rows, entering, member)
        return EvaluationReply(pooled, fused)

    def _serving_copies(self, client: str, round_number: int) -> Copies:
        state = next((state for state in (self._in_force, self._prepared) if state is not None and state.round == round_number), None)
        if state is None:
            raise ProtocolError(
                f"client {client} asks for the tensors after round {round_number}; round {self._in_force.round} is in force."
            )
        key = client if client in state.local else ""
        if self._serving is None or self._serving[:2] != (key, round_number):
            self._serving = (key, round_number, self._make(state.seen_by(client)))
        return self._serving[2]

    # --- rounds ---------------------------------------------------------------------------------------------------------------------

    def begin(self, plan: RoundPlan) -> None:
        """See `coordination.port.Coordination.begin`."""
        if plan.number != self._in_force.round + 1:
            raise ProtocolError(f"round {plan.number} cannot begin: round {self._in_force.round} is in force.")
        self.abort(plan.number)
        if self.store is not None:
            # A process that died before a commit left files of other rounds; the fed server counts none of them.
            self.store.keep(self._in_force.round, plan.best)
        self._plan = plan
        how = self.blueprint.config.federation.server_update
        if how != "copies":
            self._shared = self._make(self._in_force.tensors, Copies if how == "in_turn" else Synchronous)
            self._shared.prepare(plan, None, self._in_force.moments)

    def end(self, acceptance: Acceptance) -> Averaged:
        """See `coordination.port.Coordination.end`."""
        if self._plan is None or self._plan.number != acceptance.round:
            raise ProtocolError(f"round {acceptance.round} cannot end: it was not begun.")
        if self._prepared is None or self._prepared.round != acceptance.round:
            unfinished = sorted(set(acceptance.samples) - self._closed)
            if unfinished:
                text = f"round {acceptance.round} cannot end: the sessions of {', '.join(unfinished)} did not close in order."
                raise UnfinishedError(text, unfinished)
            self._prepared = self._average(acceptance)
        state = self._prepared
        file = None if self.store is None else self.store.write(state.round, state.filed())
        return Averaged(state.round, fingerprints(state.tensors), file)

    def _average(self, acceptance: Acceptance) -> State:
        contributions = [
            Contribution(
                client, {name: self._copies[client].parts.tensors[name].detach().cpu() for name in self._copies[client].trained}, samples
            )
            for client, samples in sorted(acceptance.samples.items())
        ]
        moments = [Contribution(client, self._copies[client].moments, samples) for client, samples in sorted(acceptance.samples.items())]
        if self._shared is not None:
            if isinstance(self._shared, Synchronous):
                assert self._plan is not None
                self._shared.advance(self._plan)
            # There is one copy and nothing to average over clients; the rule over modalities still holds.
            whole = dict.fromkeys(self._shared.parts.tensors, 1)
            contributions = [
                Contribution("shared", snapshot({name: self._shared.parts.tensors[name].cpu() for name in self._shared.trained}), whole)
            ]
            self._shared.rest()
            moments = [Contribution("shared", self._shared.moments, whole)]
        tensors, velocity = self._averager.apply(self._in_force.tensors, contributions, self._in_force.velocity)
        carried = averaged(self._in_force.moments, moments)
        local = dict(self._in_force.local)
        for one in contributions:
            kept = {name: value.clone() for name, value in one.tensors.items() if self._averager.is_local(name)}
            if kept:
                local[one.client] = {**local.get(one.client, {}), **kept}
        return State(acceptance.round, tensors, velocity, local, carried)

    def commit(self, round_number: int) -> None:
        """See `coordination.port.Coordination.commit`."""
        if self._in_force.round == round_number:
            return
        if self._prepared is None or self._prepared.round != round_number:
            raise ProtocolError(f"round {round_number} cannot commit: it was not prepared.")
        best = None if self._plan is None else self._plan.best
        self._in_force = self._prepared
        self.abort(round_number)
        if self.store is not None:
            self.store.keep(round_number, best)

    def abort(self, round_number: int) -> None:  # noqa: ARG002  (there is one round at a time in process)
        """See `coordination.port.Coordination.abort`."""
        self._plan, self._prepared, self._shared = None, None, None
        self._copies.clear()
        self._sessions.clear()
        self._closed.clear()
        if self._serving is not None and self._serving[1] != self._in_force.round:
            self._serving = None

    @property
    def rounds(self) -> tuple[int, int | None, int | None]:
        """The round in force, the one that is open, the one that is prepared."""
        prepared = None if self._prepared is None else self._prepared.round
        return self._in_force.round, None if self._plan is None else self._plan.number, prepared

    def fingerprints(self) -> Mapping[str, list[object]]:
        """See `coordination.port.Coordination.fingerprints`."""
        return fingerprints(self._in_force.tensors)

    def restore(self, round_number: int, file: str | None) -> None:
        """See `coordination.port.Coordination.restore`."""
        if file is None:
            state = State(round_number, initial_server_tensors(self.blueprint))
        else:
            assert self.store is not None
            state = State.from_filed(round_number, self.store.read(round_number, file))
        server_parts(self.blueprint).load(state.tensors)
        self.abort(round_number)
        self._in_force, self._serving = state, None


class ServerSession:
    """One client's part in one round, on the main server."""

    def __init__(self, server: MainServer, client: str, plan: RoundPlan, copies: Copies) -> None:
        """Made by `MainServer.session`."""
        self._server, self.client, self.plan, self.copies = server, client, plan, copies
        self._pass: Pass | None = None
        self._steps = 0

    def forward(self, activations: Activations) -> Features:
        """See `links.port.Session.forward`."""
        self.expect(activations)
        with fitting(self.client):
            return self.passed(self.copies.forward(activations, self.plan, self._steps))

    def expect(self, activations: Activations) -> None:
        """The activations of the next step. `ProtocolError` if they have no place here."""
        self._server.check(self, self.client, self.plan.number)
        if self._pass is not None:
            raise ProtocolError(f"client {self.client} sent a forward while the gradients of the last one are due.")
        foreign = sorted(set(activations.modalities) - set(self.plan.roster[self.client]))
        if foreign:
            raise ProtocolError(f"client {self.client} sent activations of {', '.join(foreign)}, which it was not announced with.")
        blueprint = self._server.blueprint
        inspect(blueprint, self.copies.tails, self.client, activations, blueprint.config.federation.batch_size)
        self._steps += 1

    def passed(self, done: Pass) -> Features:
        """The features of a pass, whose gradients are due from now on."""
        self._pass = done
        return Features({name: z.detach() for name, z in done.pooled.items()}, done.fusion.fused.detach())

    def backward(self, gradients: Gradients) -> ActivationGradients:
        """See `links.port.Session.backward`."""
        return self.copies.backward(self.taken(), gradients, self.plan)

    def taken(self) -> Pass:
        """The pass whose gradients have come. `ProtocolError` if none is due."""
        self._server.check(self, self.client, self.plan.number)
        if self._pass is None:
            raise ProtocolError(f"client {self.client} sent gradients, but no forward waits for them.")
        done, self._pass = self._pass, None
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._server.close(self, self.client, in_order=kind is None and self._pass is None)
