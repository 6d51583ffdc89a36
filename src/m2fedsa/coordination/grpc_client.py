"""The fed server's end of the coordination.

A call that is not answered is made again, under the same number, until it is or the patience is spent: the main server does it once. A
main server that was killed and started anew is noticed at the next call. It is brought back to the round that was committed last; a round
that had been prepared is committed from its checkpoint, and one that was under way is lost, which `RoundLostError` says.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import grpc

from m2fedsa.coordination.calls import SERVICE, Call, Done, Prints
from m2fedsa.errors import LinkError, ProtocolError, RefusedError, RoundLostError
from m2fedsa.identity import Identity
from m2fedsa.links.grpc_client import channel
from m2fedsa.links.talk import Description, Refusal
from m2fedsa.links.wire import decode, to_bytes
from m2fedsa.messages import Acceptance, Averaged, RoundPlan

Answer = TypeVar("Answer")
_PAUSE = 0.3
"""Seconds between two tries."""
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class GrpcCoordination:
    """See `coordination.port.Coordination`; used by one thread."""

    def __init__(self, address: str, identity: Identity | None, run: str, *, patience: float = 120.0, answer: float = 300.0) -> None:
        """`patience`: seconds for which a main server that cannot be reached is tried again. `answer`: seconds for one answer; an average
        over many clients, or a step that is before it in the queue, takes a while."""
        self.address, self.patience, self._answer, self._run = address, patience, answer, run
        self._channel = channel(address, identity)
        self._process, self._number = secrets.token_hex(8), 0
        self._server = self.describe().process
        self._committed: tuple[int, str | None] = (0, None)
        """the last round that counts, and its checkpoint on the main server; None where it is that of the seed"""
        self._prepared: tuple[int, str | None] | None = None

    def begin(self, plan: RoundPlan) -> None:
        """See `Coordination.begin`. Refused by a main server that is about to stop, it waits for the one that takes its place."""
        until = time.monotonic() + self.patience
        while True:
            try:
                self._begin(plan)
                return
            except RefusedError:
                if time.monotonic() > until or not self._is_leaving():
                    raise
                time.sleep(_PAUSE)

    def _is_leaving(self) -> bool:
        """Whether the main server that refused is about to stop, or another has taken its place already."""
        try:
            found = self.describe()
        except LinkError:
            return True
        return found.draining or found.process != self._server

    def _begin(self, plan: RoundPlan) -> None:
        self._found_again()
        self._prepared = None
        try:
            self._call("Begin", Done, plan=plan)
        except ProtocolError:
            if not self._found_again():
                raise
            self._call("Begin", Done, plan=plan)

    def end(self, acceptance: Acceptance) -> Averaged:
        """See `Coordination.end`. `RoundLostError` if the main server was started anew since the round began."""
        if self._found_again():
            raise RoundLostError(f"the main server was started anew within round {acceptance.round}, which is to be repeated.")
        averaged = self._call("End", Averaged, acceptance=acceptance)
        self._prepared = (averaged.round, averaged.file)
        return averaged

    def commit(self, round_number: int) -> None:
        """See `Coordination.commit`. A main server that was started anew since commits from the checkpoint that it wrote."""
        known = next((one for one in (self._prepared, self._committed) if one is not None and one[0] == round_number), None)
        try:
            self._call("Commit", Done, round=round_number)
        except ProtocolError:
            if known is None or known[1] is None or not self._is_new():
                raise
            self._call("Restore", Done, round=round_number, file=known[1])
        if known is not None:
            self._committed, self._prepared = known, None

    def abort(self, round_number: int) -> None:
        """See `Coordination.abort`."""
        self._found_again()
        self._prepared = None
        self._call("Abort", Done, round=round_number)

    def fingerprints(self) -> Mapping[str, list[object]]:
        """See `Coordination.fingerprints`."""
        self._found_again()
        return self._call("Fingerprints", Prints).tensors

    def restore(self, round_number: int, file: str | None) -> None:
        """See `Coordination.restore`."""
        self._call("Restore", Done, round=round_number, file=file)
        self._server = self.describe().process
        self._committed, self._prepared = (round_number, file), None

    def revoke(self, key: str, client: str) -> None:
        """Let the client with this key in no more, from its next message on."""
        self._call("Revoke", Done, file=key, client=client)

    def describe(self) -> Description:
        """The main server as it is. `LinkError` if it cannot be reached."""
        return self._call("Describe", Description)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_new(self) -> bool:
        """Whether the main server is another process than before; from now on it is the one that is known."""
        known, self._server = self._server, self.describe().process
        return known != self._server

    def _found_again(self) -> bool:
        """Whether the main server was started anew; if so, it is where it was after the last commit."""
        if not self._is_new():
            return False
        number, file = self._committed
        if file is not None:
            self._call("Restore", Done, round=number, file=file)
        return True

    def _call(self, method: str, expected: type[Answer], **about: Any) -> Answer:
        self._number += 1
        request = to_bytes(Call(self._run, self._process, self._number, **about))
        until = time.monotonic() + self.patience
        while True:
            try:
                content = self._channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=self._answer)
                break
            except grpc.RpcError as error:
                self._again(error, method, until)
        answer: object = decode(content, expected, Refusal)
        if isinstance(answer, Refusal):
            answer.throw()
        if not isinstance(answer, expected):
            raise ProtocolError(f"{method} was answered by {type(answer).__name__}.")
        return answer

    def _again(self, error: Any, method: str, until: float) -> None:
        """Wait before another try; `LinkError` if there is none, `RefusedError` if the main server does not listen to this party."""
        code, why = error.code(), str(error.details())[:300]
        if code == grpc.StatusCode.PERMISSION_DENIED:
            raise RefusedError(f"{self.address}: {why}") from error
        if code not in _AGAIN or time.monotonic() > until:
            raise LinkError(
                f"{self.address}: the main server does not answer ({method}: {code.name.lower()}, {why}). Is it running, and does it know "
                "this fed server's certificate?"
            ) from error
        time.sleep(_PAUSE)
