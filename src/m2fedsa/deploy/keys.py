"""Which keys and certificates lie in whose folder, handed out by the deployment's authority (see `identity.py`).

authority/              ca.key   ca.pem
fed-server/keys/        fed-server.key, .pem (signs tokens, speaks to the main server)   superlink.key, .pem   ca.pem
main-server/keys/       main-server.key, .pem   fed-server.pem   ca.pem   revoked.json
clients/<name>/keys/    client.key, .pem   supernode.key (the same key in OpenSSH's form)   ca.pem
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2fedsa.deploy.places import KEYS
from m2fedsa.deploy.programs import Deployment
from m2fedsa.identity import Identity, certify, new_authority, new_key, read_key, write_certificate, write_key

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as PrivateKey

    from m2fedsa.identity import Role

CA, CA_KEY, REVOKED = "ca.pem", "ca.key", "revoked.json"
SUPERLINK, SUPERNODE_KEY = "superlink", "supernode.key"
FED_SERVER_KEYS, MAIN_SERVER_KEYS, CLIENT_KEYS = "fed-server", "main-server", "client"
_HERE = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Authority:
    """Whoever set the deployment up: its certificate vouches for all others."""

    key: "PrivateKey"
    certificate: "x509.Certificate"

    @classmethod
    def new(cls, folder: Path, run: str) -> "Authority":
        """A new one; its key stays in `folder`."""
        folder.mkdir(parents=True, mode=0o700)
        key = new_key()
        certificate = new_authority(key, run)
        write_key(folder / CA_KEY, key)
        write_certificate(folder / CA, certificate)
        return cls(key, certificate)

    def client(self, folder: Path, name: str) -> str:
        """Keys and certificate of a client, in its folder; its public key in OpenSSH's form."""
        key = self._pair(folder, CLIENT_KEYS, name, "client")
        write_key(folder / KEYS / SUPERNODE_KEY, key, openssh=True)
        return openssh(key)

    def servers(self, fed_server: Path, main_server: Path, deployment: Deployment) -> None:
        """Keys and certificates of both servers, in their folders."""
        self._pair(fed_server, FED_SERVER_KEYS, "fed-server", "fed server")
        self._pair(fed_server, SUPERLINK, SUPERLINK, "fed server", (deployment.superlink.host, *_HERE))
        self._pair(main_server, MAIN_SERVER_KEYS, "main-server", "main server", (deployment.main_server.host, *_HERE))
        fed = (fed_server / KEYS / f"{FED_SERVER_KEYS}.pem").read_bytes()
        (main_server / KEYS / f"{FED_SERVER_KEYS}.pem").write_bytes(fed)

    def _pair(self, folder: Path, file: str, name: str, role: "Role", hosts: Sequence[str] = ()) -> "PrivateKey":
        keys = folder / KEYS
        keys.mkdir(parents=True, mode=0o700, exist_ok=True)
        key = new_key()
        certificate = certify((self.key, self.certificate), key.public_key(), name, role, tuple(dict.fromkeys(hosts)))
        write_key(keys / f"{file}.key", key)
        write_certificate(keys / f"{file}.pem", certificate)
        write_certificate(keys / CA, self.certificate)
        return key


def identity_of(folder: Path, file: str) -> Identity:
    """The identity of a party in its folder. `IdentityError` if a file is missing, open to others, or of another deployment."""
    keys = folder / KEYS
    return Identity.read(keys / f"{file}.key", keys / f"{file}.pem", keys / CA)


def openssh(key: "PrivateKey") -> str:
    """The public key in OpenSSH's form, by which Flower knows a node."""
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def check_keys(folder: Path) -> None:
    """`IdentityError` for a key in the folder that is none, or that others than its owner can read."""
    for path in sorted((folder / KEYS).glob("*.key")):
        read_key(path)
