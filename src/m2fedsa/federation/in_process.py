"""All clients in one process: a loop over their tasks."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Protocol

from m2fedsa.errors import M2FedSAError, StorageError
from m2fedsa.messages import ClientInfo, Failure, Result, Task, TrainResult, TrainTask


class Participant(Protocol):
    """What a client answers to; see `client.Client`."""

    @property
    def name(self) -> str:
        """Its name in the registry."""

    def info(self) -> ClientInfo:
        """Its entry in the registry."""

    def perform(self, task: Task) -> Result:
        """Do one task."""

    def learning(self, task: TrainTask) -> Generator[None, None, TrainResult]:
        """Train for a round, pausing after each step."""

    def commit(self, round_number: int) -> None:
        """Take the local tensors of a round as its own."""

    def restore(self, round_number: int, file: str) -> None:
        """Take the local tensors of a checkpoint."""

    def forget(self) -> None:
        """Have no local tensors, as before the first round."""


class InProcessFederation:
    """See `federation.port.Federation`."""

    def __init__(self, clients: Sequence[Participant], side_by_side: bool = False) -> None:
        """`clients` in any order. `side_by_side`: in training, all take their first step, then all their second one, and so on."""
        self._side_by_side = side_by_side
        self._clients = {client.name: client for client in sorted(clients, key=lambda client: client.name)}

    def clients(self) -> Sequence[ClientInfo]:
        """See `Federation.clients`."""
        return [client.info() for client in self._clients.values()]

    def present(self, clients: Sequence[str], _least: int, /) -> Sequence[str]:
        """See `Federation.present`: nobody is ever away."""
        return sorted(clients)

    def returned(self, clients: Sequence[str], _least: int, /) -> Sequence[str]:
        """See `Federation.returned`."""
        return sorted(clients)

    def run(self, tasks: Sequence[Task]) -> Iterator[Result | Failure]:
        """One task after the other. What a client raises becomes its failure, unless it is no error of ours; or `StorageError`: the disk is
        everybody's here, and without this the run would go on, and end elsewhere than with room."""
        if self._side_by_side and all(isinstance(task, TrainTask) for task in tasks):
            yield from self._together([task for task in tasks if isinstance(task, TrainTask)])
            return
        for task in tasks:
            try:
                yield self._clients[task.client].perform(task)
            except StorageError:
                raise
            except M2FedSAError as error:
                yield Failure(task.client, type(error).__name__, str(error))

    def _together(self, tasks: Sequence[TrainTask]) -> Iterator[Result | Failure]:
        """All clients step by step, in the order of their names."""
        under_way = {task.client: self._clients[task.client].learning(task) for task in sorted(tasks, key=lambda task: task.client)}
        while under_way:
            for name, work in list(under_way.items()):
                try:
                    next(work)
                    continue
                except StopIteration as done:
                    answer: Result | Failure = done.value
                except StorageError:
                    raise
                except M2FedSAError as error:
                    answer = Failure(name, type(error).__name__, str(error))
                del under_way[name]
                yield answer

    def commit(self, round_number: int, accepted: Sequence[str]) -> None:
        """See `Federation.commit`."""
        for name in accepted:
            self._clients[name].commit(round_number)

    def restore(self, locals_: Mapping[str, tuple[int, str]]) -> None:
        """See `Federation.restore`."""
        for name, client in self._clients.items():
            if name in locals_:
                client.restore(*locals_[name])
            else:
                client.forget()
