"""The main server's end of the link: one stream per client and round, any number at once, one computation at a time.

A stream's thread takes frames, reads messages, lets the worker compute and sends the answer. While the computation waits its turn the
client hears that the server is alive. At most one message of a stream is under way, so what a client sends is bounded by the flow control
of HTTP/2 and by the sizes that the greeting names. Whatever goes wrong ends that one stream, with an error that the client is told.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol, TypeVar

import grpc

from m2fedsa.errors import LinkError, M2FedSAError, RefusedError
from m2fedsa.identity import Identity, Token, fingerprint, pem
from m2fedsa.links.frames import FRAME, HEADER, MESSAGE, Incoming, Outgoing
from m2fedsa.links.narrow import Width
from m2fedsa.links.port import Link, Session
from m2fedsa.links.talk import DESCRIBE, SERVICE, STREAM, TOKEN, Close, Closed, Description, Greeting, Open, Refusal, Waiting
from m2fedsa.links.watch import Guard, Watch
from m2fedsa.links.wire import decode, encode, to_bytes
from m2fedsa.links.worker import Step, Worker
from m2fedsa.messages import Activations, EvaluationReply, EvaluationRequest, Gradients

T = TypeVar("T")
Message = TypeVar("Message")
log = logging.getLogger("m2fedsa.link")
KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A busy machine sends its pings in a heap; that is no reason to hang up.
    ("grpc.http2.max_ping_strikes", 0),
]
"""Pings on both ends: a line that a router has forgotten is noticed within a minute."""


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server, and how it is spoken to."""

    frame: int = FRAME
    """largest body of a frame, bytes"""
    message: int = MESSAGE
    """largest message, bytes"""
    up: Width = "float32"
    down: Width = "float32"
    silence: float = 300.0
    """seconds without a frame in either direction after which a stream is ended"""
    sessions: int = 256
    """streams at once"""
    per_client: int = 4
    """streams of one client at once"""
    heartbeat: float = 5.0
    """seconds after which a client that waits is told that the server is alive"""


class Meter(Protocol):
    """Who counts what happens; called from many threads."""

    def opened(self, kind: str) -> None:
        """A stream was opened, to `train` or to `evaluate`."""

    def ended(self, kind: str, how: str) -> None:
        """It has ended: `in order`, `lost`, `silent`, or by the class of an error."""

    def refused(self, why: str) -> None:
        """Something was refused, by the class of the error."""

    def moved(self, direction: str, number: int) -> None:
        """So many bytes went `up` or `down`."""

    def computed(self, what: str, samples: int, seconds: float) -> None:
        """A `forward`, `backward` or `evaluation` was computed, so many seconds after it had come."""


class NoMeter:
    """Counts nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@dataclass
class Gate:
    """Who is let in: a client with this run's token, bound to the key of its certificate, that was not revoked."""

    run: str
    fed_server: Any
    """public key of the fed server"""
    revoked: Any = field(default_factory=frozenset)
    """fingerprints of keys, asked with `in` at every message"""

    def admit(self, token: str | None, key: str | None, client: str) -> Token:
        """The token that lets the client in. `RefusedError` if there is none."""
        if key is None:
            raise RefusedError(f"client {client} came without a certificate.")
        self.check(key, client)
        if token is None:
            raise RefusedError(f"client {client} came without a token.")
        found = Token.verified(token, self.fed_server)
        found.check(self.run, client, key)
        return found

    def check(self, key: str, client: str) -> None:
        """`RefusedError` if the key was revoked."""
        if key in self.revoked:
            raise RefusedError(f"the key of client {client} was revoked.")


class LinkServer:
    """Lets clients reach a main server over gRPC."""

    def __init__(self, host: Link, worker: Worker, gate: Gate | None, limits: Limits | None = None, meter: Meter | None = None) -> None:
        """`host`: the main server; `worker`: its one thread. `gate`: None lets everybody in, for measurements on one machine alone."""
        self.host, self.worker, self.gate = host, worker, gate
        self.limits, self.meter = limits or Limits(), meter or NoMeter()
        self.secure = False
        self.describe: Callable[[], Description] | None = None
        """answers clients that want to know the server before they open a stream"""
        self.watch = Watch(self.limits.silence)
        self.admitting = True
        """whether new streams are taken"""
        self._streams: Counter[str] = Counter()
        self._lock = Lock()
        self._server: grpc.Server | None = None

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._streams.total()

    def start(self, address: str, identity: Identity | None) -> int:
        """Listen; the port. Without an identity the bytes are not encrypted, and only this machine is served."""
        self.secure = identity is not None
        largest = 2 * (self.limits.frame + HEADER)
        self._server = serve(
            grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
            self.limits.sessions,
            [("grpc.max_receive_message_length", largest), ("grpc.max_send_message_length", largest)],
        )
        port = listen(self._server, address, identity)
        self._server.start()
        return port

    def stop(self, grace: float | None = None) -> None:
        """End all streams, at once or after so many seconds."""
        self.admitting = False
        if self._server is not None:
            self._server.stop(grace).wait()
        self.watch.close()

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        found = {STREAM: grpc.stream_stream_rpc_method_handler(self._stream)}
        if self.describe is not None:
            describe = self.describe
            found[DESCRIBE] = grpc.unary_unary_rpc_method_handler(lambda _request, _context: to_bytes(describe()))
        return found

    def _stream(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return Stream(self, frames, context).answers()

    def count(self, client: str) -> None:
        """A client opens a stream. `RefusedError` if it has too many, or if none is taken."""
        with self._lock:
            if not self.admitting:
                raise RefusedError("the main server is about to stop and takes nobody in.")
            if self._streams[client] >= self.limits.per_client:
                raise RefusedError(f"client {client} has {self._streams[client]} streams open already.")
            self._streams[client] += 1

    def count_session(self, change: int) -> None:
        """A session has opened or ended: a window waits for no more steps than there are sessions."""
        with self._lock:
            self.worker.sessions += change

    def discount(self, client: str) -> None:
        """One of its streams has ended."""
        with self._lock:
            self._streams[client] -= 1
            self._streams += Counter()


class Stream:
    """One client's stream, from its opening to its end."""

    def __init__(self, server: LinkServer, frames: Iterator[bytes], context: grpc.ServicerContext) -> None:
        """Made by `LinkServer`; nothing is read yet."""
        self._server, self._frames, self._context = server, frames, context
        self._key = peer_key(context)
        self._out = Outgoing(checked=not server.secure, size=server.limits.frame)
        self._in = Incoming(checked=not server.secure, size=server.limits.frame, largest=server.limits.message)
        self._client, self._kind = "", ""
        self._round: int | None = None
        self._how: str | None = None
        self._token: Token | None = None
        self._session: Session | None = None
        self._counted = self._left = False
        self._ending = Lock()
        self._guard: Guard | None = None

    def answers(self) -> Iterator[bytes]:
        """All frames that go down this stream."""
        self._context.add_callback(self._leave)
        with self._server.watch.guard(self._context.cancel) as self._guard:
            try:
                yield from self._opened(self._hear(Open))
                expected = (EvaluationRequest, Close) if self._session is None else (Activations, Gradients, Close)
                while self._how is None:
                    yield from self._answered(self._hear(*expected))
            except _Gone:
                pass  # the end of the call says what there is to say
            except Exception as error:
                self._how = type(error).__name__
                self._refused(error, final=True)
                yield from self._say(Refusal.of(error, final=True))
            finally:
                self._leave()

    # --- what is heard --------------------------------------------------------------------------------------------------------------

    def _opened(self, opening: Open) -> Iterator[bytes]:
        server = self._server
        self._client, self._round = opening.client, opening.round
        self._kind = "evaluate" if opening.round is None else "train"
        if server.gate is not None:
            metadata = dict(self._context.invocation_metadata())
            self._token = server.gate.admit(metadata.get(TOKEN), self._key, opening.client)
        server.count(self._client)
        self._counted = True
        wanted = opening.round
        if wanted is not None:
            if self._token is not None:
                self._token.check_round(wanted)
            self._session = yield from self._computed(lambda: server.host.session(opening.client, wanted))
            server.count_session(1)
        self._in.session = secrets.randbits(62) + 1
        limits = server.limits
        server.meter.opened(self._kind)
        self._note("opened", version=opening.version)
        yield from self._say(Greeting(self._in.session, limits.frame, limits.message, limits.up, limits.down))
        self._out.session = self._in.session

    def _answered(self, message: object) -> Iterator[bytes]:
        if self._server.gate is not None and self._key is not None:
            self._server.gate.check(self._key, self._client)
        if isinstance(message, Close):
            session, self._session = self._session, None
            if session is not None:
                self._server.count_session(-1)
                left = None if message.in_order else LinkError
                yield from self._computed(lambda: session.__exit__(left, None, None))
            self._how = "in order" if message.in_order else "left"
            yield from self._say(Closed())
            return
        try:
            answer = yield from self._computed(*self._job(message))
        except M2FedSAError as error:
            self._refused(error, final=False)
            yield from self._say(Refusal.of(error, final=False))
        else:
            yield from self._say(answer)

    def _job(self, message: object) -> tuple[Callable[[], object] | Step, str, int]:
        """What the worker is to do, what it is called, and with how many samples."""
        if isinstance(message, EvaluationRequest):
            return lambda: self._evaluate(message), "evaluation", len(message.activations.entering)
        session = self._session
        assert session is not None
        alone: Callable[[], object]
        if isinstance(message, Activations):
            what, samples, alone = "forward", len(message.entering), lambda: session.forward(message)
        else:
            assert isinstance(message, Gradients)
            what, samples, alone = "backward", len(message.fused), lambda: session.backward(message)
        return (alone if self._server.worker.window is None else Step(what, session, message)), what, samples

    def _evaluate(self, request: EvaluationRequest) -> EvaluationReply:
        if self._token is not None:
            self._token.check_evaluation(request.at)
        return self._server.host.evaluate(self._client, request)

    def _hear(self, *expected: type[Message]) -> Message:
        """The next message. `_Gone` if the client went away, `ProtocolError` if it is none of these."""
        try:
            for frame in self._frames:
                self._touch()
                self._server.meter.moved("up", len(frame))
                message = self._in.add(frame)
                if message is not None:
                    return decode(message, *expected)
        except grpc.RpcError as error:
            raise _Gone from error
        raise _Gone

    # --- what is said ---------------------------------------------------------------------------------------------------------------

    def _computed(self, job: Callable[[], object] | Step, what: str = "", samples: int = 0) -> Generator[bytes, None, Any]:
        """Let the worker do it; as long as it takes, the client hears that it is waited for. The outcome."""
        worker, asked = self._server.worker, time.monotonic()
        put: Callable[..., Future[Any]] = worker.step if isinstance(job, Step) else worker.submit
        future = put(self._client, job, urgent=what == "backward")
        while True:
            try:
                outcome = future.result(self._server.limits.heartbeat)
                break
            except NotYet:
                if future.done():
                    outcome = future.result()
                    break
                yield from self._say(Waiting(worker.waiting))
        if what:
            self._server.meter.computed(what, samples, time.monotonic() - asked)
        return outcome

    def _say(self, message: object) -> Iterator[bytes]:
        for frame in self._out.frames(encode(message, self._server.limits.down)):
            self._server.meter.moved("down", len(frame))
            yield frame
            self._touch()

    # --- the end --------------------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """A session that was not closed does not count. Called when the generator or the call ends, whichever is first."""
        with self._ending:
            if self._left:
                return
            self._left = True
        session, self._session = self._session, None
        if session is not None:
            self._server.count_session(-1)
            self._server.worker.submit(self._client, lambda: session.__exit__(LinkError, None, None))
        if self._counted:
            self._server.discount(self._client)
        if self._out.session:
            how = self._how or ("silent" if self._guard is not None and self._guard.expired else "lost")
            self._server.meter.ended(self._kind, how)
            self._note("ended", how=how)

    def _refused(self, error: BaseException, *, final: bool) -> None:
        self._server.meter.refused(type(error).__name__)
        known = isinstance(error, M2FedSAError)
        self._note(
            "refused",
            logging.WARNING if known else logging.ERROR,
            why=str(error),
            kind=type(error).__name__,
            final=final,
            trace=None if known else error,
        )

    def _note(self, event: str, level: int = logging.INFO, trace: BaseException | None = None, **facts: object) -> None:
        extra = {"facts": {"client": self._client, "round": self._round, "peer": self._context.peer(), **facts}}
        log.log(level, event, extra=extra, exc_info=trace)

    def _touch(self) -> None:
        assert self._guard is not None
        self._guard.touch()


class _Gone(Exception):  # noqa: N818  (an event rather than a fault)
    """The client is no longer there."""


# --- what the coordination shares ---------------------------------------------------------------------------------------------------


def serve(handler: grpc.GenericRpcHandler, calls: int, options: list[tuple[str, int]]) -> grpc.Server:
    """A gRPC server that takes so many calls at once, and refuses more."""
    pool = ThreadPoolExecutor(calls, thread_name_prefix="stream")
    everything = [*KEEP_ALIVE, ("grpc.so_reuseport", 0), *options]
    return grpc.server(pool, [handler], options=everything, maximum_concurrent_rpcs=calls)


def listen(server: grpc.Server, address: str, identity: Identity | None) -> int:
    """Bind; with an identity, nobody passes whose certificate is not by the same authority. `LinkError` if the address cannot be had."""
    try:
        if identity is None:
            if not address.startswith(("127.", "localhost:", "unix:", "[::1]")):
                raise LinkError(f"{address}: without certificates only this machine is served. Listen on 127.0.0.1.")
            return int(server.add_insecure_port(address))
        pairs = [(identity.key_pem, pem(identity.certificate))]
        credentials = grpc.ssl_server_credentials(pairs, pem(identity.authority), require_client_auth=True)
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise LinkError(f"{address}: cannot be listened on ({str(error)[:120]}). Is another program there already?") from error


def peer_key(context: grpc.ServicerContext) -> str | None:
    """Fingerprint of the key that the peer has proved to hold; None without TLS."""
    from cryptography import x509

    from m2fedsa.identity import public_key

    shown = context.auth_context().get("x509_pem_cert")
    return fingerprint(public_key(x509.load_pem_x509_certificate(shown[0]))) if shown else None
