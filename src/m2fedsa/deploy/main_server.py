"""`m2fedsa main-server`: the tails behind two addresses, one for clients and one for the fed server; a third tells how it is.

Told to stop, it begins no new round, lets the one that is open commit or abort, and ends; told twice, it ends at once.
"""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from m2fedsa.assembly import cpu_threads
from m2fedsa.config import Wire
from m2fedsa.coordination.grpc_server import CoordinationServer, Steward
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.journal import Journal, places
from m2fedsa.deploy.keys import FED_SERVER_KEYS, MAIN_SERVER_KEYS, REVOKED, identity_of
from m2fedsa.deploy.lasting import Lasting
from m2fedsa.deploy.meters import Desk, Meters
from m2fedsa.deploy.places import KEYS, LOG, STATE
from m2fedsa.deploy.processes import hold
from m2fedsa.deploy.programs import MainServerProgram, read_program
from m2fedsa.deploy.trunk import main_server_of
from m2fedsa.identity import Revoked, fingerprint, public_key, read_certificate
from m2fedsa.links.admission import Gate, Limits
from m2fedsa.links.grpc_server import LinkServer
from m2fedsa.links.worker import Window, Worker
from m2fedsa.main_server.window import backward_together, forward_together

_LOOK = 0.2
"""Seconds between two looks at whether it is told to stop, or at a round that has to end before."""


class MainServerService:
    """The program, from reading its folder to its end."""

    def __init__(self, path: Path) -> None:
        """`path`: main-server.toml. `InputError` if something in its folder is not as it must be; nothing listens yet."""
        self.folder = path.resolve().parent
        self.program = read_program(path, MainServerProgram)
        self._identity = identity_of(self.folder, MAIN_SERVER_KEYS)
        fed = public_key(read_certificate(self.folder / KEYS / f"{FED_SERVER_KEYS}.pem"))
        drawing = Drawing.read(self.folder)
        threads = drawing.blueprint.config.compute.threads
        self.journal = Journal(self.folder / STATE / LOG, "main-server", self.program.run)
        with cpu_threads(threads):
            server = main_server_of(self.folder, drawing)
        self.host = Lasting(server, self.folder / STATE)
        self.host.recover()
        self.meters = Meters()
        self._worker = Worker(threads, _window(self.program.window, self.meters))
        revoked = Revoked(self.folder / KEYS / REVOKED)
        slices = {name: one["digest"] for name, one in drawing.slices.items()}
        self.steward = Steward(self.program.run, fingerprint(fed), slices, revoked)
        self.coordination = CoordinationServer(self.host, self._worker, self.steward)
        limits = _limits(self.program, drawing.blueprint.config.wire)
        self.link = LinkServer(server, self._worker, Gate(self.program.run, fed, revoked), limits, self.meters)
        self.link.describe = self.coordination.describe
        self._told_to_stop = 0

    def serve(self) -> None:
        """Until told to stop. `LinkError` if an address cannot be had, `RunDirectoryError` if another process serves from this folder."""
        lock = hold(self.folder / STATE, "the main server")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        _into(self.journal)
        desk = self._desk()
        self.coordination.start(f"{self.program.listen}:{self.program.coordination}", self._identity)
        self.link.start(f"{self.program.listen}:{self.program.port}", self._identity)
        self.journal.note("ready", after=self.host.rounds[0], port=self.program.port)
        # Looked at again and again: a signal that another thread has taken does not wake this one, and an event's lock may be held here.
        while not self._told_to_stop:
            time.sleep(_LOOK)
        self._drain()
        self.link.stop(1.0)
        self.coordination.stop(1.0)
        self._worker.close()
        if desk is not None:
            desk.close()
        self.journal.note("stopped", after=self.host.rounds[0])
        os.close(lock)

    def health(self) -> dict[str, Any]:
        """What `/health` says."""
        in_force, begun, prepared = self.host.rounds
        status = "draining" if self.steward.draining else "serving"
        return {
            "status": status,
            "run": self.program.run,
            "round": in_force,
            "begun": begun,
            "prepared": prepared,
            "streams": self.link.streams,
        }

    def _desk(self) -> Desk | None:
        self.meters.watch("streams", "Streams that are open.", lambda: self.link.streams)
        self.meters.watch("queue", "Computations that wait.", lambda: self._worker.waiting)
        self.meters.watch("round", "The round in force.", lambda: self.host.rounds[0])
        self.meters.watch("draining", "1 while it waits for its end.", lambda: float(self.steward.draining))
        return None if self.program.metrics is None else Desk(self.program.metrics_host, self.program.metrics, self.meters, self.health)

    def _signalled(self, *_: object) -> None:
        self._told_to_stop += 1

    def _drain(self) -> None:
        """No new round; the open one has so many seconds to come to its end."""
        self.steward.draining = True
        self.journal.note("draining", begun=self.host.rounds[1], streams=self.link.streams)
        until = time.monotonic() + self.program.drain
        while any(self.host.rounds[1:]) and time.monotonic() < until and self._told_to_stop < 2:
            time.sleep(_LOOK)


def serve_main(path: Path) -> None:
    """Serve until told to stop. `path`: main-server.toml; `InputError` if something in its folder is not as it must be."""
    MainServerService(path).serve()


def _window(seconds: float, meters: Meters) -> Window | None:
    """How steps wait for each other; None where they do not."""
    if not seconds:
        return None
    return Window(seconds, {"forward": forward_together, "backward": backward_together}, meters.together)


def _limits(program: MainServerProgram, wire: Wire) -> Limits:
    return Limits(
        frame=program.frame,
        message=program.largest_message,
        up=wire.up,
        down=wire.down,
        silence=program.silence,
        sessions=program.streams,
    )


class _Lines(logging.Handler):
    """What link and coordination log, as lines of the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.INFO)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """One line; of an error that nobody foresaw, the places in the code, without values."""
        facts = dict(getattr(record, "facts", {}))
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            facts["trace"] = places(error)
        self._journal.note(record.getMessage(), level=record.levelname.lower(), **facts)


def _into(journal: Journal) -> None:
    for name in ("m2fedsa.link", "m2fedsa.coordination"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [_Lines(journal)]
