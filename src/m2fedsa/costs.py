"""What a round costs the clients: bytes that travel, and visits of samples, from which their operations follow.

In a split run activations travel to the main server, and the clients' tensors to the fed server and back. In one that is not split
(`federation.split = false`) tensors alone travel, those of the main server too, which each client then has for itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from m2fedsa.blueprint import FUSION, Blueprint, server_parts
from m2fedsa.messages import ClientInfo, Traffic, TrainResult, TrainTask
from m2fedsa.state import by_prefix, nbytes, of_modalities


@dataclass(frozen=True)
class RoundCosts:
    """client -> bytes of one round."""

    link: Mapping[str, Traffic]
    """of steps, with the main server"""
    tensors: Mapping[str, Traffic]
    """of trained tensors, with the fed server; in a run that is not split those of the main server too"""
    teaching: Sequence[Traffic]
    """of passes that made teachers"""
    split: bool

    @property
    def sent(self) -> Mapping[str, Traffic]:
        """What a client's account is charged with."""
        return self.link if self.split else self.tensors


class Costs:
    """Of the rounds of one federation."""

    def __init__(self, blueprint: Blueprint, clients: Mapping[str, ClientInfo]) -> None:
        """`clients`: the registry."""
        self._rules, self._clients = blueprint.config.averaging, clients
        self._split = blueprint.config.federation.split
        self._server: Mapping[str, Tensor] = {} if self._split else server_parts(blueprint).tensors
        self._moments = blueprint.config.optimizer.moments == "averaged"

    def of_round(self, tasks: Sequence[TrainTask], results: Sequence[TrainResult]) -> RoundCosts:
        """Of the clients that finished."""
        given = {task.client: task for task in tasks}
        return RoundCosts(
            {result.client: self.of_link(result.traffic) for result in results},
            {result.client: self.of_tensors(given[result.client], result) for result in results},
            [self.of_link(result.teaching) for result in results],
            self._split,
        )

    def of_link(self, traffic: Traffic) -> Traffic:
        """What of the traffic with the main server leaves the client."""
        return traffic if self._split else Traffic()

    def of_tensors(self, task: TrainTask, result: TrainResult) -> Traffic:
        """Tensors down at the beginning of a client's part in a round, and up at its end."""
        server = of_modalities(self._server, self._clients[task.client].modalities, (FUSION,))
        given = [value for name, value in {**task.view.tensors, **server}.items() if self._travels(name)]
        trained = [value for name, value in server.items() if self._travels(name) and by_prefix(result.samples, name) > 0]
        up = nbytes([*result.tensors.values(), *result.moments.values(), *trained])
        down = nbytes([*given, *task.moments.values(), task.view.log_prior])
        if self._moments:
            # Of what a main server would have kept for itself: two of the tensor's shape and a count, from the second round on.
            up += sum(2 * value.nbytes + 4 for value in trained)
            down += sum(2 * value.nbytes + 4 for name, value in server.items() if self._travels(name) and task.plan.number > 1)
        return Traffic(up, down)

    def _travels(self, name: str) -> bool:
        """Tensors that a rule keeps with their clients stay there."""
        return self._rules.over(name) != "nothing"


def visits_of(results: Sequence[TrainResult], modalities: Iterable[str]) -> dict[str, int]:
    """modality -> samples that trained in a round, as often as they did."""
    return {name: sum(result.visits.get(name, 0) for result in results) for name in modalities}
