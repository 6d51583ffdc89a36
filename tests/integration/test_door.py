"""Calls to the main server that were not let in: whoever has a certificate, and no more, takes nobody's place and leaves nothing behind."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests import worlds
from tests.conformance import over_grpc as net
from tests.conformance.test_ports import ROSTER, accept, activations, plan, step
from tests.integration.test_link import ByHand, Place, place, wait

from m2fedsa.coordination import calls as coordination
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.main_server import _into
from m2fedsa.errors import RefusedError
from m2fedsa.identity import fingerprint
from m2fedsa.links.admission import Limits
from m2fedsa.links.frames import Incoming, Outgoing
from m2fedsa.links.grpc_client import channel
from m2fedsa.links.talk import DESCRIBE, LONGEST, SERVICE, STREAM, TOKEN, Description, Open, Refusal
from m2fedsa.links.wire import decode, encode

LIMITS = Limits(sessions=12, per_client=2, unopened=1, opening=4.0)


class Call:
    """Somebody with a certificate and no token."""

    def __init__(
        self, at: Place, client: str, said: Iterator[bytes] | None = None, method: str = STREAM, way: grpc.Channel | None = None
    ) -> None:
        """`said`: None says nothing, and does not end. `way`: a connection that there is already."""
        self.way = way or channel(f"localhost:{at.port}", net.party(client))
        self.over = threading.Event()
        self.answers = self.way.stream_stream(f"/{SERVICE}/{method}")(self._silence() if said is None else said)

    def _silence(self) -> Iterator[bytes]:
        self.over.wait(30)
        yield from ()

    def refusal(self) -> Refusal:
        """What it is told."""
        incoming = Incoming()
        (message,) = (incoming.add(frame) for frame in self.answers)
        self.over.set()
        assert message is not None
        return decode(message, Refusal)

    def ended(self) -> grpc.StatusCode:
        """How the call ends that hears nothing."""
        with pytest.raises(grpc.RpcError) as how:
            next(self.answers)
        return how.value.code()

    def close(self) -> None:
        """Leave."""
        self.over.set()
        self.answers.cancel()
        self.way.close()


def trickling() -> Iterator[bytes]:
    """A message that opens a stream, a byte at a time."""
    for frame in Outgoing(size=1).frames(encode(Open("0", "cyd", 1))):
        yield frame
        time.sleep(0.2)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, LIMITS) as made:
        made.host.begin(plan())
        yield made


def take_part(at: Place, client: str = "ann") -> None:
    with at.of(client) as link:
        link.token = net.token(client, "train", 1)
        with link.session(client, 1) as session:
            step(session, ROSTER[client])


@pytest.mark.parametrize("said", [lambda: None, trickling], ids=["silent", "trickling"])
def test_a_key_without_a_token_cannot_take_everybody_s_place(at: Place, said: Callable[[], Iterator[bytes] | None]) -> None:
    """It gets three calls of the twelve; these end in time, however much they move; then it is heard again."""
    calls = [Call(at, "cyd", said()) for _ in range(3)]
    wait(lambda: sum(at.link._calls.values()) == 3)
    for _ in range(12):
        assert Call(at, "cyd", way=calls[0].way).refusal().text == "the key of cyd has 3 calls open already."
    take_part(at)
    assert [one.ended() for one in calls] == [grpc.StatusCode.CANCELLED] * 3
    wait(lambda: not at.link._calls)
    wait(lambda: at.link.meter.of("refused").count(("silent",)) == 3)
    take_part(at, "cyd")
    assert at.host.end(accept(ann=1, cyd=1)).round == 1
    for one in calls:
        one.close()


def test_a_revoked_key_is_refused_before_it_has_said_anything(at: Place) -> None:
    with at.fed() as fed:
        fed.revoke(fingerprint(net.party("cyd").key.public_key()), "cyd")
    call = Call(at, "cyd")
    assert call.refusal() == Refusal("RefusedError", "the key of client cyd was revoked.", True)
    call.close()
    with at.of("cyd") as link, pytest.raises(RefusedError, match="the key of client cyd was revoked"):
        link.describe()


def test_a_call_that_asks_for_a_description_holds_no_place(at: Place) -> None:
    """Though it never says what it came for."""
    calls = []
    for _ in range(10):
        calls.append(Call(at, "cyd", method=DESCRIBE))
        (answer,) = calls[-1].answers
        assert decode(answer, Description).run == net.RUN
        wait(lambda: not at.link._calls)
    take_part(at)
    for one in calls:
        one.close()


def test_clients_cannot_keep_the_fed_server_from_its_calls(at: Place) -> None:
    """Its address takes eight calls at once, and takes every certificate of the run."""
    ways = [channel(f"localhost:{at.coordination_port}", net.party("cyd")) for _ in range(8)]
    over = threading.Event()

    def silence() -> Iterator[bytes]:
        over.wait(30)
        yield from ()

    calls = [way.stream_stream(f"/{coordination.SERVICE}/Describe")(silence()) for way in ways]
    for call in calls:
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with at.fed(patience=0.5) as fed:
        assert fed.describe().run == net.RUN
    over.set()
    for way in ways:
        way.close()


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        (Open("0", "a" * (LONGEST + 1), 1), "Open: `client` has 201 characters; at most 200 are taken."),
        (Open("0" * 5000, "ann", 1), "Open: `version` has 5000 characters; at most 200 are taken."),
        (Open("0" * 20_000, "ann", 1), "bytes is announced; at most 16384 are taken."),
    ],
    ids=["client", "version", "message"],
)
def test_who_opens_a_stream_is_brief(at: Place, opening: Open, said: str) -> None:
    call = Call(at, "ann", Outgoing().frames(encode(opening)))
    refusal = call.refusal()
    assert (refusal.kind, refusal.final) == ("ProtocolError", True)
    assert refusal.text.endswith(said)
    call.close()


def test_a_client_that_vanishes_while_its_session_is_made_leaves_none_behind(at: Place) -> None:
    """Else every step would wait for one of its own, where steps of several clients are computed together."""
    free = threading.Event()
    at.link.worker.submit("somebody", lambda: free.wait(30))
    way = channel(f"localhost:{at.port}", net.party("ann"))
    (opening,) = Outgoing().frames(encode(Open("0", "ann", 1)))
    call = way.stream_stream(f"/{SERVICE}/{STREAM}")(iter([opening]), metadata=((TOKEN, net.token("ann", "train", 1)),))
    wait(lambda: at.link.worker.waiting == 1)
    call.cancel()
    time.sleep(0.5)
    free.set()
    wait(lambda: at.link.streams == 0 and not at.link._calls and at.link.worker.waiting == 0)
    wait(lambda: at.link.worker.sessions == 0)
    way.close()
    take_part(at)


def test_the_log_has_no_text_of_an_error_that_nobody_foresaw(at: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has the answer; nor has a refusal of rows the rows."""

    def fail(*_: object) -> None:
        raise ValueError("tensor([0.4711])")

    _into(Journal(tmp_path / "log.jsonl", "main-server", "a run"))
    try:
        ann = ByHand(at)
        message = activations(worlds.MODALITIES)
        message.modalities["image"].rows.fill_(1)
        ann.say(message)
        rows = ann.hear(Refusal)
        monkeypatch.setattr("m2fedsa.main_server.server.inspect", fail)
        ann.say(message)
        unforeseen = ann.hear(Refusal)
        ann.close()
        wait(lambda: at.link.streams == 0)
    finally:
        for name in ("m2fedsa.link", "m2fedsa.coordination"):
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
    assert "2 of 3 `rows` are wrong, first number 1, which is 1" in rows.text
    assert unforeseen.text == "the server failed (ValueError); its log says where."
    log = (tmp_path / "log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    (last,) = (line for line in lines if line["event"] == "refused" and line["level"] == "error")
    assert (last["kind"], last["why"]) == ("ValueError", "")
    assert any("inspect" in place_ or "fail" in place_ for place_ in last["trace"])
    assert "4711" not in log
    assert "[1, 1, 1]" not in log
