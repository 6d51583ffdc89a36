"""Who is who: one EC P-384 key per party, certificates by the deployment's own authority, and tokens that let a client into a round.

A client proves with its key that it is itself (mTLS), and with a token that it was chosen: the fed server signs run, client, round, expiry
and the SHA-256 of the client's public key. So a token is worth nothing to whoever does not hold that key, and a key without a token opens
nothing.
"""

import base64
import hashlib
import ipaddress
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as PrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from m2fedsa.durable import write_atomically
from m2fedsa.errors import IdentityError, RefusedError

Purpose = Literal["train", "evaluate", "predict"]
Role = Literal["authority", "fed server", "main server", "client"]
_SLACK = timedelta(minutes=10)
"""Certificates count from so long before they were made: clocks differ."""
_SIGNED = ec.ECDSA(hashes.SHA384())


# --- keys and certificates ----------------------------------------------------------------------------------------------------------


def new_key() -> PrivateKey:
    """A key on the curve P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def write_key(path: Path, key: PrivateKey, *, openssh: bool = False) -> None:
    """Write a private key, readable by its owner alone (0600): PKCS8 for TLS, or the form of OpenSSH, which Flower reads.

    `IdentityError` if the file is there already: a key is never overwritten.
    """
    form = serialization.PrivateFormat.OpenSSH if openssh else serialization.PrivateFormat.PKCS8
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IdentityError(f"{path}: is there already, and keys are not overwritten. Remove it, or choose another folder.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        file.flush()
        os.fsync(file.fileno())


def read_key(path: Path) -> PrivateKey:
    """A private key in either form. `IdentityError` if it is missing, no key on P-384, or open to others than its owner."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror or error}. Copy this party's own key there.") from error
    if mode & 0o077:
        raise IdentityError(f"{path}: others than its owner may read it (mode {mode & 0o777:04o}). Run: chmod 600 {path}")
    ssh = content.startswith(b"-----BEGIN OPENSSH")
    load: Any = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{path}: is no private key ({type(error).__name__}). Copy this party's own key there.") from None
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError(f"{path}: is a key of another kind; one on the curve P-384 is needed.")
    return key


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo in DER), in hex."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def new_authority(key: PrivateKey, run: str, days: int = 3650) -> x509.Certificate:
    """The certificate of a deployment's authority, signed by itself."""
    name = _name(f"m2fedsa {run}", "authority")
    builder = _builder(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA384())


def certify(
    authority: tuple[PrivateKey, x509.Certificate], key: PublicKey, name: str, role: Role, hosts: Sequence[str] = (), days: int = 825
) -> x509.Certificate:
    """A certificate for a party. `hosts`: names and addresses under which others reach it; a client has none, because it dials out."""
    builder = _builder(_name(name, role), authority[1].subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return builder.sign(authority[0], hashes.SHA384())


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM; it is no secret."""
    write_atomically(path, pem(certificate))


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate from PEM. `IdentityError` if it is missing, none, or no longer valid."""
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror or error}. Copy the certificate there.") from error
    except ValueError as error:
        raise IdentityError(f"{path}: is no certificate ({error}). Copy the certificate there.") from error
    now = datetime.now(UTC)
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        raise IdentityError(
            f"{path}: is valid from {found.not_valid_before_utc:%Y-%m-%d %H:%M} to {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and now "
            f"it is {now:%Y-%m-%d %H:%M}. Make a new one, or set the clock."
        )
    return found


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def public_key(certificate: x509.Certificate) -> PublicKey:
    """The key that a certificate is for. `IdentityError` if it is of another kind."""
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise IdentityError("a certificate is for a key of another kind; one on the curve P-384 is needed.")
    return key


def _builder(subject: x509.Name, issuer: x509.Name, key: PublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _SLACK).not_valid_after(now + timedelta(days=days))


def _name(name: str, role: Role) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True)
class Identity:
    """A party's own key and certificate, and the authority by which it knows the others."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    authority: x509.Certificate

    @classmethod
    def read(cls, key: Path, certificate: Path, authority: Path) -> "Identity":
        """From files. `IdentityError` if one cannot be used, or if they do not belong together."""
        own, named, known = read_key(key), read_certificate(certificate), read_certificate(authority)
        if fingerprint(public_key(named)) != fingerprint(own.public_key()):
            raise IdentityError(f"{certificate}: is the certificate of another key than {key}. Copy both from the same party's folder.")
        try:
            named.verify_directly_issued_by(known)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise IdentityError(f"{certificate}: was not issued by {authority}. Copy both from the same deployment.") from error
        return cls(own, named, known)

    @property
    def key_pem(self) -> bytes:
        """The private key as TLS wants it."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    @property
    def name(self) -> str:
        """The party's name in its certificate."""
        (found,) = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(found.value)


def read_openssh(text: str) -> PublicKey:
    """A public key in OpenSSH's form. `IdentityError` if it is none of an elliptic curve, as all of a deployment are."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{text[:40]!r} is no public key in OpenSSH's form ({error}).") from error
    if not isinstance(key, PublicKey):
        raise IdentityError(f"{text[:40]!r} is no public key of an elliptic curve. Copy the one that `m2fedsa deploy init` made.")
    return key


# --- tokens -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    """What the fed server allows one client: to train in a round, to evaluate after one, or to predict.

    `train` in round n also evaluates after n - 1, where teachers are made; `predict` evaluates what is in force, whatever its round.
    """

    run: str
    client: str
    purpose: Purpose
    round: int
    expires: float
    """seconds since 1970"""
    key: str
    """fingerprint of the client's public key"""

    def signed(self, key: PrivateKey) -> str:
        """The token as it travels: its values and the fed server's signature."""
        claims = json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()
        return f"{_coded(claims)}.{_coded(key.sign(claims, _SIGNED))}"

    @classmethod
    def verified(cls, text: str, fed_server: PublicKey) -> "Token":
        """The token in a text. `RefusedError` unless the fed server signed exactly this."""
        try:
            claims, signature = (base64.urlsafe_b64decode(part.encode() + b"=" * (-len(part) % 4)) for part in text.split("."))
            fed_server.verify(signature, claims, _SIGNED)
            return cls(**json.loads(claims))
        except (ValueError, TypeError, InvalidSignature):
            raise RefusedError("the token is not one that this run's fed server signed.") from None

    def check(self, run: str, client: str, key: str, now: float | None = None) -> None:
        """`RefusedError` unless it is this run's, this client's, bound to this key, and not expired."""
        if self.run != run:
            raise RefusedError(f"the token is for the run {self.run}, but this is {run}.")
        if self.client != client:
            raise RefusedError(f"client {client} came with the token of client {self.client}.")
        if self.key != key:
            raise RefusedError(f"the token of client {client} is bound to another key than the one that it came with.")
        late = (time.time() if now is None else now) - self.expires
        if late > 0:
            raise RefusedError(f"the token of client {client} expired {late:.0f} seconds ago. Are the clocks of both servers right?")

    def check_round(self, round_number: int) -> None:
        """`RefusedError` unless it lets the client train in this round."""
        if self.purpose != "train" or self.round != round_number:
            what = f"to {self.purpose}" + ("" if self.purpose == "predict" else f", round {self.round}")
            raise RefusedError(f"the token of client {self.client} is {what}; it opens no session of round {round_number}.")

    def check_evaluation(self, at: int) -> None:
        """`RefusedError` unless it lets the client evaluate the tensors after this round."""
        allowed = {"train": self.round - 1, "evaluate": self.round, "predict": at}[self.purpose]
        if at != allowed:
            raise RefusedError(f"the token of client {self.client} is for the tensors after round {allowed}, not after round {at}.")


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


# --- revocation ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Revoked:
    """The keys that are let in no more: a file that is looked at again whenever it has changed."""

    path: Path
    _seen: tuple[int, int] | None = field(default=None, init=False)
    _keys: dict[str, str] = field(default_factory=dict, init=False)

    def add(self, key: str, client: str) -> None:
        """Let the key with this fingerprint in no more, from now on and for good."""
        self._refresh()
        write_atomically(self.path, json.dumps({**self._keys, key: client}, indent=1).encode())

    def __contains__(self, key: object) -> bool:
        self._refresh()
        return key in self._keys

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            try:
                self._keys = {str(key): str(client) for key, client in json.loads(self.path.read_text()).items()}
            except (OSError, ValueError, AttributeError) as error:
                raise IdentityError(f"{self.path}: cannot be read ({error}), so nobody is let in. Restore it from a copy.") from error
            self._seen = seen
