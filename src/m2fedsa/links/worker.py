"""One thread that computes for everyone: jobs wait in a queue per client, and clients are served in turn.

So however much a client sends, the others wait for at most one of its jobs; and nothing on the main server needs a lock.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from m2fedsa.errors import RunError

T = TypeVar("T")


class Worker:
    """Computes one job at a time."""

    def __init__(self, threads: int = 0) -> None:
        """`threads`: CPU threads of the tensor library within a job; 0 leaves its own choice."""
        self._queues: OrderedDict[str, deque[tuple[Callable[[], Any], Future[Any]]]] = OrderedDict()
        self._ready = threading.Condition()
        self._closed = False
        self._threads = threads
        self.waiting = 0
        """jobs that nobody has begun"""
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, client: str, job: Callable[[], T]) -> "Future[T]":
        """Let a job be computed when the client's turn has come; jobs of one client keep their order. `RunError` once it is closed."""
        future: Future[T] = Future()
        with self._ready:
            if self._closed:
                future.set_exception(RunError("the main server has stopped."))
                return future
            self._queues.setdefault(client, deque()).append((job, future))
            self.waiting += 1
            self._ready.notify()
        return future

    def do(self, client: str, job: Callable[[], T]) -> T:
        """Submit a job and wait for its outcome."""
        return self.submit(client, job).result()

    def close(self) -> None:
        """Finish what waits, and end."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)
        while (found := self._next()) is not None:
            job, future = found
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            del job, future, found

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        with self._ready:
            while not self._queues:
                if self._closed:
                    return None
                self._ready.wait()
            client, queue = self._queues.popitem(last=False)
            job, future = queue.popleft()
            if queue:
                self._queues[client] = queue
            self.waiting -= 1
            return job, future
