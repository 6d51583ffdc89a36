"""A federation over Flower's messages with everything but Flower's transport: real ClientApps, real sockets, real resident clients.

The transport itself is a process per machine and message, which the integration tests start.
"""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tests import worlds
from tests.conformance import over_grpc

from m2fedsa.client import Client
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.resident import resident_of
from m2fedsa.federation.client_app import client_app
from m2fedsa.federation.flower import FlowerFederation

SILENCE = 60.0


class DirectGrid:
    """What a ServerApp is given, with every node in this process: a message is handed to the ClientApp in a thread of its own."""

    def __init__(self, sockets):
        self.sockets = sockets
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.replies: list[Message] = []
        self.sent = 0
        self.away: set[str] = set()
        """clients that are not connected"""

    def get_nodes(self):
        there = [(number, name) for number, name in enumerate(self.sockets, 1) if name not in self.away]
        return [SimpleNamespace(node_id=number, public_key=name.encode()) for number, name in there]

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
def federation(who: worlds.Parties, links: over_grpc.Links, folder: Path) -> Iterator[FlowerFederation]:
    """Every client resident behind a socket of its own, with its own link over gRPC."""
    with ExitStack() as stack:
        near = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sockets = {}
        for name, data in who.data.clients.items():
            sockets[name] = near / name
            door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            door.bind(str(sockets[name]))
            door.listen()
            link = links.of(name)
            client = Client(name, data, who.shared, link)
            journal = Journal(folder / f"{name}.jsonl", name, over_grpc.RUN)
            resident = resident_of(client, link, over_grpc.RUN, journal, folder / name)
            threading.Thread(target=_serve, args=(resident, door), daemon=True).start()
            stack.callback(door.shutdown, socket.SHUT_RDWR)
        infos = who.federation.clients()
        yield FlowerFederation(DirectGrid(sockets), infos, {name.encode(): name for name in sockets}, over_grpc.RUN, over_grpc.token)


def _serve(resident, door):
    with suppress(OSError):  # the door was closed: the test is over
        resident.serve(door)
