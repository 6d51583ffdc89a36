"""One thread that computes for everyone: jobs wait in a queue per client, and clients are served in turn.

So however much a client sends, the others wait for at most one of its jobs; and nothing on the main server needs a lock. What ends a step
goes before what begins one: a step that is under way holds the graph of all its tails. Steps can wait a moment for those of other clients,
to be computed together with them.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from m2fedsa.errors import RunError

T = TypeVar("T")
Together = Callable[[Sequence[tuple[Any, Any]]], Sequence[Any]]
"""Pairs of session and message -> for each its answer, or the error that it gets."""


@dataclass(frozen=True)
class Step:
    """A job that can be computed together with others of its kind."""

    kind: str
    session: Any
    message: Any


@dataclass(frozen=True)
class Window:
    """How steps wait for each other."""

    seconds: float
    together: Mapping[str, Together]
    """by the kind of the steps"""
    told: Callable[[int], None] = lambda _number: None
    """hears how many were computed together"""


@dataclass
class _Job:
    work: Callable[[], Any] | Step
    urgent: bool = False
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Computes one job at a time, or several steps as one."""

    def __init__(self, threads: int = 0, window: Window | None = None) -> None:
        """`threads`: CPU threads of the tensor library within a job; 0 leaves its own choice. `window`: None computes each step alone."""
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._ready = threading.Condition()
        self._closed = False
        self._threads, self.window = threads, window
        self.waiting = 0
        """jobs that nobody has begun"""
        self.sessions = 0
        """clients that may have a step soon; a window does not wait for more than these"""
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, client: str, job: Callable[[], T], *, urgent: bool = False) -> "Future[T]":
        """Let a job be computed when the client's turn has come; jobs of one client keep their order. `RunError` once it is closed.

        `urgent`: it goes before those of others that are not.
        """
        return self._put(client, _Job(job, urgent))

    def step(self, client: str, step: Step, *, urgent: bool = False) -> "Future[Any]":
        """Let a step be computed, with those of others where there is a window."""
        return self._put(client, _Job(step, urgent))

    def _put(self, client: str, job: _Job) -> "Future[Any]":
        with self._ready:
            if self._closed:
                job.future.set_exception(RunError("the main server has stopped."))
                return job.future
            self._queues.setdefault(client, deque()).append(job)
            self.waiting += 1
            self._ready.notify()
        return job.future

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
        while jobs := self._next():
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs and isinstance(jobs[0].work, Step):
                _together(jobs, self.window)
            elif jobs:
                _alone(jobs[0])
            del jobs

    def _next(self) -> list[_Job]:
        """The job whose turn it is, with others that can be computed together with it; none once all is over."""
        with self._ready:
            while not self._queues:
                if self._closed:
                    return []
                self._ready.wait()
            urgent = next((client for client, queue in self._queues.items() if queue[0].urgent), None)
            jobs = [self._take(urgent or next(iter(self._queues)))]
            first = jobs[0].work
            if self.window is not None and isinstance(first, Step):
                self._gather(jobs, first.kind, self.window.seconds)
            return jobs

    def _gather(self, jobs: list[_Job], kind: str, seconds: float) -> None:
        """Add the steps of this kind that wait, and those that come within the window; not more than one of each session."""
        until = time.monotonic() + seconds
        while True:
            fit = [client for client, queue in self._queues.items() if isinstance(queue[0].work, Step) and queue[0].work.kind == kind]
            jobs += [self._take(client) for client in fit]
            left = until - time.monotonic()
            if len(jobs) >= self.sessions or left <= 0 or self._closed:
                return
            self._ready.wait(left)

    def _take(self, client: str) -> _Job:
        """The client's next job; the client goes to the end of the line."""
        queue = self._queues.pop(client)
        job = queue.popleft()
        if queue:
            self._queues[client] = queue
        self.waiting -= 1
        return job


def _alone(job: _Job) -> None:
    assert not isinstance(job.work, Step)
    try:
        job.future.set_result(job.work())
    except BaseException as error:
        job.future.set_exception(error)


def _together(jobs: Sequence[_Job], window: Window | None) -> None:
    steps = [job.work for job in jobs if isinstance(job.work, Step)]
    assert window is not None
    try:
        window.told(len(steps))
        answers = window.together[steps[0].kind]([(step.session, step.message) for step in steps])
    except BaseException as error:
        answers = [error] * len(jobs)
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, BaseException):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)
