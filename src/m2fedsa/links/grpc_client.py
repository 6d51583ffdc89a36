"""A client's end of the link: a stream to the main server for its part in a round, another for evaluations."""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import grpc

from m2fedsa.config import Width
from m2fedsa.errors import LinkError, RefusedError
from m2fedsa.identity import Identity, pem
from m2fedsa.links.frames import FRAME, HEADER, Incoming, Outgoing
from m2fedsa.links.grpc_ports import KEEP_ALIVE
from m2fedsa.links.talk import DESCRIBE, SERVICE, STREAM, TOKEN, Close, Closed, Description, Greeting, Open, Refusal, Waiting
from m2fedsa.links.watch import Watch
from m2fedsa.links.wire import Encoded, decode, encode
from m2fedsa.messages import ActivationGradients, Activations, EvaluationReply, EvaluationRequest, Features, Gradients

Message = TypeVar("Message")


class GrpcLink:
    """See `links.port.Link`. One client's way to the main server; used by one thread at a time.

    `token` lets the client in: the resident client sets it to the one that came with its task. A stream that breaks is a `LinkError`, after
    which a round can be begun anew with the same link; an evaluation is tried once more by itself.
    """

    token: str | None = None
    """from the fed server, for the task at hand"""
    heard: Callable[[], None] | None = None
    """called for every frame that comes, those of a server that asks for patience too, in the thread that waits for the answer; what it
    raises ends the stream and is raised there"""

    def __init__(self, address: str, identity: Identity | None, *, silence: float = 120.0, patience: float = 30.0) -> None:
        """`address`: host and port of the main server. `identity`: None speaks without TLS, on one machine.

        `silence`: seconds after which a server that says nothing is given up; one that is busy says so. `patience`: seconds for which a
        server that cannot be reached is tried again.
        """
        self.address, self.patience, self.secure = address, patience, identity is not None
        self.watch = Watch(silence)
        self._channel = channel(address, identity)
        self._call: Any = self._channel.stream_stream(f"/{SERVICE}/{STREAM}")
        self._evaluation: tuple[str | None, _Stream] | None = None
        self._streams: set[_Stream] = set()

    def session(self, client: str, round_number: int) -> "GrpcSession":
        """See `links.port.Link.session`. `RefusedError` without a token for this round, `LinkError` if the server cannot be reached."""
        return GrpcSession(self.stream(client, round_number))

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        """See `links.port.Link.evaluate`."""
        fresh = self._evaluation is None or self._evaluation[0] != self.token or self._evaluation[1].over
        try:
            return self._evaluating(client).ask(request, EvaluationReply)
        except LinkError:
            if fresh:
                raise
            return self._evaluating(client).ask(request, EvaluationReply)

    def describe(self) -> Description:
        """The main server as it is: its version, round, clock, tails. `LinkError` if it cannot be reached, `RefusedError` if it does not
        answer this client."""
        try:
            answer = self._channel.unary_unary(f"/{SERVICE}/{DESCRIBE}")(b"", timeout=self.patience)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                raise RefusedError(f"{self.address}: {error.details()}") from error
            raise Unreachable(_unreachable(self.address, str(error.details()))) from error
        return decode(answer, Description)

    def _evaluating(self, client: str) -> "_Stream":
        if self._evaluation is not None:
            token, stream = self._evaluation
            if token == self.token and not stream.over:
                return stream
            stream.close()
        self._evaluation = (self.token, self.stream(client, None))
        return self._evaluation[1]

    def stream(self, client: str, round_number: int | None) -> "_Stream":
        """An open stream; a server that is not there is tried again until the patience is spent."""
        until = time.monotonic() + self.patience
        while True:
            try:
                return _Stream(self, client, round_number)
            except Unreachable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def call(self, frames: Iterator[bytes]) -> Any:
        """A new gRPC call with the token of the moment."""
        return self._call(frames, metadata=((TOKEN, self.token),) if self.token else ())

    def note(self, stream: "_Stream", *, open_: bool) -> None:
        """A stream has opened or ended."""
        (self._streams.add if open_ else self._streams.discard)(stream)

    def close(self) -> None:
        """End all streams and the connection."""
        for stream in list(self._streams):
            stream.end()
        self._channel.close()
        self.watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Unreachable(LinkError):  # noqa: N818  (a state of affairs)
    """The server was not there to begin with."""


class GrpcSession:
    """See `links.port.Session`."""

    def __init__(self, stream: "_Stream") -> None:
        """Made by `GrpcLink.session`."""
        self._stream = stream

    def forward(self, activations: Activations) -> Features:
        """See `links.port.Session.forward`."""
        return self._stream.ask(activations, Features)

    def backward(self, gradients: Gradients) -> ActivationGradients:
        """See `links.port.Session.backward`."""
        return self._stream.ask(gradients, ActivationGradients)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self._stream.close()
        else:
            self._stream.end()


class _Stream:
    """One gRPC call: messages out through a queue that gRPC's own thread empties, frame by frame; answers in."""

    def __init__(self, link: GrpcLink, client: str, round_number: int | None) -> None:
        self._link = link
        self._queue: SimpleQueue[Encoded | None] = SimpleQueue()
        self._out, self._in = Outgoing(checked=not link.secure), Incoming(checked=not link.secure)
        self._up: Width = "float32"
        self._guard: Any = None
        self._greeted = self.over = False
        self._answers = link.call(self._frames())
        link.note(self, open_=True)
        greeting = self.ask(Open(version("m2fedsa"), client, round_number), Greeting)
        self._out.session = self._in.session = greeting.session
        self._out.size = self._in.size = greeting.frame
        self._largest = self._in.largest = greeting.message
        self._up, self._greeted = greeting.up, True

    def ask(self, message: object, expected: type[Message]) -> Message:
        """Send a message and wait for the answer to it; an error of the server is raised here."""
        if self.over:
            raise LinkError(f"{self._link.address}: this stream to the main server has ended.")
        said = encode(message, self._up)
        if self._greeted and said.nbytes > self._largest:
            raise LinkError(
                f"{type(message).__name__} takes {said.nbytes} bytes, and the main server takes {self._largest} at most. "
                "Choose smaller batches, or let it take more (largest_message)."
            )
        try:
            with self._link.watch.guard(self._answers.cancel) as self._guard:
                self._queue.put(said)
                answer = self._heard(expected)
        except BaseException:
            self.end()
            raise
        if isinstance(answer, Refusal):
            if answer.final:
                self.end()
            answer.throw()
        return answer

    def close(self) -> None:
        """End in order."""
        if not self.over:
            self.ask(Close(in_order=True), Closed)
            self.end()

    def end(self) -> None:
        """End, in order or not."""
        self.over = True
        self._queue.put(None)
        self._answers.cancel()
        self._link.note(self, open_=False)

    def _frames(self) -> Iterator[bytes]:
        while (message := self._queue.get()) is not None:
            for frame in self._out.frames(message):
                self._guard.touch()
                yield frame

    def _heard(self, expected: type[Message]) -> Message | Refusal:
        while True:
            answer: object = decode(self._message(), expected, Waiting, Refusal)
            if isinstance(answer, expected | Refusal):
                return answer

    def _message(self) -> Any:
        try:
            for frame in self._answers:
                self._guard.touch()
                if self._link.heard is not None:
                    self._link.heard()
                message = self._in.add(frame)
                if message is not None:
                    return message
        except grpc.RpcError as error:
            self._broken(error)
        raise LinkError(f"{self._link.address}: the main server has ended this stream.")

    def _broken(self, error: Any) -> NoReturn:
        code, why, where = error.code(), str(error.details())[:300], self._link.address
        if self._guard.expired:
            raise LinkError(f"{where}: nothing was heard from the main server for {self._link.watch.seconds:g} seconds.") from error
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and not self._greeted:
            raise RefusedError(f"{where}: the main server serves as many streams as it may. Try again later.") from error
        if code == grpc.StatusCode.UNAVAILABLE and not self._greeted:
            raise Unreachable(_unreachable(where, why)) from error
        raise LinkError(f"{where}: the stream to the main server broke ({code.name.lower()}: {why}).") from error


def _unreachable(address: str, why: str) -> str:
    return f"{address}: the main server cannot be reached, or does not take this certificate ({why[:300]})."


def channel(address: str, identity: Identity | None) -> grpc.Channel:
    """A connection that is made when it is first used, and again when it breaks."""
    options = [
        *KEEP_ALIVE,
        ("grpc.max_receive_message_length", 2 * (16 * FRAME + HEADER)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also how long a handshake may take, which on a busy machine is long.
        ("grpc.min_reconnect_backoff_ms", 20_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 0),
    ]
    if identity is None:
        return grpc.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(pem(identity.authority), identity.key_pem, pem(identity.certificate))
    return grpc.secure_channel(address, credentials, options)
