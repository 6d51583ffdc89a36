"""Clients on machines of their own, reached over Flower: a task is a message to a SuperNode, a result its reply.

A client's name is bound to its key: the SuperLink lets in registered keys alone, and a node whose key is not in the registry gets no task.
What a client shall take as its local tensors travels with its next task, so that `commit` and `restore` cost no message of their own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from m2fedsa.errors import M2FedSAError, ProtocolError
from m2fedsa.federation.doorstep import Answer, Envelope
from m2fedsa.identity import Purpose
from m2fedsa.links import wire
from m2fedsa.messages import (
    ClientInfo,
    EvaluateResult,
    EvaluateTask,
    Failure,
    JudgeResult,
    JudgeTask,
    KeepResult,
    KeepTask,
    Result,
    SumsResult,
    SumsTask,
    Task,
    TrainResult,
    TrainTask,
)

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

RECORD = "m2fedsa"
RESULTS: Mapping[type[object], type[Result | KeepResult]] = {
    TrainTask: TrainResult,
    SumsTask: SumsResult,
    JudgeTask: JudgeResult,
    EvaluateTask: EvaluateResult,
    KeepTask: KeepResult,
}
Issue = Callable[[str, Purpose, int], str]
"""client, purpose and round -> the token that lets the client in at the main server"""
TYPES: Mapping[type[object], str] = {TrainTask: "train", SumsTask: "query", JudgeTask: "query", EvaluateTask: "evaluate", KeepTask: "query"}
PURPOSES: Mapping[type[object], Purpose] = {TrainTask: "train", KeepTask: "predict"}
"""Of the token that goes with a task; of all others to evaluate."""
_LIFETIME = 30 * 24 * 3600.0
"""Seconds for which a message stands. Deadlines are about progress, which the ClientApp and Flower's heartbeats watch."""
_QUICKEST, _SLOWEST = 0.2, 1.0
"""Seconds between two looks for replies: soon after a task was given, and later."""


class FlowerFederation:
    """See `federation.port.Federation`."""

    def __init__(
        self,
        grid: "Grid",
        registry: Sequence[ClientInfo],
        keys: Mapping[bytes, str],
        run: str,
        issue: Issue,
        patience: float = 0.0,
        absence: float = 0.0,
        answer: float = 24 * 3600.0,
    ) -> None:
        """`keys`: a SuperNode's public key -> its client. `issue`: signs tokens. `patience`: seconds for which clients are waited for where
        there are too few; `absence`: after which one that was lost is known to stay away; `answer`: after which a task counts as lost
        whose client is connected and has never answered."""
        self._patience, self._absence, self._answer = patience, absence, answer
        self._gone = set[str]()
        self._grid, self._keys, self._run, self._issue = grid, keys, run, issue
        self._registry = sorted(registry, key=lambda client: client.name)
        self._locals: dict[str, tuple[int, str]] = {}
        self._written: dict[str, tuple[int, str]] = {}

    def clients(self) -> Sequence[ClientInfo]:
        """See `Federation.clients`."""
        return self._registry

    def present(self, clients: Sequence[str], least: int, /) -> Sequence[str]:
        """See `Federation.present`."""
        return self._there(clients, least, set(clients))

    def returned(self, clients: Sequence[str], least: int, /) -> Sequence[str]:
        """See `Federation.returned`. Who fell away may need a minute: Flower lets a key in again only when it has missed the old node."""
        there = self._there(clients, least, self._gone)
        self._gone |= set(clients).difference(there)
        return there

    def _there(self, clients: Sequence[str], least: int, given_up: set[str]) -> Sequence[str]:
        """Who of them is there, once nobody else is worth waiting for: not who is given up, nor anybody for longer than the absence, unless
        there are fewer than `least`; and never who has no key to be let in with, or longer than the patience."""
        began, may_come = time.monotonic(), set(self._keys.values()).intersection(clients)
        while True:
            there = may_come.intersection(self._nodes())
            self._gone -= there
            away, waited = may_come - there, time.monotonic() - began
            content = len(there) >= least and (away <= given_up or waited >= self._absence)
            if content or not away or waited >= self._patience:
                return sorted(there)
            time.sleep(_SLOWEST)

    def run(self, tasks: Sequence[Task]) -> Iterator[Result | Failure]:
        """All tasks at once; replies as they come."""
        return cast(Iterator[Result | Failure], self._exchanged(tasks))

    def hand_over(self, tasks: Sequence[KeepTask]) -> dict[str, str]:
        """At the end of a run, give each client what it predicts with; client -> why it has not got it."""
        return {answer.client: answer.message for answer in self._exchanged(tasks) if isinstance(answer, Failure)}

    def _exchanged(self, tasks: Sequence[Task | KeepTask]) -> Iterator[Result | KeepResult | Failure]:
        nodes = self._nodes()
        awaited: dict[str, Task | KeepTask] = {}
        away = []
        for task in tasks:
            # One by one: a single request with all tasks may be larger than a server takes.
            name = task.client
            given = self._grid.push_messages([self._message(task, nodes[name])]) if name in nodes else []
            number = next(iter(given), None)
            if number is None:
                away.append(Failure(name, "Away", f"client {name} is not connected: its SuperNode is not running or cannot reach here."))
            else:
                awaited[number] = task
        yield from away
        pause, until = _QUICKEST, time.monotonic() + self._answer
        while awaited:
            arrived = list(self._grid.pull_messages(list(awaited)))
            for reply in arrived:
                task = awaited.pop(reply.metadata.reply_to_message_id)
                yield self._read(task, reply)
            pause = _QUICKEST if arrived else min(_SLOWEST, pause * 1.2)
            if awaited and time.monotonic() >= until:
                yield from map(self._silent, awaited.values())
                return
            if awaited:
                time.sleep(pause)

    def _silent(self, task: Task | KeepTask) -> Failure:
        words = f"client {task.client} is connected, but has not answered for {self._answer / 3600:g} hours (`answer_hours`)"
        return Failure(task.client, "Silent", f"{words}: look at its logs, and start `m2fedsa client` anew there.")

    def commit(self, round_number: int, accepted: Sequence[str]) -> None:
        """See `Federation.commit`. The clients learn of it with their next task."""
        for name in accepted:
            if name in self._written and self._written[name][0] == round_number:
                self._locals[name] = self._written.pop(name)

    def restore(self, locals_: Mapping[str, tuple[int, str]]) -> None:
        """See `Federation.restore`. The clients learn of it with their next task."""
        self._locals, self._written = dict(locals_), {}

    # --- messages -------------------------------------------------------------------------------------------------------------------

    def _nodes(self) -> dict[str, int]:
        """client -> its node, of those that are connected and in the registry."""
        return {self._keys[node.public_key]: node.node_id for node in self._grid.get_nodes() if node.public_key in self._keys}

    def _message(self, task: Task | KeepTask, node: int) -> "Message":
        from flwr.app import ConfigRecord, Message, RecordDict

        purpose = PURPOSES.get(type(task), "evaluate")
        at = task.plan.number if isinstance(task, TrainTask) else task.view.round
        token, local = self._issue(task.client, purpose, at), self._locals.get(task.client)
        envelope = Envelope(self._run, task.client, type(task).__name__, at, token, local, version("m2fedsa"))
        content = RecordDict({RECORD: ConfigRecord({"envelope": envelope.to_json(), "task": wire.to_bytes(task)})})
        return Message(content, dst_node_id=node, message_type=TYPES[type(task)], ttl=_LIFETIME, group_id=str(at))

    def _read(self, task: Task | KeepTask, reply: "Message") -> Result | KeepResult | Failure:
        if reply.has_error():
            return Failure(task.client, "Lost", f"client {task.client}: Flower says: {reply.error.reason}")
        try:
            told = _told(task.client, reply)
            if told.result is None:
                return Failure(task.client, told.kind, told.message)
            result = wire.decode(told.result, RESULTS[type(task)])
            if result.client != task.client:
                raise ProtocolError(f"client {task.client} sent a result of client {result.client}.")
        except M2FedSAError as error:
            return Failure(task.client, type(error).__name__, str(error))
        if isinstance(result, TrainResult) and isinstance(task, TrainTask) and result.local is not None:
            self._written[task.client] = (task.plan.number, result.local)
        return result


def _told(client: str, reply: "Message") -> Answer:
    """What a reply holds. `ProtocolError` if it is none that a ClientApp of ours makes."""
    from flwr.app import ConfigRecord

    record = reply.content.get(RECORD) if reply.has_content() else None
    if not isinstance(record, ConfigRecord):
        found = "nothing" if record is None else f"a {type(record).__name__}"
        raise ProtocolError(f"client {client} replied with {found} where a ConfigRecord named {RECORD} is needed.")
    kind, message, result = (record.get(name) for name in ("kind", "message", "result"))
    for name, value in (("kind", kind), ("message", message)):
        if not isinstance(value, str):
            raise ProtocolError(f"client {client} replied with a {name} of {type(value).__name__}; a text is needed.")
    if result is not None and not isinstance(result, bytes):
        raise ProtocolError(f"client {client} replied with a result of {type(result).__name__}; bytes are needed.")
    return Answer(str(kind), result, str(message))
