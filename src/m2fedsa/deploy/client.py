"""`m2fedsa client`: the resident client, and the SuperNode beside it that brings the tasks."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.keys import CA, SUPERNODE_KEY, check_keys
from m2fedsa.deploy.places import KEYS, LOG, STATE, socket_of
from m2fedsa.deploy.processes import QUIET, Child, adopt_orphans, end, has_child, hold, is_open, reap
from m2fedsa.deploy.programs import ClientProgram, read_program
from m2fedsa.errors import Interrupted, RunDirectoryError

if TYPE_CHECKING:
    from types import FrameType

    from m2fedsa.deploy.resident import Resident

_AGAIN = 5.0
"""Seconds before a SuperNode that ended is begun again."""
_SUPEREXEC = "flower-superexec"
"""What a SuperNode starts once, and what starts its ClientApps. The SuperNode does not see when it ends, and then answers no task."""
_MISSING, _FIRST = 5.0, 180.0
"""Seconds that a SuperNode may be without it, and from its start until it has it first: a busy machine is slow."""


class ClientService:
    """A client's processes."""

    def __init__(self, path: Path) -> None:
        """`path`: client.toml. `InputError` if something in its folder is not as it must be, or if the client runs already."""
        self.folder = path.resolve().parent
        self.program = read_program(path, ClientProgram)
        check_keys(self.folder)
        self.state = self.folder / STATE
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.state, f"client {self.program.name}")
        self.journal = Journal(self.state / LOG, self.program.name, self.program.run)
        self.socket = socket_of(self.folder)
        self.supernode = Child("supernode", self._command(), self.state / "supernode.log", self._environment())

    def _command(self) -> list[str]:
        keys = self.folder / KEYS
        return [
            str(Path(sys.executable).parent / "flower-supernode"),
            "--superlink", str(self.program.superlink), "--root-certificates", str(keys / CA),
            "--auth-supernode-private-key", str(keys / SUPERNODE_KEY),
            "--host", "127.0.0.1", "--port", str(self.program.runtime_port),
            "--node-config", f'socket="{self.socket}" silence={float(self.program.silence)}',
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        home = str(self.state / "flower")
        return {**QUIET, "FLWR_HOME": home, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2", "PATH": path, "OMP_NUM_THREADS": "1"}

    def serve(self) -> None:
        """Until it is told to end. `InputError` if heads, samples or keys cannot be used: they are read before the SuperNode starts."""
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        try:
            from m2fedsa.assembly import cpu_threads

            resident = self._resident()
            with cpu_threads(resident.client.shared.blueprint.config.compute.threads), _door(self.socket) as door:
                threading.Thread(target=self._tend, daemon=True).start()
                resident.serve(door)
        finally:
            end([self.supernode])
            self.socket.unlink(missing_ok=True)

    def _resident(self) -> "Resident":
        from m2fedsa.deploy.links import link_of
        from m2fedsa.deploy.resident import resident_of
        from m2fedsa.deploy.site import client_of

        link = link_of(self.folder, self.program)
        client = client_of(self.folder, self.program.name, tuple(self.program.modalities), link)
        return resident_of(client, link, self.program.run, self.journal, self.state)

    def _tend(self) -> None:
        """Keep a SuperNode running, once there is a SuperLink: without one it ends soon, and its next start costs seconds of computing."""
        due = 0.0
        while True:
            if self.supernode.process is None or self.supernode.status is not None:
                if self.supernode.process is not None:
                    self.journal.note("crashed", level="warning", what="supernode", status=self.supernode.status)
                    time.sleep(_AGAIN)
                    reap()
                self._await_superlink()
                self.supernode.start()
                due = time.monotonic() + _FIRST
            elif has_child(self.supernode.process.pid, _SUPEREXEC):
                due = time.monotonic() + _MISSING
            elif time.monotonic() > due:
                # Told to end, it says goodbye to the SuperLink, which then reports its tasks as lost and lets its key in again at once.
                self.journal.note("crashed", level="warning", what=_SUPEREXEC)
                end([self.supernode])
            time.sleep(0.5)

    def _await_superlink(self) -> None:
        told = False
        while not is_open(self.program.superlink.host, self.program.superlink.port):
            if not told:
                self.journal.note("waiting", address=str(self.program.superlink))
            told = True
            time.sleep(1.0)


def _door(place: Path) -> socket.socket:
    """A listening socket that its owner alone can reach."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.parent.stat().st_uid != os.getuid():
        raise RunDirectoryError(
            f"{place.parent}: belongs to somebody else. Remove it, or put the client's folder where its path is shorter."
        )
    place.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(os.fspath(place))
    place.chmod(0o600)
    door.listen()
    return door


def _interrupt(_number: int, _frame: "FrameType | None") -> None:
    raise Interrupted("stopped.")
