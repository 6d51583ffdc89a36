"""What all streams of a main server share: who computes, who is let in, who counts, and how many of them there are."""

from collections import Counter
from threading import Lock

from m2fedsa.errors import RefusedError
from m2fedsa.links.admission import Gate, Limits, Meter, NoMeter
from m2fedsa.links.port import Link
from m2fedsa.links.watch import Watch
from m2fedsa.links.worker import Worker


class Desk:
    """Called from the threads of many streams."""

    def __init__(self, host: Link, worker: Worker, gate: Gate | None, limits: Limits | None = None, meter: Meter | None = None) -> None:
        """`host`: the main server; `worker`: its one thread. `gate`: None lets everybody in, for measurements on one machine alone."""
        self.host, self.worker, self.gate = host, worker, gate
        self.limits, self.meter = limits or Limits(), meter or NoMeter()
        self.secure = False
        """whether bytes are encrypted; if not, frames carry a checksum"""
        self.watch = Watch(self.limits.silence)
        self.door = Watch(self.limits.opening)
        """ends calls that have not been let in"""
        self.admitting = True
        """whether new streams are taken"""
        self._streams: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._streams.total()

    def enter(self, key: str | None, name: str) -> None:
        """A call has begun and said nothing yet; without TLS it has no key. `RefusedError` if its key was revoked or has too many calls.

        One that was not refused is counted until `leave`.
        """
        if self.gate is not None:
            self.gate.enter(key, name)
        most = self.limits.per_client + self.limits.unopened
        with self._lock:
            if key is not None and self._calls[key] >= most:
                raise RefusedError(f"the key of {name} has {self._calls[key]} calls open already.")
            self._calls[key or ""] += 1

    def leave(self, key: str | None) -> None:
        """A call that has entered is over."""
        with self._lock:
            self._calls[key or ""] -= 1
            self._calls += Counter()

    def close(self) -> None:
        """Watch over nothing any more."""
        self.watch.close()
        self.door.close()

    def count(self, client: str) -> None:
        """A client opens a stream. `RefusedError` if it has too many, or if none is taken."""
        with self._lock:
            if not self.admitting:
                raise RefusedError("the main server is about to stop and takes nobody in.")
            if self._streams[client] >= self.limits.per_client:
                raise RefusedError(f"client {client} has {self._streams[client]} streams open already.")
            self._streams[client] += 1

    def count_session(self, change: int) -> None:
        """A session has opened or ended: a window waits for no more steps than there are sessions."""
        with self._lock:
            self.worker.sessions += change

    def discount(self, client: str) -> None:
        """One of its streams has ended."""
        with self._lock:
            self._streams[client] -= 1
            self._streams += Counter()
