"""Messages in frames: parts of bounded size, each with a fixed header, so that a long message neither blocks a line nor fills memory
unannounced.

    header   48 bytes: magic, version, whether there is a checksum, bytes in this frame, number of the message, session, bytes of the whole
             message, where in it this frame begins, XXH3 checksum (0 where TLS guards the bytes)
    body     the bytes

The server draws the number of a session when it greets. A frame with another number belongs to another stream: what was recorded once
cannot be played again. Messages are counted from 0 in each direction, so that none is lost, repeated or exchanged unnoticed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from m2fedsa.errors import ProtocolError
from m2fedsa.links.wire import Encoded, memory

MAGIC, VERSION = b"m2sa", 1
_HEADER = struct.Struct("<4sBBHIIQQQQ")
HEADER = _HEADER.size
FRAME, MESSAGE = 2**20, 2**28
"""By default the largest body of a frame and the largest message, in bytes."""


@dataclass
class Outgoing:
    """One direction of a stream, at its sender."""

    session: int = 0
    checked: bool = False
    """whether frames carry a checksum"""
    size: int = FRAME
    sent: int = 0
    """messages so far"""

    def frames(self, message: Encoded) -> Iterator[bytes]:
        """The frames of the next message."""
        number, place = self.sent, 0
        self.sent += 1
        for body in message.cut(self.size):
            length, guard = sum(map(len, body)), checksum(*body) if self.checked else 0
            header = _HEADER.pack(MAGIC, VERSION, int(self.checked), 0, length, number, self.session, message.nbytes, place, guard)
            yield b"".join([header, *body])
            place += length


@dataclass
class Incoming:
    """One direction of a stream, at its receiver: frames in, messages out."""

    session: int = 0
    checked: bool = False
    size: int = FRAME
    largest: int = MESSAGE
    received: int = 0
    """messages so far"""
    _message: Tensor | None = field(default=None, init=False)
    _filled: int = field(default=0, init=False)

    def add(self, frame: bytes) -> Tensor | None:
        """The message that this frame completes (n,) uint8, None while more is to come. `ProtocolError` if the frame is not the next."""
        if len(frame) < HEADER:
            raise ProtocolError(f"a frame of {len(frame)} bytes is shorter than its header of {HEADER}.")
        magic, version, checked, rest, length, number, session, total, place, guard = _HEADER.unpack_from(frame)
        if magic != MAGIC or version != VERSION or rest:
            raise ProtocolError(f"a frame begins with {frame[:8].hex()}: not a frame of m2fedsa, or of another version than {VERSION}.")
        self._check_place(number, session, total, place)
        body = memoryview(frame)[HEADER:]
        if len(body) != length or not 0 < length <= self.size or place + length > total:
            raise ProtocolError(
                f"a frame says that it has {length} bytes from {place} on, but has {len(body)}; at most {self.size} of {total} are allowed."
            )
        if bool(checked) != self.checked or checked > 1 or guard != (checksum(body) if self.checked else 0):
            raise ProtocolError(f"a frame of message {number} does not have the checksum that it names: it was altered on its way.")
        if self._message is None:
            self._message = torch.empty(total, dtype=torch.uint8)
        memory(self._message)[place : place + length] = body
        self._filled += length
        if self._filled < total:
            return None
        message, self._message, self._filled = self._message, None, 0
        self.received += 1
        return message

    def _check_place(self, number: int, session: int, total: int, place: int) -> None:
        if session != self.session:
            raise ProtocolError(f"a frame belongs to session {session:016x}, not to this one. Was it recorded, and played again?")
        if number != self.received or place != self._filled:
            raise ProtocolError(
                f"a frame of message {number} from byte {place} on came where message {self.received} from byte {self._filled} on was due."
            )
        if total > self.largest:
            raise ProtocolError(f"a message of {total} bytes is announced; at most {self.largest} are taken.")
        if self._message is not None and total != len(self._message):
            raise ProtocolError(f"a message of {len(self._message)} bytes was announced, then one of {total}.")


def checksum(*body: bytes | memoryview) -> int:
    """XXH3, 64 bits, of these pieces one after the other: it finds accidents, not malice."""
    import xxhash

    found = xxhash.xxh3_64()
    for piece in body:
        found.update(piece)
    return found.intdigest()
