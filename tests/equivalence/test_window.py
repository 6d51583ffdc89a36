"""Steps of several clients as one batch come to the same as one by one, within 1e-5 of the largest entry; adapters' dropout is on."""

import pytest
import torch
from tests import worlds
from tests.conformance.test_ports import ROSTER, accept, activations, gradients, plan, spoilt
from torch import Tensor

from m2fedsa.errors import ProtocolError
from m2fedsa.links.worker import Step, Window, Worker
from m2fedsa.main_server import MainServer
from m2fedsa.main_server.window import backward_together, forward_together

CLIENTS = tuple(ROSTER)


def servers(phase: str = "fusion") -> tuple[MainServer, MainServer]:
    """Two alike, with tensors away from zero, and round 1 open on both."""
    made = []
    for _ in range(2):
        who = worlds.parties(worlds.config(), worlds.federated())
        worlds.unsettle(who)
        who.coordination.begin(plan(phase=phase))
        made.append(who.coordination)
    return made[0], made[1]


def near(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    worlds.assert_close(ours, theirs, 1e-5)


def trained(server: MainServer, **samples: int) -> dict[str, Tensor]:
    server.end(accept(**samples))
    server.commit(1)
    return worlds.settled(worlds.snapshot(server._in_force.tensors))


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
def test_together_or_one_by_one(phase: str) -> None:
    """Three clients with other modalities and other numbers of rows."""
    alone, window = servers(phase)
    ones, alls = ([server.session(client, 1) for client in CLIENTS] for server in (alone, window))
    for turn in range(3):
        said = [activations(ROSTER[client], rows=2 + (place + turn) % 3, seed=turn) for place, client in enumerate(CLIENTS)]
        expected = [one.forward(message) for one, message in zip(ones, said, strict=True)]
        features = forward_together(list(zip(alls, said, strict=True)))
        answers = [gradients(one, turn) for one in expected]
        back = [one.backward(message) for one, message in zip(ones, answers, strict=True)]
        together = backward_together(list(zip(alls, answers, strict=True)))
        for ours, theirs, gone, came in zip(features, expected, together, back, strict=True):
            near({**ours.pooled, "f": ours.fused}, {**theirs.pooled, "f": theirs.fused})
            near(gone.hidden, came.hidden)
    for sessions in (ones, alls):
        for one in sessions:
            one.__exit__(None, None, None)
    near(trained(window, ann=1, cyd=2, eve=3), trained(alone, ann=1, cyd=2, eve=3))


def test_who_comes_late_goes_back_through_the_same_graph() -> None:
    """ann goes back and steps, twice, while the gradients of cyd are still on their way; eve never comes."""
    alone, window = servers()
    said = {client: activations(ROSTER[client], seed=1) for client in CLIENTS}
    ones, alls = ({client: server.session(client, 1) for client in CLIENTS} for server in (alone, window))
    expected = {client: ones[client].forward(said[client]) for client in CLIENTS}
    forward_together([(alls[client], said[client]) for client in CLIENTS])
    for sessions in (ones, alls):
        sessions["ann"].backward(gradients(expected["ann"]))
    second = ones["ann"].forward(activations(ROSTER["ann"], seed=2))
    near(alls["ann"].forward(activations(ROSTER["ann"], seed=2)).pooled, second.pooled)
    for sessions in (ones, alls):
        sessions["ann"].backward(gradients(second))
    late = gradients(expected["cyd"], 5)
    near(alls["cyd"].backward(late).hidden, ones["cyd"].backward(late).hidden)
    for sessions in (ones, alls):
        for client in ("ann", "cyd"):
            sessions[client].__exit__(None, None, None)
    near(trained(window, ann=1, cyd=2), trained(alone, ann=1, cyd=2))


@pytest.mark.parametrize("wrong", ["refused at sight", "does not fit the encoder", "not finite"])
def test_who_sends_what_does_not_fit_harms_nobody(wrong: str) -> None:
    alone, window = servers()
    ones, alls = ([server.session(client, 1) for client in CLIENTS] for server in (alone, window))
    said = [activations(ROSTER[client]) for client in CLIENTS]
    good = said[0]
    spoil = {
        "refused at sight": spoilt("text", hidden=lambda one: one.hidden.double()),
        "does not fit the encoder": spoilt("text", hidden=lambda one: one.hidden[:, :4]),
        "not finite": spoilt("text", hidden=lambda one: one.hidden * float("nan")),
    }[wrong]
    said[1] = spoil(said[1])
    features = forward_together(list(zip(alls, said, strict=True)))
    assert isinstance(features[1], Exception)
    assert "image" in str(features[1]) or "text" in str(features[1]) or "client cyd" in str(features[1])
    expected = ones[0].forward(good)
    near(features[0].pooled, expected.pooled)
    near(alls[0].backward(gradients(expected)).hidden, ones[0].backward(gradients(expected)).hidden)
    near(features[2].pooled, ones[2].forward(said[2]).pooled)


def test_gradients_that_do_not_fit_harm_nobody() -> None:
    alone, window = servers()
    ones, alls = ([server.session(client, 1) for client in CLIENTS[:2]] for server in (alone, window))
    said = [activations(ROSTER[client]) for client in CLIENTS[:2]]
    expected = [one.forward(message) for one, message in zip(ones, said, strict=True)]
    forward_together(list(zip(alls, said, strict=True)))
    right, wrong = gradients(expected[0]), gradients(expected[0])
    answers = backward_together([(alls[0], right), (alls[1], wrong)])
    assert isinstance(answers[1], ProtocolError)
    near(answers[0].hidden, ones[0].backward(right).hidden)


def test_a_window_waits_for_those_who_may_come_and_not_longer() -> None:
    """Two of three sessions have a step: it waits out the window. All three: it does not wait at all."""
    import time

    seen: list[int] = []
    worker = Worker(0, Window(0.4, {"forward": lambda steps: [message for _, message in steps]}, seen.append))
    worker.sessions = 3
    for number in (2, 3):
        began = time.monotonic()
        futures = [worker.step(f"client {place}", Step("forward", None, place)) for place in range(number)]
        assert [one.result(20) for one in futures] == list(range(number))
        assert (time.monotonic() - began >= 0.4) == (number == 2)
    assert seen == [2, 3]
    assert worker.do("client 0", lambda: torch.tensor(1.0).item()) == 1.0
    worker.close()


def test_clients_are_served_in_turn() -> None:
    """One has sent five jobs before the other has sent two."""
    import threading

    order: list[str] = []
    worker, gate = Worker(), threading.Event()
    worker.submit("first", gate.wait)
    futures = [worker.submit("greedy", lambda: order.append("greedy")) for _ in range(5)]
    futures += [worker.submit("modest", lambda: order.append("modest")) for _ in range(2)]
    assert worker.waiting >= 7
    gate.set()
    for one in futures:
        one.result(20)
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]
    worker.close()


def test_what_ends_a_step_goes_before_what_begins_one() -> None:
    import threading

    order: list[str] = []
    worker, gate = Worker(), threading.Event()
    worker.submit("first", gate.wait)
    futures = [worker.submit(name, lambda name=name: order.append(name)) for name in ("ann", "bob")]
    futures += [worker.submit("cyd", lambda: order.append("cyd ends"), urgent=True)]
    gate.set()
    for one in futures:
        one.result(20)
    assert order == ["cyd ends", "ann", "bob"]
    worker.close()
