"""What is said on a stream beside the messages of a step: how it opens, closes, refuses and keeps its peer waiting.

    client                                  main server
    Open(version, round or none)       ->
                                       <-   Greeting(session, sizes, widths), or Refusal
    Activations                        ->
                                       <-   Waiting, as often as it takes, then Features, or Refusal
    Gradients                          ->
                                       <-   ... ActivationGradients, or Refusal
    Close                              ->
                                       <-   Closed

`Open` has to come soon, and to be short; a key that was revoked, or has too many calls, is refused before it. A stream that opens without a
round evaluates: EvaluationRequest, answered by EvaluationReply. After a refusal that is `final` the stream ends; after another it goes on.
`Describe` is a call of its own: nothing up, a Description down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from m2fedsa import errors
from m2fedsa.config import Width
from m2fedsa.errors import M2FedSAError, ProtocolError, RunError

SERVICE, STREAM, DESCRIBE = "m2fedsa.Link", "Stream", "Describe"
TOKEN = "m2fedsa-token"
"""The metadata in which a token travels."""
LONGEST = 200
"""Characters of a name or a version in `Open`."""


@dataclass(frozen=True)
class Open:
    """First message of a client."""

    version: str
    """of its package"""
    client: str
    round: int | None
    """whose session is wanted; None to evaluate"""

    def check(self) -> None:
        """`ProtocolError` if a text is longer than a name can be: it would stand in the logs."""
        for field, text in (("client", self.client), ("version", self.version)):
            if len(text) > LONGEST:
                raise ProtocolError(f"Open: `{field}` has {len(text)} characters; at most {LONGEST} are taken.")


@dataclass(frozen=True)
class Greeting:
    """First answer of the server: the stream is open, and how it is to be spoken on."""

    session: int
    frame: int
    """largest body of a frame, bytes"""
    message: int
    """largest message, bytes"""
    up: Width
    down: Width


@dataclass(frozen=True)
class Waiting:
    """The server is alive, and has not come to it yet."""

    before: int
    """jobs that wait before it"""


@dataclass(frozen=True)
class Refusal:
    """An error of the server, to be raised by the client as the same class with the same text."""

    kind: str
    text: str
    final: bool
    """whether the stream ends with it"""

    @classmethod
    def of(cls, error: BaseException, *, final: bool) -> "Refusal":
        """Errors of the tree by their name; of others the name alone, because their text may tell what is nobody's business."""
        if isinstance(error, M2FedSAError):
            return cls(type(error).__name__, str(error), final)
        return cls(RunError.__name__, f"the server failed ({type(error).__name__}); its log says where.", True)

    def throw(self) -> NoReturn:
        """Raise it."""
        kind = getattr(errors, self.kind, RunError)
        raise (kind if isinstance(kind, type) and issubclass(kind, M2FedSAError) else RunError)(self.text)


@dataclass(frozen=True)
class Close:
    """The client is done."""

    in_order: bool


@dataclass(frozen=True)
class Closed:
    """Last answer: the session has ended as it was asked to."""


@dataclass(frozen=True)
class Description:
    """The main server as it is: for checks, and for whoever wants to predict with what is in force."""

    version: str
    process: str
    """drawn when the main server starts"""
    run: str
    round: int
    """in force"""
    begun: int | None
    """the round that is open"""
    prepared: int | None
    """the round that has ended and waits for its commit"""
    draining: bool
    now: float
    """its clock, seconds since 1970"""
    slices: Mapping[str, str]
    """modality -> digest of the encoder that its tail was cut from"""
