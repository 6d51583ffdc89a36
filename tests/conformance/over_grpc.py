"""All parties of a conformance test, with gRPC and mTLS between clients, main server and fed server."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import worlds

from m2fedsa import identity
from m2fedsa.client import Client
from m2fedsa.config import Config
from m2fedsa.coordination.grpc_client import GrpcCoordination
from m2fedsa.coordination.grpc_server import CoordinationServer, Steward
from m2fedsa.data.samples import FederatedData
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.identity import Identity, Token
from m2fedsa.links.admission import Gate, Limits
from m2fedsa.links.grpc_client import GrpcLink, GrpcSession
from m2fedsa.links.grpc_server import LinkServer
from m2fedsa.links.worker import Worker
from m2fedsa.messages import EvaluationReply, EvaluationRequest

RUN = "conformance"
HERE = ("localhost", "127.0.0.1")


@functools.cache
def authority() -> tuple[identity.PrivateKey, identity.x509.Certificate]:
    key = identity.new_key()
    return key, identity.new_authority(key, RUN)


@functools.cache
def party(name: str, role: identity.Role = "client", hosts: tuple[str, ...] = ()) -> Identity:
    """A party with a key of its own; the same one each time."""
    key = identity.new_key()
    return Identity(key, identity.certify(authority(), key.public_key(), name, role, hosts), authority()[1])


FED, MAIN = "fed server", "main server"


def token(client: str, purpose: identity.Purpose, round_number: int, **changes: object) -> str:
    """What the fed server gives a client."""
    claims = {
        "run": RUN, "client": client, "purpose": purpose, "round": round_number, "expires": time.time() + 60,
        "key": identity.fingerprint(party(client).key.public_key()),
    }  # fmt: skip
    return Token(**{**claims, **changes}).signed(party(FED, FED, HERE).key)


@dataclass
class Links:
    """Every client's own link, in one process; each is given a token for what it is about to do."""

    address: str
    _links: dict[str, GrpcLink] = field(default_factory=dict)

    def of(self, client: str) -> GrpcLink:
        if client not in self._links:
            self._links[client] = GrpcLink(self.address, party(client), patience=5.0)
        return self._links[client]

    def session(self, client: str, round_number: int) -> GrpcSession:
        link = self.of(client)
        link.token = token(client, "train", round_number)
        return link.session(client, round_number)

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        link = self.of(client)
        link.token = token(client, "evaluate", request.at)
        return link.evaluate(client, request)

    def close(self) -> None:
        for link in self._links.values():
            link.close()


@contextmanager
def served(config: Config, data: FederatedData, folder: Path) -> Iterator[tuple[worlds.Parties, Links, GrpcCoordination]]:
    """A main server behind gRPC, links to it, and the fed server's coordination."""
    who = worlds.parties(config, data)
    who.keep_in(folder)
    worker = Worker(1)
    limits = Limits(up=config.wire.up, down=config.wire.down)
    server = LinkServer(who.coordination, worker, Gate(RUN, party(FED, FED, HERE).key.public_key()), limits)
    coordination = CoordinationServer(who.coordination, worker, Steward(RUN, identity.fingerprint(party(FED, FED, HERE).key.public_key())))
    links = Links(f"localhost:{server.start('127.0.0.1:0', party(MAIN, MAIN, HERE))}")
    address = f"localhost:{coordination.start('127.0.0.1:0', party(MAIN, MAIN, HERE))}"
    try:
        with GrpcCoordination(address, party(FED, FED, HERE), RUN, patience=5.0) as fed:
            yield who, links, fed
    finally:
        links.close()
        coordination.stop()
        server.stop()
        worker.close()


def federation(who: worlds.Parties, links: Links) -> InProcessFederation:
    """The same clients, with links over the network."""
    return InProcessFederation([Client(name, one, who.shared, links) for name, one in who.data.clients.items()])
