"""The resident client: it holds data, heads, kept outputs and the way to the main server, and does the tasks that ClientApps hand in.

One task at a time. While a task goes on, its ClientApp hears of every step forward; when that has left, the task is given up, so that
nothing is done twice.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from m2fedsa.client import Client
from m2fedsa.data.samples import SPLITS, ClientData, Samples
from m2fedsa.deploy.journal import Journal, places
from m2fedsa.deploy.keepsake import Keepsake
from m2fedsa.deploy.places import LOG
from m2fedsa.deploy.watched import WatchedLink, WatchedSamples
from m2fedsa.errors import Interrupted, M2FedSAError, ProtocolError, RunError
from m2fedsa.federation.doorstep import ALIVE, ENVELOPE, TASK, Answer, Envelope, answer, receive, send
from m2fedsa.links import wire
from m2fedsa.links.port import Link
from m2fedsa.messages import EvaluateTask, JudgeTask, KeepResult, KeepTask, Result, SumsTask, Task, TrainResult, TrainTask

if TYPE_CHECKING:
    from m2fedsa.links.grpc_client import GrpcLink

_HANDED_IN = 30.0
"""Seconds that a ClientApp may take to hand in a task."""
_LOOK_UP = 1.0
"""Seconds for which nothing but a task is waited for."""
_OFTEN = 0.5
"""Seconds between two signs of life."""


class GivenUpError(RunError):
    """Nobody waits for a task's answer any more."""


@dataclass
class Attention:
    """Whoever waits for the task that is under way."""

    connection: socket.socket | None = None
    _told: float = 0.0

    def tick(self) -> None:
        """The task has got on. `GivenUpError` if nobody waits for it."""
        now = time.monotonic()
        if self.connection is None or now - self._told < _OFTEN:
            return
        self._told = now
        try:
            send(self.connection, ALIVE, b"")
        except OSError as error:
            raise GivenUpError("whoever gave the task has left; it is given up.") from error


@dataclass
class Resident:
    """A client behind a socket."""

    client: Client
    run: str
    admit: Callable[[str], None]
    """takes the token of the task, with which the link opens sessions"""
    journal: Journal
    state: Path
    """the folder of what it keeps"""
    attention: Attention = field(default_factory=Attention)
    _in_force: tuple[int, str] | None = None
    _written: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        self.client.link = cast(Link, WatchedLink(self.client.link, self.attention.tick))
        self.client.data = watched(self.client.data, self.attention.tick)

    def serve(self, door: socket.socket) -> None:
        """Do the tasks that come through the door, for ever."""
        self.journal.note("ready", modalities=list(self.client.data.modalities))
        # A signal that another thread has taken does not wake this one: it looks up now and then.
        door.settimeout(_LOOK_UP)
        while True:
            try:
                connection, _ = door.accept()
            except TimeoutError:
                continue
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        """One task. Whatever comes through the door and whatever becomes of the task, the client lives on until it is told to end."""
        connection.settimeout(_HANDED_IN)
        try:
            envelope, body = _handed_in(connection)
            self.attention.connection = connection
            given = self._done(Envelope.from_json(envelope), body)
            self.attention.connection = None
            answer(connection, given)
        except ProtocolError as error:
            self.journal.note("refused", level="warning", reason=str(error))
            with suppress(OSError):
                answer(connection, Answer("ProtocolError", message=str(error)))
        except (OSError, UnicodeDecodeError) as error:
            self.journal.note("left", level="warning", reason=str(error))
        finally:
            self.attention.connection = None

    def _done(self, envelope: Envelope, body: bytes) -> Answer:
        began = time.monotonic()
        self.journal.round = envelope.round
        try:
            if (envelope.run, envelope.client) != (self.run, self.client.name):
                raise ProtocolError(
                    f"a task for client {envelope.client} of run {envelope.run} came to client {self.client.name} of run {self.run}."
                )
            task = cast(Task | KeepTask, wire.decode(body, TrainTask, SumsTask, JudgeTask, EvaluateTask, KeepTask))
            self.journal.note("task", kind=envelope.kind)
            result = self._kept(envelope, task) if isinstance(task, KeepTask) else self._performed(envelope, task)
            sent = wire.to_bytes(result)
        except Interrupted:
            raise
        except M2FedSAError as error:
            self.journal.note("failed", level="warning", kind=type(error).__name__, reason=str(error))
            return Answer(type(error).__name__, message=str(error))
        except Exception as error:
            return self._unforeseen(error)
        if isinstance(result, TrainResult) and isinstance(task, TrainTask) and result.local is not None:
            self._written = (task.plan.number, result.local)
        self.journal.note("done", kind=envelope.kind, seconds=round(time.monotonic() - began, 3), bytes=len(sent))
        return Answer(type(result).__name__, sent)

    def _unforeseen(self, error: Exception) -> Answer:
        """For an error that is none of ours, as of a disk that fails. What the system says names a file; what others say may hold values of
        a sample, so it is neither logged nor sent."""
        kind, words = type(error).__name__, f": {error}" if isinstance(error, OSError) else ""
        self.journal.note("failed", level="error", kind=kind, reason=f"{kind}{words}", trace=places(error))
        return Answer(kind, message=f"client {self.client.name}: {kind}{words}. Its state/{LOG} says where in the code.")

    def _performed(self, envelope: Envelope, task: Task) -> Result:
        self.admit(envelope.token)
        self._settle(envelope.local)
        return self.client.perform(task)

    def _kept(self, envelope: Envelope, task: KeepTask) -> KeepResult:
        """The run is at its end."""
        self._settle(envelope.local)
        Keepsake(task.view, envelope.token, envelope.local).write(self.state)
        return KeepResult(self.client.name)

    def _settle(self, wanted: tuple[int, str] | None) -> None:
        """Have the local tensors that the fed server counts: of the last round in which this client's result was accepted."""
        if wanted == self._in_force:
            return
        if wanted is None:
            self.client.forget()
        elif wanted == self._written:
            self.client.commit(wanted[0])
        else:
            self.client.restore(*wanted)
        self._in_force = wanted


def _handed_in(connection: socket.socket) -> tuple[str, bytes]:
    kinds, contents = zip(*(receive(connection) for _ in range(2)), strict=True)
    if kinds != (ENVELOPE, TASK):
        raise ProtocolError(f"frames of kinds {kinds} came where an envelope and a task were awaited.")
    return contents[0].decode(), contents[1]


def resident_of(client: Client, link: "GrpcLink", run: str, journal: Journal, state: Path) -> Resident:
    """The resident client on this link, its way to the main server, which opens sessions with the token of each task. Whatever is heard
    from the main server is a step forward, for whoever waits: a task is not lost because others are served before it."""

    def admit(token: str) -> None:
        link.token = token

    resident = Resident(client, run, admit, journal, state)
    link.heard = resident.attention.tick
    return resident


def watched(data: ClientData, tick: Callable[[], None]) -> ClientData:
    """The same samples; each time that some are read, `tick` is called."""
    splits = {split: data.split(split) for split in SPLITS}
    kept: dict[str, Samples] = {name: WatchedSamples(one, tick) for name, one in splits.items() if one is not None}
    return ClientData(data.modalities, **kept)
