"""One client's stream at the main server: messages heard, computed and answered.

A stream's thread takes frames, reads messages, lets the worker compute and sends the answer. While the computation waits its turn the
client hears that the server is alive. At most one message of a stream is under way, so what a client sends is bounded by the flow control
of HTTP/2 and by the sizes that the greeting names. Whatever goes wrong ends that one stream, with an error that the client is told.

A stream holds one of the server's threads. So its key is looked at and counted as soon as the call begins, and whoever does not say soon
and shortly who it is, or does not hear its refusal, is cut off: a certificate alone does not keep others out.
"""

import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from threading import Lock
from typing import Any, TypeVar

import grpc

from m2fedsa.errors import LinkError, M2FedSAError
from m2fedsa.identity import Token
from m2fedsa.links.desk import Desk
from m2fedsa.links.frames import Incoming, Outgoing
from m2fedsa.links.grpc_ports import peer_key, peer_name
from m2fedsa.links.port import Session
from m2fedsa.links.talk import TOKEN, Close, Closed, Greeting, Open, Refusal, Waiting
from m2fedsa.links.watch import Guard
from m2fedsa.links.wire import decode, encode
from m2fedsa.links.worker import Step
from m2fedsa.messages import Activations, EvaluationReply, EvaluationRequest, Gradients

Message = TypeVar("Message")
log = logging.getLogger("m2fedsa.link")
_OPENING = 2**14
"""Bytes of the message that opens a stream."""


class Stream:
    """One client's stream, from its opening to its end."""

    def __init__(self, server: Desk, frames: Iterator[bytes], context: grpc.ServicerContext) -> None:
        """Nothing is read yet."""
        self._server, self._frames, self._context = server, frames, context
        self._key = peer_key(context)
        self._out = Outgoing(checked=not server.secure, size=server.limits.frame)
        self._in = Incoming(checked=not server.secure, size=server.limits.frame, largest=_OPENING)
        self._client, self._kind = "", ""
        self._round: int | None = None
        self._how: str | None = None
        self._token: Token | None = None
        self._session: Session | None = None
        self._entered = self._counted = self._greeted = False
        self._ending = Lock()
        self._guard: Guard | None = None

    def answers(self) -> Iterator[bytes]:
        """All frames that go down this stream."""
        self._context.add_callback(self._leave)
        try:
            opening = yield from self._let_in()
            if opening is not None:
                with self._server.watch.guard(self._context.cancel) as self._guard:
                    yield from self._going_on(opening)
        finally:
            self._leave()

    def _let_in(self) -> Generator[bytes, None, Open | None]:
        """What opens the stream, from one who may. None if it was refused; a refusal has to be heard within the same time."""
        with self._server.door.guard(self._context.cancel) as door:
            try:
                self._server.enter(self._key, peer_name(self._context))
                self._entered = True
                opening = self._hear(Open)
                opening.check()
                self._admit(opening)
                return opening
            except _Gone:
                if door.expired:
                    self._server.meter.refused("silent")
                    self._note(
                        "refused", logging.WARNING, why=f"said nothing within {self._server.limits.opening:g} seconds", kind="silent"
                    )
            except Exception as error:
                yield from self._ended_by(error)
        return None

    def _going_on(self, opening: Open) -> Iterator[bytes]:
        try:
            yield from self._opened(opening)
            expected = (EvaluationRequest, Close) if self._session is None else (Activations, Gradients, Close)
            while self._how is None:
                yield from self._answered(self._hear(*expected))
        except _Gone:
            pass  # the end of the call says what there is to say
        except Exception as error:
            yield from self._ended_by(error)

    def _ended_by(self, error: Exception) -> Iterator[bytes]:
        self._how = type(error).__name__
        self._refused(error, final=True)
        yield from self._say(Refusal.of(error, final=True))

    # --- what is heard --------------------------------------------------------------------------------------------------------------

    def _admit(self, opening: Open) -> None:
        server = self._server
        self._client, self._round = opening.client, opening.round
        self._kind = "evaluate" if opening.round is None else "train"
        if server.gate is not None:
            metadata = dict(self._context.invocation_metadata())
            self._token = server.gate.admit(metadata.get(TOKEN), self._key, opening.client)
        server.count(self._client)
        self._counted = True

    def _opened(self, opening: Open) -> Iterator[bytes]:
        server, wanted = self._server, opening.round
        if wanted is not None:
            if self._token is not None:
                self._token.check_round(wanted)
            self._session = yield from self._computed(lambda: server.host.session(opening.client, wanted))
            server.count_session(1)
        self._in.session, self._in.largest = secrets.randbits(62) + 1, server.limits.message
        limits = server.limits
        server.meter.opened(self._kind)
        self._greeted = True
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
        """A session that was not closed does not count. Called when the call ends and when the generator does, which may have come by
        something in between: what there is to give back is given back once."""
        with self._ending:
            session, self._session = self._session, None
            entered, self._entered = self._entered, False
            counted, self._counted = self._counted, False
            greeted, self._greeted = self._greeted, False
        if session is not None:
            self._server.count_session(-1)
            self._server.worker.submit(self._client, lambda: session.__exit__(LinkError, None, None))
        if counted:
            self._server.discount(self._client)
        if entered:
            self._server.leave(self._key)
        if greeted:
            how = self._how or ("silent" if self._guard is not None and self._guard.expired else "lost")
            self._server.meter.ended(self._kind, how)
            self._note("ended", how=how)

    def _refused(self, error: BaseException, *, final: bool) -> None:
        self._server.meter.refused(type(error).__name__)
        known = isinstance(error, M2FedSAError)
        self._note(
            "refused",
            logging.WARNING if known else logging.ERROR,
            why=str(error) if known else "",
            kind=type(error).__name__,
            final=final,
            trace=None if known else error,
        )

    def _note(self, event: str, level: int = logging.INFO, trace: BaseException | None = None, **facts: object) -> None:
        extra = {"facts": {"client": self._client, "round": self._round, "peer": self._context.peer(), **facts}}
        log.log(level, event, extra=extra, exc_info=trace)

    def _touch(self) -> None:
        """It has moved, which does not count before it is let in."""
        if self._guard is not None:
            self._guard.touch()


class _Gone(Exception):  # noqa: N818  (an event rather than a fault)
    """The client is no longer there."""
