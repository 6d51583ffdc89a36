"""Child processes that end with their parent, whatever ends it, and leave nothing behind."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from m2fedsa.errors import RunDirectoryError

_PARENT_DEATH, _SUBREAPER = 1, 36
"""prctl's PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER, of Linux."""
_GRACE = 8.0
"""Seconds that a process has to end by itself."""
_TRIES = 30
"""Looks for processes that are left, a tenth of a second apart."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
"""Flower without calls to its makers and without installing anything."""


# Looked up here: between fork and exec nothing may be loaded.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """From now on, what children of this process leave behind becomes its own child, so that it can be ended and is no zombie."""
    if _prctl is not None:
        _prctl(_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    if _prctl is not None:
        _prctl(_PARENT_DEATH, signal.SIGTERM, 0, 0, 0)


@dataclass
class Child:
    """A program in a session of its own, its output in a file; begun again when it ends, if that is wanted."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    def start(self) -> None:
        """Start it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (no threads of ours hold a lock here)
            )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self.process is None else self.process.poll()

    def tail(self, lines: int = 12) -> str:
        """The last lines that it said."""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def end(children: Sequence[Child], grace: float = _GRACE) -> None:
    """End them and everything that this process has started through them: asked first, then made to. Waits until the last is gone.

    Flower starts its own helpers in sessions of their own, and they outlive it when it is killed; as orphans they come to this process
    (`adopt_orphans`), so nothing is overlooked.
    """
    running = [child.process for child in children if child.process is not None]
    for process in running:
        _signal(process.pid, signal.SIGTERM)
    until = time.monotonic() + grace
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.05, until - time.monotonic()))
    _end_descendants()
    for process in running:
        process.wait()
    reap()


def is_open(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True


def has_child(parent: int, program: str) -> bool:
    """Whether a process has a living child that runs this program; one that has ended and was not taken leave of is none."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(parent).children():
            with suppress(psutil.NoSuchProcess):
                if one.status() != psutil.STATUS_ZOMBIE and any(Path(word).name == program for word in one.cmdline()[:3]):
                    return True
    return False


def end_with(supervisor: int) -> None:
    """End this process as soon as the one that looks after it is gone: its next start begins where this one's last round ended, and two
    would write the same run."""
    while True:
        try:
            os.kill(supervisor, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            pass
        time.sleep(0.5)


def _end_descendants() -> None:
    import psutil

    for _ in range(_TRIES):
        left = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        time.sleep(0.1)


def _signal(leader: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def reap() -> None:
    """Take leave of adopted orphans that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def hold(state: Path, party: str) -> int:
    """Let one process of a party run on its folder: two would hold the same key and write the same files. `RunDirectoryError` for the
    second; the lock goes with the process."""
    state.mkdir(parents=True, exist_ok=True)
    path = state / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunDirectoryError(f"{path}: {party} runs already on this machine. End that process first.") from error
    return descriptor
