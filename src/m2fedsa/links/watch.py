"""Deadlines about progress: what moves is left alone, however slow; what has not moved for the set time is ended."""

import threading
import time
from collections.abc import Callable
from typing import Self


class Watch:
    """One thread that looks at many streams, now and then."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long nothing may move."""
        self.seconds = seconds
        self._guards: set[Guard] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def guard(self, end: Callable[[], None]) -> "Guard":
        """Watch over something from now on; `end` is called once, from another thread, when it has stood still for too long."""
        guard = Guard(self, end)
        with self._lock:
            self._guards.add(guard)
        return guard

    def drop(self, guard: "Guard") -> None:
        """Watch over it no more."""
        with self._lock:
            self._guards.discard(guard)

    def close(self) -> None:
        """Watch over nothing any more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(min(1.0, self.seconds / 4)):
            late = time.monotonic() - self.seconds
            with self._lock:
                still = [guard for guard in self._guards if guard.moved < late]
                self._guards.difference_update(still)
            for guard in still:
                guard.expired = True
                guard.end()


class Guard:
    """One thing that is watched, as long as the context lasts."""

    def __init__(self, watch: Watch, end: Callable[[], None]) -> None:
        """Made by `Watch.guard`."""
        self._watch, self.end = watch, end
        self.moved = time.monotonic()
        self.expired = False
        """whether it was ended"""

    def touch(self) -> None:
        """It has moved."""
        self.moved = time.monotonic()

    def __enter__(self) -> Self:
        self.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.drop(self)
