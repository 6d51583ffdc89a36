"""A party's ways to the main server, with the keys of its folder; and the tokens that the fed server hands out."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from m2fedsa.deploy.keys import CLIENT_KEYS, FED_SERVER_KEYS, identity_of
from m2fedsa.deploy.programs import ClientProgram, FedServerProgram
from m2fedsa.deploy.registry import Registry
from m2fedsa.identity import Purpose, Token, fingerprint, read_openssh

if TYPE_CHECKING:
    from m2fedsa.coordination.grpc_client import GrpcCoordination
    from m2fedsa.links.grpc_client import GrpcLink


def link_of(folder: Path, program: ClientProgram) -> "GrpcLink":
    """A client's link. Nothing is dialled before the first task."""
    from m2fedsa.links.grpc_client import GrpcLink

    return GrpcLink(str(program.main_server), identity_of(folder, CLIENT_KEYS), silence=program.silence)


def coordination_of(folder: Path, program: FedServerProgram) -> "GrpcCoordination":
    """The fed server's coordination with the main server."""
    from m2fedsa.coordination.grpc_client import GrpcCoordination

    return GrpcCoordination(str(program.coordination), identity_of(folder, FED_SERVER_KEYS), program.run, patience=program.patience)


def issuer_of(folder: Path, program: FedServerProgram, registry: Registry) -> Callable[[str, Purpose, int], str]:
    """Signs tokens: client, purpose and round -> the token, bound to the client's key."""
    signer = identity_of(folder, FED_SERVER_KEYS).key
    keys = {name: fingerprint_of(one.key) for name, one in registry.members.items()}

    def issue(client: str, purpose: Purpose, at: int) -> str:
        hours = 24 * program.predict_days if purpose == "predict" else program.token_hours
        return Token(program.run, client, purpose, at, time.time() + 3600 * hours, keys[client]).signed(signer)

    return issue


def fingerprint_of(openssh: str) -> str:
    """Fingerprint of a public key in OpenSSH's form."""
    return fingerprint(read_openssh(openssh))
