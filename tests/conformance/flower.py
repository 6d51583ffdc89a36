"""A federation over Flower's messages with everything but Flower's transport: real ClientApps, real sockets, real resident clients.

The transport itself is a process per machine and message, which the integration tests start.
"""

import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.resident import Resident
from m2fedsa.federation.client_app import client_app
from m2fedsa.federation.flower import FlowerFederation

RUN = "conformance"
SILENCE = 60.0


class OneAtATime:
    """A link of one process, used by several clients at once: one call after the other, as behind a network."""

    def __init__(self, inner, lock):
        self.inner, self.lock = inner, lock

    def __getattr__(self, name):
        made = getattr(self.inner, name)

        def call(*arguments):
            with self.lock:
                found = made(*arguments)
            return OneAtATime(found, self.lock) if name == "session" else found

        return call

    def __enter__(self):
        self.inner.__enter__()
        return self

    def __exit__(self, *arguments):
        with self.lock:
            self.inner.__exit__(*arguments)


class DirectGrid:
    """What a ServerApp is given, with every node in this process: a message is handed to the ClientApp in a thread of its own."""

    def __init__(self, sockets):
        self.sockets = sockets
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.replies: list[Message] = []
        self.sent = 0

    def get_nodes(self):
        return [SimpleNamespace(node_id=number, public_key=name.encode()) for number, name in enumerate(self.sockets, 1)]

    def push_messages(self, messages):
        made = []
        for message in messages:
            self.sent += 1
            message.metadata.__dict__.update(_message_id=str(self.sent), _run_id=1)
            threading.Thread(target=self._deliver, args=(message,), daemon=True).start()
            made.append(str(self.sent))
        return made

    def _deliver(self, message):
        place = list(self.sockets.values())[message.metadata.dst_node_id - 1]
        node = {"socket": str(place), "silence": SILENCE}
        context = Context(run_id=1, node_id=message.metadata.dst_node_id, node_config=node, state=RecordDict(), run_config={}, series_id=1)
        self.replies.append(client_app(message, context))

    def pull_messages(self, identifiers):
        found = []
        while self.replies:
            found.append(self.replies.pop())
        assert {reply.metadata.reply_to_message_id for reply in found} <= set(identifiers)
        return found


@contextmanager
def residents(clients, folder: Path) -> Iterator[DirectGrid]:
    """Every client resident behind a socket of its own."""
    with ExitStack() as stack:
        near = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sockets, lock = {}, threading.Lock()
        for client in clients:
            place = near / client.name
            client.link = OneAtATime(client.link, lock)
            door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            door.bind(str(place))
            door.listen()
            sockets[client.name] = place
            resident = Resident(client, RUN, lambda token: None, Journal(folder / f"{client.name}.jsonl", client.name, RUN))
            threading.Thread(target=_serve, args=(resident, door), daemon=True).start()
        yield DirectGrid(sockets)


def _serve(resident, door):
    with suppress(OSError):  # the door was closed: the test is over
        resident.serve(door)


def federation(grid, infos: Sequence[object]) -> FlowerFederation:
    return FlowerFederation(grid, infos, {name.encode(): name for name in grid.sockets}, RUN, lambda client, purpose, at: "")
