"""The fed server's registry: who may take part, what each holds, and what was measured for the records of the run.

registry.json   clients: name -> modalities, numbers of samples, public key, whether it was revoked;   ledger;   notes
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from m2fedsa.deploy.drawing import read_json
from m2fedsa.deploy.places import REGISTRY
from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError
from m2fedsa.messages import ClientInfo
from m2fedsa.reporting.records import LedgerEntry


@dataclass(frozen=True)
class Member:
    """A client as the fed server knows it."""

    info: ClientInfo
    key: str
    """its public key in OpenSSH's form"""
    revoked: bool = False


@dataclass(frozen=True)
class Registry:
    """Everybody, and the figures of the ledger."""

    members: Mapping[str, Member]
    ledger: Mapping[str, LedgerEntry]
    notes: tuple[str, ...] = ()

    def clients(self) -> list[ClientInfo]:
        """Those that may take part, sorted by name; one that was revoked stays in the records and gets no task."""
        return [self.members[name].info for name in sorted(self.members)]

    def admitted(self) -> dict[str, str]:
        """name -> public key, of those that were not revoked."""
        return {name: one.key for name, one in self.members.items() if not one.revoked}

    def revoking(self, name: str) -> "Registry":
        """The same, without trust in one client."""
        return replace(self, members={**self.members, name: replace(self.members[name], revoked=True)})

    def write(self, folder: Path) -> None:
        """`registry.json`."""
        clients = {
            name: {**{key: value for key, value in asdict(one.info).items() if key != "name"}, "key": one.key, "revoked": one.revoked}
            for name, one in self.members.items()
        }
        values = {"clients": clients, "ledger": self.ledger, "notes": self.notes}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REGISTRY, json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> "Registry":
        """What `write` wrote. `RunDirectoryError` if it is missing or was altered."""
        values = read_json(folder / REGISTRY)
        try:
            members = {name: _member(name, dict(one)) for name, one in values["clients"].items()}
            return cls(members, cast(Mapping[str, LedgerEntry], values["ledger"]), tuple(values["notes"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(f"{folder / REGISTRY}: was altered ({error}). Restore it from a copy.") from error


def _member(name: str, values: dict[str, Any]) -> Member:
    key, revoked = values.pop("key"), values.pop("revoked")
    return Member(ClientInfo(name, tuple(values.pop("modalities")), **values), key, revoked)
