"""`m2fedsa deploy revoke`: from now on nobody is let in with this client's key, at neither server."""

from dataclasses import dataclass
from pathlib import Path

from m2fedsa.deploy.keys import CA, REVOKED
from m2fedsa.deploy.links import coordination_of, fingerprint_of
from m2fedsa.deploy.places import FED_SERVER, FED_SERVER_TOML, KEYS, MAIN_SERVER, MAIN_SERVER_TOML, REGISTRY
from m2fedsa.deploy.programs import FedServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.errors import ConfigError, LinkError
from m2fedsa.identity import Revoked

_PATIENCE = 3.0
"""Seconds for a server that may not be running."""


@dataclass(frozen=True)
class Revocation:
    """Where the client is let in no more."""

    done: tuple[str, ...]
    open: tuple[str, ...]
    """what is left to do, where a server could not be reached"""


def revoke(directory: Path, client: str) -> Revocation:
    """Revoke a client, in the directory of a deployment or in the fed server's folder. `ConfigError` if there is no such client."""
    folder = directory if (directory / REGISTRY).exists() else directory / FED_SERVER
    program, registry = read_program(folder / FED_SERVER_TOML, FedServerProgram), Registry.read(folder)
    if client not in registry.members:
        raise ConfigError(f"{client}: no client has this name. There are {', '.join(sorted(registry.members))}.")
    revoked = registry.revoking(client)
    revoked.write(folder)
    done, left = ["fed server: gives it no task and signs it no token, from its next start on"], []
    key = fingerprint_of(registry.members[client].key)
    beside = folder.parent / MAIN_SERVER
    if (beside / MAIN_SERVER_TOML).exists():
        Revoked(beside / KEYS / REVOKED).add(key, client)
        done.append("main server: refuses its key, from its next message on")
    else:
        try:
            coordination_of(folder, program.model_copy(update={"patience": _PATIENCE})).revoke(key, client)
            done.append("main server: refuses its key, from its next message on")
        except LinkError as error:
            left.append(f"main server: {error} Run this again when it is reached.")
    try:
        _unregister(folder, program, revoked)
        done[0] = "fed server: the SuperLink has cut it off; it gets no task and no token"
    except Exception as error:
        # Flower's client has no common root for what it raises where no SuperLink runs.
        left.append(f"SuperLink: not running on this machine ({type(error).__name__}); it lets the key in no more from its next start on")
    return Revocation(tuple(done), tuple(left))


def _unregister(folder: Path, program: FedServerProgram, registry: Registry) -> None:
    from m2fedsa.federation.superlink import Control

    control = Control(program.superlink.port, (folder / KEYS / CA).read_bytes())
    try:
        control.register(registry.admitted())
    finally:
        control.close()
