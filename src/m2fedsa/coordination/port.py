"""The port from the fed server to the main server: a round commits on both or on neither.

`begin` opens a round, `end` prepares it (the main server averages and writes, but still serves the old tensors to everyone who does not
ask for the new ones by round), the fed server then writes the manifest that names both parts, and `commit` makes it final. Whatever dies
in between, the manifest decides: `restore` brings the main server to the round that it names. Every call is harmless when repeated.
"""

from collections.abc import Mapping
from typing import Protocol

from m2fedsa.messages import Acceptance, Averaged, RoundPlan


class Coordination(Protocol):
    """The main server, seen from the fed server."""

    def begin(self, plan: RoundPlan) -> None:
        """Open the round: copies for the clients of its roster and for no one else. Aborts a round that was begun and not committed."""

    def end(self, acceptance: Acceptance) -> Averaged:
        """Average exactly the copies of the accepted clients, each tensor by its samples; the result stands ready, not yet in force.
        `ProtocolError` for another round than the one begun; `UnfinishedError` with the names of accepted clients whose sessions did not
        close in order, after which the round can end without them."""

    def commit(self, round_number: int) -> None:
        """Put the prepared tensors in force and forget the older ones. `ProtocolError` if that round was not prepared."""

    def abort(self, round_number: int) -> None:
        """Forget the round's copies and what was prepared."""

    def fingerprints(self) -> Mapping[str, list[object]]:
        """Prints of the tensors in force (see `state.fingerprints`)."""

    def restore(self, round_number: int, file: str | None) -> None:
        """Take the checkpoint of this round, written with this digest; None: the tensors of the seed. `RunDirectoryError` if it
        is missing or was altered."""
