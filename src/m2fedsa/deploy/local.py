"""`m2fedsa deploy local`: all programs of a deployment on this machine, each a process of its own, and one view of them.

The programs are those that run on many machines, started from the same folders. What is shown comes from the fed server's journal, and the
run directory is the fed server's.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from m2fedsa.config import Config
from m2fedsa.deploy.places import (
    CLIENT_TOML,
    DEPLOY_TOML,
    FED_SERVER,
    FED_SERVER_TOML,
    LOG,
    MAIN_SERVER,
    MAIN_SERVER_TOML,
    STATE,
    client_folders,
)
from m2fedsa.deploy.processes import Child, adopt_orphans, end
from m2fedsa.deploy.programs import Deployment, FedServerProgram, read_program, write_program
from m2fedsa.errors import ConfigError, Interrupted, RunError
from m2fedsa.reporting.files import read_json
from m2fedsa.reporting.progress import Lines, view
from m2fedsa.reporting.records import ResultRecord

_LOOK = 0.25
"""Seconds between two looks."""
_AGAIN = 1.0
"""Seconds before a program that crashed is begun again."""


class Local:
    """A deployment on this machine."""

    def __init__(self, directory: Path, out: Path | None = None) -> None:
        """`out`: the run directory, in place of the one in the fed server's folder. `InputError` if something is missing."""
        self.directory = directory.resolve()
        self.deployment = read_program(self.directory / DEPLOY_TOML, Deployment)
        self.clients = client_folders(self.directory)
        if not self.clients:
            raise ConfigError(f"{directory}: has no client's folder. `m2fedsa deploy init` writes them.")
        self.fed_folder = self.directory / FED_SERVER
        self.config = Config.from_file(self.fed_folder / "config.toml")
        self.out = self._out(out)
        self.fed_server = self._child("fed-server", self.fed_folder / FED_SERVER_TOML)
        self.main_server = self._child("main-server", self.directory / MAIN_SERVER / MAIN_SERVER_TOML)
        self.others = [self.main_server, *(self._child("client", folder / CLIENT_TOML, name) for name, folder in self.clients.items())]

    def _out(self, out: Path | None) -> Path:
        path = self.fed_folder / FED_SERVER_TOML
        program = read_program(path, FedServerProgram)
        if out is not None and out.resolve() != (self.fed_folder / program.out).resolve():
            if (self.fed_folder / program.out / "config.toml").exists():
                raise ConfigError(
                    f"{self.directory}: its run is in {program.out}, and goes on there. Leave --out away, or init another --dir."
                )
            program = program.model_copy(update={"out": str(out.resolve())})
            write_program(path, program)
        return self.fed_folder / program.out

    def _child(self, command: str, file: Path, name: str | None = None) -> Child:
        words = [sys.executable, "-m", "m2fedsa", command, str(file)]
        return Child(name or command, words, file.parent / STATE / "output.log")

    def through(self, stream: Any = None) -> Path:
        """Start everything, show how it goes, end everything; the run directory. `RunError` if the run failed."""
        adopt_orphans()
        before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
        shown = view(self.config, stream)
        following = Following(self.fed_folder / STATE / LOG)
        try:
            # Clients wait for the fed server: with many of them it would be the last to get anywhere.
            for child in [self.fed_server, *self.others]:
                child.start()
            self._watch(shown, following)
            return self.out
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; the last finished round is kept. Go on with: m2fedsa deploy local {self.directory}") from None
        finally:
            shown.close()
            end([self.fed_server, *self.others])
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, shown: Lines, following: "Following") -> None:
        """Until the fed server has ended. Any other program that ends is begun again: its work is lost, the run is not."""
        due: dict[str, float] = {}
        while True:
            self._show(shown, following)
            if self.fed_server.status is not None:
                self._show(shown, following)
                self._judge(shown)
                return
            for child in self.others:
                if child.status is None:
                    continue
                if child.name not in due:
                    due[child.name] = time.monotonic() + _AGAIN
                    shown.note(f"{child.name} ended ({child.status}) and is begun again; {child.log} says why")
                elif time.monotonic() > due[child.name]:
                    del due[child.name]
                    child.start()
            time.sleep(_LOOK)

    def _show(self, shown: Lines, following: "Following") -> None:
        for entry in following.new():
            told = _TOLD.get(entry["event"])
            if told is not None:
                told(shown, entry)

    def _judge(self, shown: Lines) -> None:
        if self.fed_server.status == 0:
            shown.finished(cast(ResultRecord, read_json(self.out / "result.json")), self.out)
            return
        raise RunError(f"the fed server ended with status {self.fed_server.status}:\n{self.fed_server.tail()}")


_TOLD: Mapping[str, Callable[[Lines, dict[str, Any]], None]] = {
    "connected": lambda shown, entry: shown.client_done(entry["clients"], entry["registered"], "connected"),
    "started": lambda shown, entry: shown.started(entry["facts"], entry["after"]),
    "warm_started": lambda shown, entry: shown.warm_started(entry["record"]),
    "client_done": lambda shown, entry: shown.client_done(entry["done"], entry["total"], entry["task"]),
    "round_done": lambda shown, entry: shown.round_done(entry["record"]),
    "crashed": lambda shown, entry: shown.note(f"{entry['what']} crashed and is begun again"),
}


class Following:
    """New lines of a journal, from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new(self) -> Iterator[dict[str, Any]]:
        """What was added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                added = file.read()
        except FileNotFoundError:
            return
        self._place += len(added)
        *whole, self._rest = (self._rest + added).split(b"\n")
        for line in whole:
            yield json.loads(line)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
