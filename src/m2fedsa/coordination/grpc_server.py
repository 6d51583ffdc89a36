"""The main server's end of the coordination: calls of the fed server alone, on an address of their own, computed by the one worker."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

import grpc

from m2fedsa.coordination.calls import METHODS, SERVICE, Call, Done, Prints
from m2fedsa.coordination.port import Coordination
from m2fedsa.errors import M2FedSAError, ProtocolError, RefusedError
from m2fedsa.identity import Identity, Revoked
from m2fedsa.links.grpc_ports import listen, peer_key, serve
from m2fedsa.links.talk import Description, Refusal
from m2fedsa.links.wire import decode, to_bytes
from m2fedsa.links.worker import Worker
from m2fedsa.messages import Averaged

log = logging.getLogger("m2fedsa.coordination")
_LARGEST = 64 * 2**20
"""Bytes of a call: the plan of a round with ten thousand clients takes less than one of these megabytes."""


class Host(Coordination, Protocol):
    """A main server that can also say which round it is in."""

    @property
    def rounds(self) -> tuple[int, int | None, int | None]:
        """The round in force, the one that is open, the one that is prepared."""


@dataclass
class Steward:
    """Whom the coordination listens to, and what it knows besides the rounds."""

    run: str
    fed_server: str | None
    """fingerprint of the fed server's key; None listens to everybody, on one machine alone"""
    slices: Mapping[str, str] = field(default_factory=dict)
    revoked: Revoked | None = None
    draining: bool = False
    """no new round is begun"""
    changed: Callable[[str, int | None], None] = lambda _method, _round: None
    """told of each call that was done"""


class CoordinationServer:
    """Lets the fed server reach a main server over gRPC."""

    def __init__(self, host: Host, worker: Worker, steward: Steward) -> None:
        """`worker`: the one thread of the main server, which its link uses too."""
        self._host, self._worker, self.steward = host, worker, steward
        self._process = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._last: tuple[str, int, bytes] | None = None
        self._replaced: set[str] = set()
        self._server: grpc.Server | None = None

    def start(self, address: str, identity: Identity | None) -> int:
        """Listen; the port."""
        # One message each way; but gRPC would wait for the one up in a thread, without end and before its sender is looked at.
        handlers = {name: grpc.stream_stream_rpc_method_handler(self._answering(name)) for name in METHODS}
        options = [("grpc.max_receive_message_length", _LARGEST), ("grpc.max_send_message_length", _LARGEST)]
        self._server = serve(grpc.method_handlers_generic_handler(SERVICE, handlers), 8, options)
        port = listen(self._server, address, identity)
        self._server.start()
        return port

    def stop(self, grace: float | None = None) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.stop(grace).wait()

    def _answering(self, method: str) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            try:
                self._check_peer(context)
            except RefusedError as error:
                _note(method, error, context)
                context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            for request in requests:
                yield self._answered(method, request, context)
                return

        return answer

    def _answered(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            call = decode(request, Call)
            if call.run != self.steward.run:
                raise RefusedError(f"the fed server is of the run {call.run}, but this is {self.steward.run}.")
            return self._once(method, call)
        except Exception as error:
            _note(method, error, context)
            return to_bytes(Refusal.of(error, final=True))

    def _check_peer(self, context: grpc.ServicerContext) -> None:
        if self.steward.fed_server is not None and peer_key(context) != self.steward.fed_server:
            raise RefusedError("only the fed server of this run may coordinate; this is another party's certificate.")

    def _once(self, method: str, call: Call) -> bytes:
        """Do a call, unless it was done; refuse it if it comes too late."""
        if method == "Describe":
            return to_bytes(self.describe())
        if method == "Revoke":
            # Asked for by an operator beside the run, in whose calls it has no place; harmless when repeated.
            return self._done(method, call)
        with self._lock:
            process, number, before = self._last or (call.process, -1, b"")
            if call.process in self._replaced or (call.process == process and call.number < number):
                raise ProtocolError(f"{method}, call {call.number} of fed server {call.process}, comes too late: others came since.")
            if (call.process, call.number) == (process, number):
                return before
            if call.process != process:
                self._replaced.add(process)
            reply = self._done(method, call)
            self._last = (call.process, call.number, reply)
            return reply

    def _done(self, method: str, call: Call) -> bytes:
        try:
            answer = self._worker.do("fed server", lambda: self._do(method, call))
        except M2FedSAError as error:
            log.warning(
                "refused", extra={"facts": {"call": method, "round": _round(call), "why": str(error), "kind": type(error).__name__}}
            )
            return to_bytes(Refusal.of(error, final=False))
        log.info(method.lower(), extra={"facts": {"round": _round(call)}})
        self.steward.changed(method, _round(call))
        return to_bytes(answer)

    def _do(self, method: str, call: Call) -> object:
        """In the worker's thread."""
        host = self._host
        match method:
            case "Begin":
                if self.steward.draining:
                    raise RefusedError("the main server is about to stop and begins no round.")
                host.begin(_given(call.plan))
            case "End":
                averaged: Averaged = host.end(_given(call.acceptance))
                return averaged
            case "Commit":
                host.commit(_given(call.round))
            case "Abort":
                host.abort(_given(call.round))
            case "Fingerprints":
                return Prints(host.fingerprints())
            case "Restore":
                host.restore(_given(call.round), call.file)
            case "Revoke":
                _given(self.steward.revoked).add(_given(call.file), _given(call.client))
        return Done()

    def describe(self) -> Description:
        """The main server as it is."""
        in_force, begun, prepared = self._host.rounds
        steward = self.steward
        return Description(
            version("m2fedsa"), self._process, steward.run, in_force, begun, prepared, steward.draining, time.time(), steward.slices
        )


def _note(method: str, error: Exception, context: grpc.ServicerContext) -> None:
    """A refusal in the log; of an error that nobody foresaw without its text."""
    known = isinstance(error, M2FedSAError)
    facts = {"call": method, "why": str(error) if known else "", "kind": type(error).__name__, "peer": context.peer()}
    log.log(logging.WARNING if known else logging.ERROR, "refused", extra={"facts": facts}, exc_info=None if known else error)


def _round(call: Call) -> int | None:
    return call.plan.number if call.plan else call.acceptance.round if call.acceptance else call.round


def _given(value: Any) -> Any:
    if value is None:
        raise ProtocolError("the call lacks what it is about.")
    return value
