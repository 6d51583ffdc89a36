"""The link and the coordination over gRPC and mTLS: who is let in, what is refused, and what becomes of those who fall silent, vanish or
come back. What every link must do besides stands in the conformance suite."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from tests import worlds
from tests.conformance import over_grpc as net
from tests.conformance.test_ports import ROSTER, accept, activations, gradients, plan, step

from m2fedsa import identity
from m2fedsa.coordination import calls
from m2fedsa.coordination.calls import Call, Done
from m2fedsa.coordination.grpc_client import GrpcCoordination
from m2fedsa.coordination.grpc_server import CoordinationServer, Steward
from m2fedsa.errors import LinkError, ProtocolError, RefusedError, RoundLostError
from m2fedsa.identity import Identity, Revoked, fingerprint
from m2fedsa.links.admission import Gate, Limits
from m2fedsa.links.frames import HEADER, Incoming, Outgoing
from m2fedsa.links.grpc_client import GrpcLink, channel
from m2fedsa.links.grpc_server import LinkServer
from m2fedsa.links.talk import SERVICE, STREAM, TOKEN, Greeting, Open, Refusal
from m2fedsa.links.wire import decode, encode, to_bytes
from m2fedsa.links.worker import Worker
from m2fedsa.main_server import MainServer
from m2fedsa.messages import ALL, ActivationGradients, EvaluationRequest, Features
from m2fedsa.storage import Store


@dataclass
class Place:
    """A main server with round 1 open, behind both addresses."""

    host: MainServer
    link: LinkServer
    coordination: CoordinationServer
    port: int
    coordination_port: int
    refused: list[str] = field(default_factory=list)

    def of(self, client: str, **settings: object) -> GrpcLink:
        return GrpcLink(f"localhost:{self.port}", net.party(client), **{"patience": 2.0, **settings})

    def fed(self, who: Identity | None = None, **settings: object) -> GrpcCoordination:
        who = who or net.party(net.FED, net.FED, net.HERE)
        return GrpcCoordination(f"localhost:{self.coordination_port}", who, net.RUN, **{"patience": 5.0, **settings})


class Counting:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def __getattr__(self, name: str):
        return lambda *said: self.heard.append((name, *said))

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [said[1:] for said in self.heard if said[0] == name]


@contextmanager
def place(folder: Path, limits: Limits | None = None, ports: tuple[int, int] = (0, 0)) -> Iterator[Place]:
    """A main server of its own process, as far as the network can tell."""
    who = worlds.parties(worlds.config(), worlds.federated())
    host = who.coordination
    host.store = Store(folder)
    worker = Worker(1)
    fed = net.party(net.FED, net.FED, net.HERE).key.public_key()
    revoked = Revoked(folder / "revoked.json")
    link = LinkServer(host, worker, Gate(net.RUN, fed, revoked), limits, Counting())
    coordination = CoordinationServer(host, worker, Steward(net.RUN, fingerprint(fed), revoked=revoked))
    link.describe = coordination.describe
    main = net.party(net.MAIN, net.MAIN, net.HERE)
    at = Place(host, link, coordination, link.start(f"127.0.0.1:{ports[0]}", main), coordination.start(f"127.0.0.1:{ports[1]}", main))
    try:
        yield at
    finally:
        coordination.stop()
        link.stop()
        worker.close()


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as made:
        made.host.begin(plan())
        yield made


# --- who is let in ------------------------------------------------------------------------------------------------------------------


def test_with_its_own_token_a_client_takes_part(at: Place) -> None:
    with at.of("ann") as link:
        link.token = net.token("ann", "train", 1)
        with link.session("ann", 1) as session:
            step(session, ROSTER["ann"])
    assert at.host.end(accept(ann=1)).round == 1


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (lambda: None, "ann came without a token"),
        (lambda: "nonsense", "not one that this run's fed server signed"),
        (lambda: net.token("ann", "train", 1)[:-10] + "A" * 10, "not one that this run's fed server signed"),
        (lambda: replace(
            identity.Token.verified(net.token("ann", "train", 1), net.party(net.FED, net.FED, net.HERE).key.public_key())
        ).signed(net.party("ann").key), "not one that this run's fed server signed"),
        (lambda: net.token("ann", "train", 1, expires=time.time() - 5), "token of client ann expired"),
        (lambda: net.token("cyd", "train", 1), "client ann came with the token of client cyd"),
        (lambda: net.token("ann", "train", 1, key=fingerprint(net.party("cyd").key.public_key())), "bound to another key"),
        (lambda: net.token("ann", "train", 2), "opens no session of round 1"),
        (lambda: net.token("ann", "evaluate", 1), "opens no session of round 1"),
        (lambda: net.token("ann", "predict", 0), "opens no session of round 1"),
        (lambda: net.token("ann", "train", 1, run="another"), "for the run another"),
    ],
)  # fmt: skip
def test_tokens_that_open_no_session(at: Place, token, said: str) -> None:
    with at.of("ann") as link:
        link.token = token()
        with pytest.raises(RefusedError, match=said):
            link.session("ann", 1)
    assert at.link.meter.of("refused") == [("RefusedError",)]
    with pytest.raises(ProtocolError, match="ann"):
        at.host.end(accept(ann=1))


def test_a_stolen_token_is_worthless_without_its_key(at: Place) -> None:
    with at.of("cyd") as thief:
        thief.token = net.token("ann", "train", 1)
        with pytest.raises(RefusedError, match="bound to another key"):
            thief.session("ann", 1)


def test_a_token_to_evaluate_is_for_one_round(at: Place) -> None:
    request = EvaluationRequest(activations(worlds.MODALITIES), (ALL,), 0)
    with at.of("ann") as link:
        for right in (("evaluate", 0), ("train", 1), ("predict", 0)):
            link.token = net.token("ann", *right)
            assert set(link.evaluate("ann", request).pooled) == set(worlds.MODALITIES)
        for wrong in (("evaluate", 1), ("train", 2)):
            link.token = net.token("ann", *wrong)
            with pytest.raises(RefusedError, match="not after round 0"):
                link.evaluate("ann", request)


def stranger(kind: str) -> Identity | None:
    """Somebody whom the authority of this run did not certify."""
    key = identity.new_key()
    if kind == "self-signed":
        certificate = identity.new_authority(key, net.RUN)
    else:
        other = identity.new_key()
        certificate = identity.certify((other, identity.new_authority(other, net.RUN)), key.public_key(), "ann", "client")
    return Identity(key, certificate, net.authority()[1])


@pytest.mark.parametrize("kind", ["self-signed", "another authority"])
def test_certificates_of_others_do_not_get_as_far_as_a_token(at: Place, kind: str) -> None:
    with GrpcLink(f"localhost:{at.port}", stranger(kind), patience=0.3) as link:
        link.token = net.token("ann", "train", 1)
        with pytest.raises(LinkError, match="cannot be reached, or does not take this certificate"):
            link.session("ann", 1)
    with pytest.raises(LinkError, match="does not answer"):
        at.fed(stranger(kind), patience=0.3)


def test_without_a_certificate_nobody_is_heard(at: Place) -> None:
    """Once with TLS and no certificate of one's own, once without TLS."""
    tls = grpc.ssl_channel_credentials(identity.pem(net.authority()[1]))
    for way in (grpc.secure_channel(f"localhost:{at.port}", tls), grpc.insecure_channel(f"localhost:{at.port}")):
        with way, pytest.raises(grpc.RpcError) as refused:
            list(way.stream_stream(f"/{SERVICE}/{STREAM}")(iter([b"x"]), timeout=5))
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert at.link.meter.heard == []


def test_a_server_of_another_run_is_not_spoken_to(at: Place) -> None:
    key = identity.new_key()
    mine = Identity(key, net.party("ann").certificate, identity.new_authority(key, "another"))
    link = GrpcLink(f"localhost:{at.port}", replace(mine, key=net.party("ann").key), patience=0.3)
    with link, pytest.raises(LinkError, match="cannot be reached"):
        link.describe()


def test_a_revoked_client_is_shut_out_in_the_middle_of_its_session(at: Place) -> None:
    with at.of("ann") as link, at.fed() as fed:
        link.token = net.token("ann", "train", 1)
        session = link.session("ann", 1)
        step(session, ROSTER["ann"])
        fed.revoke(fingerprint(net.party("ann").key.public_key()), "ann")
        with pytest.raises(RefusedError, match="the key of client ann was revoked"):
            step(session, ROSTER["ann"])
        with pytest.raises(RefusedError, match="was revoked"):
            link.session("ann", 1)
    with pytest.raises(ProtocolError, match="ann"):
        at.host.end(accept(ann=1))


# --- streams by hand ----------------------------------------------------------------------------------------------------------------


class ByHand:
    """A client that sends what it likes."""

    def __init__(self, at: Place, client: str = "ann", *, round_number: int | None = 1) -> None:
        self.way = channel(f"localhost:{at.port}", net.party(client))
        self.sent: list[bytes] = []
        self._go = threading.Semaphore(0)
        self._next: list[bytes | None] = []
        purpose, number = ("evaluate", 0) if round_number is None else ("train", round_number)
        self.answers = self.way.stream_stream(f"/{SERVICE}/{STREAM}")(
            self._frames(), metadata=((TOKEN, net.token(client, purpose, number)),)
        )
        self.out, self.into = Outgoing(), Incoming()
        self.say(Open("0", client, round_number))
        greeting = self.hear(Greeting)
        self.out.session = self.into.session = greeting.session

    def _frames(self) -> Iterator[bytes]:
        while True:
            self._go.acquire()
            frame = self._next.pop(0)
            if frame is None:
                return
            yield frame

    def send(self, *frames: bytes | None) -> None:
        for frame in frames:
            self._next.append(frame)
            self._go.release()

    def say(self, message: object) -> None:
        frames = list(self.out.frames(encode(message)))
        self.sent += frames
        self.send(*frames)

    def hear(self, *expected: type) -> object:
        for frame in self.answers:
            message = self.into.add(frame)
            if message is not None:
                return decode(message, *expected)
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.send(None)
        self.answers.cancel()
        self.way.close()


def test_a_stream_that_was_recorded_cannot_be_played_again(at: Place) -> None:
    """By its own client, with its own key, while its token is good."""
    first = ByHand(at)
    for _ in range(2):
        first.say(activations(worlds.MODALITIES))
        first.say(gradients(first.hear(Features)))
        first.hear(ActivationGradients)
    recorded = first.sent[1:]
    first.close()
    again = ByHand(at)
    again.send(*recorded)
    refusal = again.hear(Refusal)
    assert (refusal.kind, refusal.final) == ("ProtocolError", True)
    assert "Was it recorded, and played again?" in refusal.text
    again.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda frame: b"", "shorter than its header"),
        (lambda frame: frame[: HEADER + 10], "says that it has"),
        (lambda frame: b"garbage" * 20, "not a frame of m2fedsa"),
        (lambda frame: frame[:24] + (2**50).to_bytes(8, "little") + frame[32:], "is announced; at most"),
        (lambda frame: frame[: HEADER + 24] + b"Features   " + frame[HEADER + 35 :], "was awaited"),
    ],
)
def test_garbage_ends_its_own_session_with_a_name_and_no_other(at: Place, spoil, said: str) -> None:
    with at.of("eve") as link:
        link.token = net.token("eve", "train", 1)
        with link.session("eve", 1) as other:
            step(other, ROSTER["eve"])
            bad = ByHand(at)
            (frame,) = bad.out.frames(encode(activations(worlds.MODALITIES)))
            bad.send(spoil(frame))
            refusal = bad.hear(Refusal)
            assert (refusal.kind, refusal.final) == ("ProtocolError", True)
            assert said in refusal.text
            bad.close()
            step(other, ROSTER["eve"])
    with pytest.raises(ProtocolError, match="ann"):
        at.host.end(accept(ann=1, eve=1))
    assert at.host.end(accept(eve=1)).round == 1


def test_a_client_that_vanishes_in_a_step_does_not_count_and_may_come_back(at: Place) -> None:
    lost = ByHand(at)
    lost.say(activations(worlds.MODALITIES))
    lost.close()
    wait(lambda: at.link.streams == 0)
    with pytest.raises(ProtocolError, match="ann"):
        at.host.end(accept(ann=1))
    with at.of("ann") as link:
        link.token = net.token("ann", "train", 1)
        with link.session("ann", 1) as session:
            step(session, ROSTER["ann"])
    assert at.host.end(accept(ann=1)).round == 1


def test_more_streams_than_a_client_may_have(at: Place) -> None:
    open_ = [ByHand(at, round_number=None) for _ in range(at.link.limits.per_client)]
    with at.of("ann") as link:
        link.token = net.token("ann", "train", 1)
        with pytest.raises(RefusedError, match="has 4 streams open already"):
            link.session("ann", 1)
        open_.pop().close()
        wait(lambda: at.link.streams == 3)
        link.session("ann", 1)
    for one in open_:
        one.close()


def test_a_message_larger_than_the_server_takes_is_not_even_sent(tmp_path: Path) -> None:
    with place(tmp_path, Limits(message=20_000)) as at:
        at.host.begin(plan())
        with at.of("ann") as link:
            link.token = net.token("ann", "train", 1)
            session = link.session("ann", 1)
            with pytest.raises(LinkError, match=r"Activations takes \d+ bytes, and the main server takes 20000 at most"):
                session.forward(activations(worlds.MODALITIES, rows=400))


# --- time ---------------------------------------------------------------------------------------------------------------------------


def wait(until, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_falls_silent_is_dropped_and_one_that_is_slow_is_not(tmp_path: Path) -> None:
    """The silence is 1.5 seconds; the slow one takes longer for its message, a frame at a time."""
    with place(tmp_path, Limits(silence=1.5, frame=400)) as at:
        at.host.begin(plan())
        silent, slow = ByHand(at, "cyd"), ByHand(at, "eve")
        slow.out.size = 400
        frames = list(slow.out.frames(encode(activations(("text",)))))
        assert len(frames) >= 8
        began = time.monotonic()
        for frame in frames:
            slow.send(frame)
            time.sleep(0.3)
        assert time.monotonic() - began > 2.0
        heard = slow.hear(Features, Refusal)
        assert isinstance(heard, Features), heard
        wait(lambda: ("train", "silent") in at.link.meter.of("ended"))
        with pytest.raises(grpc.RpcError):
            silent.hear(Features)
        for one in (silent, slow):
            one.close()


def test_a_server_that_is_busy_says_so_and_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    with place(tmp_path, Limits(heartbeat=0.1)) as at:
        at.host.begin(plan())
        gate = threading.Event()
        at.link.worker.submit("somebody", lambda: gate.wait(30))
        with at.of("eve", silence=1.0) as link:
            link.token = net.token("eve", "train", 1)
            threading.Timer(2.5, gate.set).start()
            with link.session("eve", 1) as session:
                step(session, ROSTER["eve"])
        quiet = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
        link = GrpcLink(f"localhost:{quiet.getsockname()[1]}", net.party("eve"), silence=0.5, patience=0.1)
        with quiet, link, pytest.raises(LinkError, match="nothing was heard|cannot be reached"):
            link.session("eve", 1)


def test_a_main_server_that_ends_is_told_from_one_that_was_never_there(tmp_path: Path) -> None:
    with place(tmp_path) as at:
        at.host.begin(plan())
        link = at.of("ann", patience=0.3)
        link.token = net.token("ann", "train", 1)
        session = link.session("ann", 1)
        step(session, ROSTER["ann"])
    with pytest.raises(LinkError, match="the stream to the main server broke|has ended this stream"):
        step(session, ROSTER["ann"])
    with pytest.raises(LinkError, match="cannot be reached"):
        link.session("ann", 1)
    link.close()


# --- many at once -------------------------------------------------------------------------------------------------------------------


def test_clients_at_once_come_to_the_same_as_one_after_the_other(at: Place, tmp_path: Path) -> None:
    """Whatever the order in which their messages arrive."""
    apart = worlds.parties(worlds.config(), worlds.federated()).coordination
    apart.begin(plan())
    for client in ROSTER:
        with apart.session(client, 1) as session:
            for seed in range(4):
                step(session, ROSTER[client], seed)
    prints = apart.end(accept(ann=1, cyd=2, eve=3)).prints

    def part(client: str) -> None:
        with at.of(client) as link:
            link.token = net.token(client, "train", 1)
            with link.session(client, 1) as session:
                [step(session, ROSTER[client], seed) for seed in range(4)]

    threads = [threading.Thread(target=part, args=(client,)) for client in ROSTER]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert at.host.end(accept(ann=1, cyd=2, eve=3)).prints == prints


def test_widths_on_the_wire(tmp_path: Path) -> None:
    """int8 up and bfloat16 down come near to what float32 brings, and bring another result; whole numbers and masks stay."""
    features = {}
    for up, down in (("float32", "float32"), ("int8", "bfloat16")):
        with place(tmp_path / up, Limits(up=up, down=down)) as at:
            at.host.begin(plan())
            with at.of("ann") as link:
                link.token = net.token("ann", "train", 1)
                with link.session("ann", 1) as session:
                    features[up] = step(session, ROSTER["ann"])[0].pooled
            moved = [number for direction, number in at.link.meter.of("moved") if direction == "up"]
            features[up]["bytes"] = sum(moved)
    assert features["int8"].pop("bytes") < 0.6 * features["float32"].pop("bytes")
    for name, exact in features["float32"].items():
        near = features["int8"][name]
        assert near.dtype == exact.dtype
        assert 0 < float((near - exact).abs().max()) < 0.05 * float(exact.abs().max())


# --- rounds that commit on both or on neither ---------------------------------------------------------------------------------------


def test_the_fed_server_alone_may_coordinate(at: Place) -> None:
    with pytest.raises(RefusedError, match="only the fed server of this run"):
        at.fed(net.party("ann"))
    with pytest.raises(RefusedError, match="of the run another"):
        GrpcCoordination(f"localhost:{at.coordination_port}", net.party(net.FED, net.FED, net.HERE), "another").fingerprints()


def test_a_call_is_done_once_and_a_late_one_not_at_all(at: Place) -> None:
    """The network delivers a begin twice, and an abort after the round that came later: the copies survive both."""
    way = channel(f"localhost:{at.coordination_port}", net.party(net.FED, net.FED, net.HERE))

    def call(method: str, number: int, process: str = "a", **about: object) -> object:
        request = to_bytes(Call(net.RUN, process, number, **about))
        return decode(way.unary_unary(f"/{calls.SERVICE}/{method}")(request, timeout=10), Done, Refusal)

    call("Abort", 1, round=1)
    assert call("Begin", 2, plan=plan()) == Done()
    with at.of("ann") as link:
        link.token = net.token("ann", "train", 1)
        with link.session("ann", 1) as session:
            step(session, ROSTER["ann"])
    assert call("Begin", 2, plan=plan()) == Done()
    assert "comes too late" in call("Abort", 1, round=1).text
    way.close()
    assert at.host.end(accept(ann=1)).round == 1


def test_a_main_server_that_is_about_to_stop_begins_no_round_and_the_next_one_does(at: Place) -> None:
    """The fed server waits for it, for as long as its patience lasts."""
    at.coordination.steward.draining = True
    with at.fed(patience=0.5) as fed, pytest.raises(RefusedError, match="about to stop"):
        fed.begin(plan())
    with at.fed(patience=20.0) as fed:
        timer = threading.Timer(0.7, setattr, (at.coordination.steward, "draining", False))
        timer.start()
        fed.begin(plan())
        timer.join()
    assert at.host.rounds == (0, 1, None)


def test_another_process_of_the_fed_server_takes_the_place_of_the_one_before(at: Place) -> None:
    with at.fed() as old, at.fed() as new:
        old.fingerprints()
        new.begin(plan())
        with pytest.raises(ProtocolError, match="comes too late"):
            old.abort(1)
        assert at.host.rounds == (0, 1, None)


def take(at: Place, client: str = "ann", number: int = 1) -> None:
    with at.of(client) as link:
        link.token = net.token(client, "train", number)
        with link.session(client, number) as session:
            step(session, ROSTER[client], number)


def uninterrupted(folder: Path) -> dict[str, list[object]]:
    """Prints after rounds 1 and 2, of one that nothing befell."""
    with place(folder) as at, at.fed() as fed:
        for number in (1, 2):
            fed.begin(plan(number))
            take(at, number=number)
            fed.end(accept(number, ann=1))
            fed.commit(number)
        return fed.fingerprints()


@pytest.mark.parametrize("when", ["before the round", "within the round", "prepared", "committed"])
def test_a_main_server_that_dies(tmp_path: Path, when: str) -> None:
    """And is started anew on its own checkpoints: the round is repeated, or commits, and all ends as if nothing had been."""
    expected = uninterrupted(tmp_path / "straight")
    with place(tmp_path / "here") as at:
        ports = (at.port, at.coordination_port)
        fed = at.fed()
        fed.begin(plan(1))
        take(at)
        fed.end(accept(1, ann=1))
        fed.commit(1)
        if when != "before the round":
            fed.begin(plan(2))
            take(at, number=2)
        if when in ("prepared", "committed"):
            fed.end(accept(2, ann=1))
        if when == "committed":
            fed.commit(2)
    with place(tmp_path / "here", ports=ports) as at:
        if when == "before the round":
            fed.begin(plan(2))
            take(at, number=2)
            fed.end(accept(2, ann=1))
        if when == "within the round":
            with pytest.raises(RoundLostError, match="within round 2"):
                fed.end(accept(2, ann=1))
            fed.begin(plan(2))
            take(at, number=2)
            fed.end(accept(2, ann=1))
        fed.commit(2)
        assert fed.fingerprints() == expected
        assert at.host.rounds == (2, None, None)
        fed.close()


@pytest.mark.parametrize("manifest", [1, 2])
def test_a_fed_server_that_dies_between_the_end_and_the_commit(tmp_path: Path, manifest: int) -> None:
    """Its manifest decides: where it names round 2, both have it; where it still names round 1, neither has, and the round is repeated."""
    expected = uninterrupted(tmp_path / "straight")
    with place(tmp_path / "here") as at:
        with at.fed() as fed:
            fed.begin(plan(1))
            take(at)
            files = {1: fed.end(accept(1, ann=1)).file}
            fed.commit(1)
            fed.begin(plan(2))
            take(at, number=2)
            files[2] = fed.end(accept(2, ann=1)).file
        with at.fed() as fed:
            fed.restore(manifest, files[manifest])
            assert at.host.rounds == (manifest, None, None)
            if manifest == 1:
                fed.begin(plan(2))
                take(at, number=2)
                fed.end(accept(2, ann=1))
            fed.commit(2)
            assert fed.fingerprints() == expected


def test_what_a_client_may_know_of_the_server(at: Place) -> None:
    with at.of("ann") as link:
        found = link.describe()
    assert (found.run, found.round, found.begun, found.prepared, found.draining) == (net.RUN, 0, 1, None, False)
    assert abs(found.now - time.time()) < 5
