"""Those to whom the round loop speaks, wherever they run: in one process (`assembly.Parties`) or each on a machine of its own."""

from pathlib import Path
from typing import Protocol

from m2fedsa.blueprint import Blueprint
from m2fedsa.coordination.port import Coordination
from m2fedsa.fed_server import FedServer
from m2fedsa.federation.port import Federation
from m2fedsa.reporting.records import Facts, LedgerEntry


class Company(Protocol):
    """A fed server with its ways to the clients and to the main server, and what is known of them for the records."""

    @property
    def blueprint(self) -> Blueprint:
        """What every party knows."""

    @property
    def fed_server(self) -> FedServer:
        """It plans rounds and averages."""

    @property
    def federation(self) -> Federation:
        """The clients."""

    @property
    def coordination(self) -> Coordination:
        """The main server."""

    @property
    def attempts(self) -> int:
        """How often a round is begun before the run stops for it; 1 where a second one would be the first again."""

    def go_on(self, directory: Path, /) -> str:
        """How a person goes on with a run that has stopped, in a sentence."""

    def facts(self) -> Facts:
        """Who takes part and holds what: `clients.json`."""

    def ledger(self) -> dict[str, LedgerEntry]:
        """What each side stores, computes and sends, measured on the real modules."""

    def keep_in(self, checkpoint: Path) -> None:
        """Let each party of this process keep its part of the checkpoints in a directory of its own; the others have one already."""
