"""Between a Flower ClientApp, which lives for one message, and the resident client beside it: a Unix socket in the client's own folder.

The ClientApp hands in an envelope and a task; the client says that it is alive as often as it gets on, then gives its answer. Each frame
is a kind, a length and bytes. Free of torch and of Flower: a ClientApp that only passes on starts in no time.
"""

import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2fedsa.errors import ProtocolError

ENVELOPE, TASK, ALIVE, RESULT, FAILURE = b"E", b"T", b"A", b"R", b"F"
FORMAT = 1
"""Of envelopes and tasks. A client that speaks another one refuses the task and says so."""
LARGEST = 1 << 31
"""Bytes of a frame."""
_HEADER = struct.Struct("<cQ")


@dataclass(frozen=True)
class Envelope:
    """What stands on a task besides its content."""

    run: str
    client: str
    kind: str
    """the class of the task"""
    round: int
    token: str
    """what the main server lets the client in on"""
    local: tuple[int, str] | None
    """which of the client's local tensors count: of this round, with this SHA-256; None: none"""
    version: str
    """of m2fedsa, at the fed server"""
    format: int = FORMAT

    def to_json(self) -> str:
        """As a text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Envelope":
        """What `to_json` gave. `ProtocolError` for anything else, another format first of all."""
        try:
            values: dict[str, Any] = json.loads(text)
            given = values.get("format")
            if given != FORMAT:
                raise ProtocolError(
                    f"a task of format {given} came from m2fedsa {values.get('version')}; this client speaks format {FORMAT}. "
                    "Install the same version of m2fedsa on both sides."
                )
            values["local"] = tuple(values["local"]) if values["local"] is not None else None
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProtocolError(f"the envelope of a task cannot be read ({error}).") from error


@dataclass(frozen=True)
class Answer:
    """What comes back for a task: a message in bytes, or why there is none."""

    kind: str
    """the class of the result, or of the error"""
    result: bytes | None = None
    message: str = ""


def send(connection: socket.socket, kind: bytes, content: bytes) -> None:
    """Write a frame."""
    connection.sendall(_HEADER.pack(kind, len(content)))
    if content:
        connection.sendall(content)


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read a frame. `ConnectionError` if the other side has left, `ProtocolError` if it sends no frame; `TimeoutError` as the socket's."""
    kind, length = _HEADER.unpack(_exactly(connection, _HEADER.size))
    if kind not in (ENVELOPE, TASK, ALIVE, RESULT, FAILURE) or length > LARGEST:
        raise ProtocolError(f"a frame of kind {kind!r} with {length} bytes has no place on a client's socket.")
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = connection.recv(min(length - len(content), 1 << 20))
        if not part:
            raise ConnectionError("the other side has left")
        content += part
    return bytes(content)


def ask(place: Path, envelope: str, task: bytes, silence: float) -> Answer:
    """Hand a task to the resident client at `place` and wait for its answer, for as long as it gets on: at most `silence` seconds go by
    between two signs of life. Every way in which it can fail is an answer too."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(silence)
    with connection:
        try:
            connection.connect(os.fspath(place))
            send(connection, ENVELOPE, envelope.encode())
            send(connection, TASK, task)
            return _answer(connection)
        except TimeoutError:
            return Answer("Silent", message=f"the client has not got on for {silence:.0f} seconds; it hangs, or is too slow.")
        except (ConnectionError, FileNotFoundError) as error:
            return Answer("Away", message=f"the client's process does not answer at its socket ({error}): `m2fedsa client` is not running.")
        except (OSError, ProtocolError) as error:
            return Answer(type(error).__name__, message=str(error))


def _answer(connection: socket.socket) -> Answer:
    while True:
        kind, content = receive(connection)
        if kind == RESULT:
            name, _, body = content.partition(b"\n")
            return Answer(name.decode(), body)
        if kind == FAILURE:
            told: Mapping[str, str] = json.loads(content)
            return Answer(told["kind"], message=told["message"])


def answer(connection: socket.socket, given: Answer) -> None:
    """What the resident client says in the end."""
    if given.result is not None:
        send(connection, RESULT, given.kind.encode() + b"\n" + given.result)
    else:
        send(connection, FAILURE, json.dumps({"kind": given.kind, "message": given.message}).encode())
