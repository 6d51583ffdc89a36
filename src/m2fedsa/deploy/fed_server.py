"""`m2fedsa fed-server`: a SuperLink that lets in the registry's keys, and the run as a ServerApp on it, begun again until it is done."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from m2fedsa.checkpoint import Manifest
from m2fedsa.deploy.drawing import Drawing, read_json
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.keys import CA, SUPERLINK, check_keys, identity_of
from m2fedsa.deploy.lead import OUTCOME
from m2fedsa.deploy.links import issuer_of
from m2fedsa.deploy.places import KEYS, LOG, STATE
from m2fedsa.deploy.processes import QUIET, Child, adopt_orphans, end, hold, is_open
from m2fedsa.deploy.programs import FedServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.durable import write_atomically
from m2fedsa.errors import InputError, Interrupted, LinkError, M2FedSAError, RunError, StorageError
from m2fedsa.federation.superlink import Control
from m2fedsa.reporting.run_directory import RunDirectory

_PATIENCE = 180.0
"""Seconds that a SuperLink has to listen after its start, to answer again when it has not, and to start the ServerApp: a busy machine is
slow."""
_LOOK, _ASK = 0.5, 3.0
"""Seconds between two looks at the outcome, and between two questions to the SuperLink."""
_ROOM = 1 << 20
"""Bytes that the disk has to take before a start."""
T = TypeVar("T")
MOST_STARTS = 20
"""Times that a run is begun again after crashes without a round committed between, before a person has to look."""
_INPUT: dict[str, type[M2FedSAError]] = {"InputError": InputError, **{kind.__name__: kind for kind in InputError.__subclasses__()}}
"""Errors that stay until a person mends something, by name."""
APP = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "m2fedsa"
version = "1.0.0"
description = "M2FedSA over Flower"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "m2fedsa"

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
folder = ""
supervisor = ""
"""
APP_CODE = '''"""What Flower starts: on the fed server the server alone, on a client's machine the client alone."""


def __getattr__(name: str) -> object:
    if name == "server":
        from m2fedsa.deploy.server_app import server_app

        return server_app
    if name == "client":
        from m2fedsa.federation.client_app import client_app

        return client_app
    raise AttributeError(name)
'''


class FedServerService:
    """The fed server's processes, from their start to the end of the run."""

    def __init__(self, path: Path) -> None:
        """`path`: fed-server.toml. `InputError` if something in its folder is not as it must be."""
        self.folder = path.resolve().parent
        self.program = read_program(path, FedServerProgram)
        check_keys(self.folder)
        # All that the ServerApp will need besides the network: what is wrong here is told before anything listens.
        identity_of(self.folder, SUPERLINK)
        issuer_of(self.folder, self.program, Registry.read(self.folder))
        out = RunDirectory(self.folder / self.program.out, Drawing.read(self.folder).blueprint.config)
        self._checkpoint = out.checkpoint
        self._committed()
        self.state = self.folder / STATE
        self.journal = Journal(self.state / LOG, "fed-server", self.program.run)
        self.authority = (self.folder / KEYS / CA).read_bytes()
        self.superlink = Child("superlink", self._command(), self.state / "superlink.log", self._environment())

    def _command(self) -> list[str]:
        keys = self.folder / KEYS
        return [
            sys.executable, "-m", "m2fedsa.federation.superlink",
            "--ssl-certfile", str(keys / f"{SUPERLINK}.pem"), "--ssl-keyfile", str(keys / f"{SUPERLINK}.key"),
            "--ssl-ca-certfile", str(keys / CA),
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
            "--host", self.program.listen, "--port", str(self.program.superlink.port),
            "--database", str(self.state / "superlink.db"),
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{_path()}"
        return {**QUIET, "FLWR_HOME": str(self.state / "flower"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2", "PATH": path}

    def through(self) -> str:
        """To the end of the run; its digest. `RunError` if it failed or does not get past its crashes, `InputError` of the kind that the
        ServerApp told of, `RunDirectoryError` if another process runs on this folder."""
        lock = hold(self.state, "the fed server")
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        try:
            starts = 0
            while starts < MOST_STARTS:
                before = self._committed()
                outcome = self._once()
                if outcome is not None:
                    return self._told(outcome)
                starts = 1 if self._committed() > before else starts + 1
            raise RunError(
                f"the run was begun {MOST_STARTS} times and crashed each time before a round was done; {self.superlink.log} says how."
            )
        finally:
            end([self.superlink])
            os.close(lock)

    def _once(self) -> dict[str, str] | None:
        """From a start of the SuperLink to the end of the run; None after a crash of either."""
        self._check_room()
        self._clear()
        self.superlink.start()
        control = self._answering()
        if control is None:
            return None
        try:
            self._patiently(lambda: control.register(Registry.read(self.folder).admitted()))
            run = self._patiently(lambda: control.start(self._app(), {"folder": str(self.folder), "supervisor": str(os.getpid())}))
            self.journal.note("submitted", flower_run=str(run))
            return self._watch(control, run)
        except LinkError as error:
            self.journal.note("crashed", level="warning", what="superlink", reason=str(error))
            return None
        finally:
            control.close()
            end([self.superlink])

    def _watch(self, control: Control, run: int) -> dict[str, str] | None:
        due, begins = time.monotonic() + _ASK, time.monotonic() + _PATIENCE
        while True:
            time.sleep(_LOOK)
            if (self.state / OUTCOME).exists():
                return dict(read_json(self.state / OUTCOME))
            if time.monotonic() < due:
                continue
            due = time.monotonic() + _ASK
            state, words = self._patiently(lambda: control.state(run))
            if state == "finished" and not (self.state / OUTCOME).exists():
                self.journal.note("crashed", level="warning", what="run", reason=words)
                return None
            if state == "waiting" and time.monotonic() > begins:
                # What starts ServerApps may have ended, which the SuperLink does not see.
                self.journal.note("crashed", level="warning", what="run", reason=f"no ServerApp started within {_PATIENCE:.0f} seconds")
                return None

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask the SuperLink until it answers. `LinkError` if it has ended, or has not answered for long."""
        until = time.monotonic() + _PATIENCE
        while True:
            if self.superlink.status is not None:
                raise LinkError(f"the SuperLink ended with status {self.superlink.status}; {self.superlink.log} says why.")
            try:
                return ask()
            except M2FedSAError:
                raise
            except Exception as error:
                # What Flower's client raises has no common root.
                if time.monotonic() > until:
                    raise LinkError(
                        f"the SuperLink has not answered for {_PATIENCE:.0f} seconds ({type(error).__name__}: {error})."
                    ) from error
                time.sleep(_LOOK)

    def _answering(self) -> Control | None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and self.superlink.status is None:
            if is_open("127.0.0.1", self.program.superlink.port):
                return Control(self.program.superlink.port, self.authority)
            time.sleep(0.2)
        self.journal.note("crashed", level="warning", what="superlink", reason=self.superlink.tail(3))
        time.sleep(1.0)
        return None

    def _committed(self) -> int:
        """The last round that is part of the run; -1 before the first. `RunDirectoryError` if its manifest was altered."""
        manifest = Manifest.read(self._checkpoint)
        return -1 if manifest is None else manifest.round

    def _check_room(self) -> None:
        """`StorageError` if the disk takes nothing any more: a run that crashed for want of room could not say so."""
        probe = self.state / "room"
        try:
            write_atomically(probe, bytes(_ROOM))
        except StorageError as error:
            raise StorageError(f"{error} Make room; the last finished round is kept, and the same command goes on from there.") from error
        probe.unlink()

    def _clear(self) -> None:
        (self.state / OUTCOME).unlink(missing_ok=True)

    def _app(self) -> Path:
        folder = self.state / "app"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(APP)
        (folder / "app.py").write_text(APP_CODE)
        return folder

    def _told(self, outcome: dict[str, str]) -> str:
        if outcome["status"] != "done":
            raise _INPUT.get(outcome["kind"], RunError)(outcome["message"])
        return outcome["digest"]


def _interrupt(*_: object) -> None:
    raise Interrupted("stopped; the last finished round is kept, and the same command goes on from there.")


def _path() -> str:
    return os.environ.get("PATH", os.defpath)
