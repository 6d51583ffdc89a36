"""What fed server and main server say to each other over a network.

Each call carries the number of the fed server's process and a count of its calls. The same call again is answered as before and not done
twice; an older one, which a slow network delivers late, or one of a process that another has taken the place of, is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from m2fedsa.errors import UnfinishedError
from m2fedsa.messages import Acceptance, RoundPlan

SERVICE = "m2fedsa.Coordination"
METHODS = ("Begin", "End", "Commit", "Abort", "Fingerprints", "Restore", "Revoke", "Describe")


@dataclass(frozen=True)
class Call:
    """A request: which process of the fed server asks, for the how-manieth time, and what about."""

    run: str
    process: str
    """drawn when the fed server starts"""
    number: int
    round: int | None = None
    plan: RoundPlan | None = None
    acceptance: Acceptance | None = None
    file: str | None = None
    """SHA-256 of a checkpoint; of a key to revoke: its fingerprint"""
    client: str | None = None


@dataclass(frozen=True)
class Done:
    """There is nothing more to say."""


@dataclass(frozen=True)
class Unfinished:
    """A round cannot end: sessions of accepted clients did not close in order."""

    text: str
    clients: tuple[str, ...]

    def throw(self) -> NoReturn:
        """Raise it."""
        raise UnfinishedError(self.text, self.clients)


@dataclass(frozen=True)
class Prints:
    """See `state.fingerprints`."""

    tensors: Mapping[str, list[object]]
