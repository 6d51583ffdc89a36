"""The fed server alone: assembled from its own folder, with clients behind Flower and the main server behind its coordination.

Flower starts this in a process of its own (`server_app.py`). What happens is told in the journal, from which others make a view.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from m2fedsa.blueprint import Blueprint
from m2fedsa.coordination.port import Coordination
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.links import coordination_of, issuer_of
from m2fedsa.deploy.places import FED_SERVER_TOML, LOG, STATE
from m2fedsa.deploy.programs import FedServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.durable import write_atomically
from m2fedsa.errors import M2FedSAError
from m2fedsa.fed_server import FedServer
from m2fedsa.federation.flower import FlowerFederation
from m2fedsa.federation.superlink import public_key_bytes
from m2fedsa.messages import KeepTask
from m2fedsa.reporting.records import Facts, LedgerEntry, ResultRecord, RoundRecord, WarmStartRecord
from m2fedsa.reporting.run_directory import RunDirectory
from m2fedsa.running import conduct

if TYPE_CHECKING:
    from flwr.serverapp import Grid

OUTCOME = "outcome.json"
"""How the run ended, in the fed server's state; missing while it goes on and after a crash."""


@dataclass(frozen=True)
class Headquarters:
    """See `parties.Company`."""

    blueprint: Blueprint
    classes: tuple[str, ...]
    registry: Registry
    fed_server: FedServer
    federation: FlowerFederation
    coordination: Coordination
    attempts: int

    def go_on(self, _directory: Path, /) -> str:
        """See `parties.Company`."""
        return "The command that began it goes on with it."

    def facts(self) -> Facts:
        """See `parties.Company`. Without samples per class, which no client tells."""
        told = {
            one.name: {
                "modalities": list(one.modalities),
                "train": one.train,
                "labelled": one.labelled,
                "validation": one.validation,
                "test": one.test,
            }
            for one in self.registry.clients()
        }
        facts: dict[str, Any] = {"modalities": list(self.blueprint.modalities), "classes": list(self.classes), "clients": told}
        return cast(Facts, {**facts, "notes": list(self.registry.notes)} if self.registry.notes else facts)

    def ledger(self) -> dict[str, LedgerEntry]:
        """See `parties.Company`."""
        return dict(self.registry.ledger)

    def keep_in(self, checkpoint: Path) -> None:
        """See `parties.Company`. The others keep their parts in folders of their own."""


@dataclass(frozen=True)
class Told:
    """Progress as lines of the journal; see `reporting.progress.Progress`."""

    journal: Journal

    def started(self, facts: Facts, after: int = 0) -> None:
        """See `Progress`."""
        self.journal.note("started", facts=facts, after=after)

    def warm_started(self, record: WarmStartRecord) -> None:
        """See `Progress`."""
        self.journal.note("warm_started", record=record)

    def client_done(self, done: int, total: int, task: str = "training") -> None:
        """See `Progress`."""
        self.journal.note("client_done", done=done, total=total, task=task)

    def round_done(self, record: RoundRecord) -> None:
        """See `Progress`."""
        self.journal.round = record["round"]
        self.journal.note("round_done", record=record)

    def finished(self, result: ResultRecord, directory: Path | None = None) -> None:
        """See `Progress`."""
        self.journal.note("finished", digest=result["digest"], directory=str(directory))


def lead(grid: "Grid", folder: Path) -> None:
    """Run, or go on, from the fed server's folder; how it ended stands in `state/outcome.json`."""
    program = read_program(folder / FED_SERVER_TOML, FedServerProgram)
    journal = Journal(folder / STATE / LOG, "fed-server", program.run)
    try:
        result = _conduct(grid, folder, program, journal)
    except M2FedSAError as error:
        journal.note("stopped", level="error", kind=type(error).__name__, reason=str(error))
        _put(folder, {"status": "failed", "kind": type(error).__name__, "message": str(error)})
        raise
    _put(folder, {"status": "done", "digest": result})


def _conduct(grid: "Grid", folder: Path, program: FedServerProgram, journal: Journal) -> str:
    drawing, registry = Drawing.read(folder), Registry.read(folder)
    out = folder / program.out
    begun = (out / "config.toml").exists()
    config = drawing.blueprint.config
    directory = RunDirectory.resume(out, config) if begun else RunDirectory.create(config, out)
    company: list[Headquarters] = []

    def gather() -> Headquarters:
        keys = {public_key_bytes(key): name for name, key in registry.admitted().items()}
        issue = issuer_of(folder, program, registry)
        waits = program.wait_for_clients, program.wait_for_return, 3600 * program.answer_hours
        federation = FlowerFederation(grid, registry.clients(), keys, program.run, issue, *waits)
        _await(federation, list(keys.values()), program.wait_for_clients, journal)
        fed_server = FedServer(drawing.blueprint, federation.clients())
        coordination = coordination_of(folder, program)
        company.append(Headquarters(drawing.blueprint, drawing.classes, registry, fed_server, federation, coordination, program.attempts))
        return company[0]

    result = conduct(directory, config, gather, Told(journal), resume=begun)
    _hand_over(company[0], journal)
    return result.digest


def _hand_over(company: Headquarters, journal: Journal) -> None:
    """Give every client what it predicts with. One that is away gets it when `m2fedsa fed-server` is started once more."""
    server = company.fed_server
    missing = company.federation.hand_over([KeepTask(name, server.view(name)) for name in server.clients])
    for name, reason in sorted(missing.items()):
        journal.note("not_handed_over", level="warning", client=name, reason=reason)
    journal.note("handed_over", clients=len(server.clients) - len(missing))


def _await(
    federation: FlowerFederation, clients: Sequence[str], patience: float, journal: Journal, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until all of these clients are connected, or for so many seconds."""
    until, there = time.monotonic() + patience, -1
    while True:
        found = len(federation.present(clients, 0))
        if found != there:
            journal.note("connected", clients=found, registered=len(clients))
            there = found
        if found >= len(clients) or time.monotonic() > until:
            return
        sleep(0.5)


def _put(folder: Path, outcome: dict[str, str]) -> None:
    write_atomically(folder / STATE / OUTCOME, json.dumps(outcome, ensure_ascii=False).encode())
