"""Who is let in to the main server, what a client may ask of it, and who counts what happens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from m2fedsa.config import Width
from m2fedsa.errors import RefusedError
from m2fedsa.identity import Token
from m2fedsa.links.frames import FRAME, MESSAGE


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server, and how it is spoken to."""

    frame: int = FRAME
    """largest body of a frame, bytes"""
    message: int = MESSAGE
    """largest message, bytes"""
    up: Width = "float32"
    down: Width = "float32"
    silence: float = 300.0
    """seconds without a frame in either direction after which a stream is ended"""
    sessions: int = 256
    """streams at once"""
    per_client: int = 4
    """streams of one client at once"""
    opening: float = 10.0
    """seconds from the beginning of a call until its stream has to be let in"""
    unopened: int = 4
    """calls that one key may have at once beyond those streams: they have not been let in, or are being refused"""
    heartbeat: float = 5.0
    """seconds after which a client that waits is told that the server is alive"""


class Meter(Protocol):
    """Who counts what happens; called from many threads."""

    def opened(self, kind: str) -> None:
        """A stream was opened, to `train` or to `evaluate`."""

    def ended(self, kind: str, how: str) -> None:
        """It has ended: `in order`, `lost`, `silent`, or by the class of an error."""

    def refused(self, why: str) -> None:
        """Something was refused, by the class of the error; `silent`: a call that did not say in time who it is."""

    def moved(self, direction: str, number: int) -> None:
        """So many bytes went `up` or `down`."""

    def computed(self, what: str, samples: int, seconds: float) -> None:
        """A `forward`, `backward` or `evaluation` was computed, so many seconds after it had come."""


class NoMeter:
    """Counts nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@dataclass
class Gate:
    """Who is let in: a client with this run's token, bound to the key of its certificate, that was not revoked."""

    run: str
    fed_server: Any
    """public key of the fed server"""
    revoked: Any = field(default_factory=frozenset)
    """fingerprints of keys, asked with `in` at every message"""

    def enter(self, key: str | None, name: str) -> None:
        """Whether a call is heard at all, before it has said anything; `name`: on its certificate. `RefusedError` if not."""
        if key is None:
            raise RefusedError("a call came without a certificate.")
        self.check(key, name)

    def admit(self, token: str | None, key: str | None, client: str) -> Token:
        """The token that lets the client in. `RefusedError` if there is none."""
        if key is None:
            raise RefusedError(f"client {client} came without a certificate.")
        self.check(key, client)
        if token is None:
            raise RefusedError(f"client {client} came without a token.")
        found = Token.verified(token, self.fed_server)
        found.check(self.run, client, key)
        return found

    def check(self, key: str, client: str) -> None:
        """`RefusedError` if the key was revoked."""
        if key in self.revoked:
            raise RefusedError(f"the key of client {client} was revoked.")
