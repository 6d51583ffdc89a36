"""A task whose answer takes long at the main server: as long as that says that it is alive, nobody gives the task up."""

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import worlds
from tests.conformance import over_grpc as net
from tests.conformance.test_ports import plan
from tests.integration.test_link import Place, place, wait

from m2fedsa.client import Client
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.resident import resident_of
from m2fedsa.federation.doorstep import Answer, Envelope, ask
from m2fedsa.links.admission import Limits
from m2fedsa.links.wire import to_bytes
from m2fedsa.messages import TrainTask

SILENCE = 1.0
"""Seconds without a step forward after which whoever gave the task gives it up."""


@contextmanager
def asked(at: Place, folder: Path, busy: float) -> Iterator[Answer]:
    """What comes of a round of eve's, given to her resident client while the main server computes for somebody else so many seconds."""
    who = worlds.parties(worlds.config(), worlds.federated())
    task = TrainTask("eve", plan(), who.fed_server.view("eve"))
    envelope = Envelope(net.RUN, "eve", "TrainTask", 1, net.token("eve", "train", 1), None, "0")
    link, free = at.of("eve"), threading.Event()
    resident = resident_of(
        Client("eve", who.data.clients["eve"], who.shared, link), link, net.RUN, Journal(folder / "log", "eve", ""), folder
    )
    with tempfile.TemporaryDirectory() as near, socket.socket(socket.AF_UNIX) as door, link:
        door.bind(os.fspath(Path(near) / "s"))
        door.listen()
        threading.Thread(target=serve, args=(resident, door), daemon=True).start()
        at.link.worker.submit("somebody", lambda: free.wait(30))
        threading.Timer(busy, free.set).start()
        try:
            yield ask(Path(near) / "s", envelope.to_json(), to_bytes(task), SILENCE)
        finally:
            free.set()
            wait(lambda: at.link.worker.waiting == 0)
            door.shutdown(socket.SHUT_RDWR)


def serve(resident, door) -> None:
    with suppress(OSError):  # the door was closed: the test is over
        resident.serve(door)


def test_a_main_server_that_is_busy_does_not_cost_a_client_its_task(tmp_path: Path) -> None:
    with place(tmp_path, Limits(heartbeat=0.2)) as at:
        at.host.begin(plan())
        with asked(at, tmp_path, 2.5) as found:
            assert (found.kind, found.message) == ("TrainResult", "")


def test_a_main_server_that_says_nothing_does(tmp_path: Path) -> None:
    with place(tmp_path, Limits(heartbeat=60.0)) as at:
        at.host.begin(plan())
        with asked(at, tmp_path, 2.5) as found:
            assert (found.kind, found.result) == ("Silent", None)
