"""The port from the fed server to the clients."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from m2fedsa.messages import ClientInfo, Failure, Result, Task


class Federation(Protocol):
    """All clients, seen from the fed server.

    A client's answer to a task depends on the task, its data, its local tensors and nothing else; so tasks may be given in any order, at
    once or one by one, and again after a failure.
    """

    def clients(self) -> Sequence[ClientInfo]:
        """Who is registered, sorted by name."""

    def present(self, clients: Sequence[str], least: int, /) -> Sequence[str]:
        """Those of these clients that can be given a task now, sorted. Others are waited for as long as there are fewer than `least`."""

    def returned(self, clients: Sequence[str], least: int, /) -> Sequence[str]:
        """As `present`, but all others are waited for once, until they are known to stay away."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Result | Failure]:
        """Give each task to its client and yield one result or failure per task, in the order in which they arrive. `StorageError`
        where the disk that refuses is not a client's own."""

    def commit(self, round_number: int, accepted: Sequence[str]) -> None:
        """The round is part of the run: the accepted clients take the local tensors that they wrote for it as their own, and drop what
        they kept for it alone; round 0 is the warm start. Harmless when repeated."""

    def restore(self, locals_: Mapping[str, tuple[int, str]]) -> None:
        """Go back to a checkpoint: client -> (round, digest) of its local tensors; clients that are not named have none."""
