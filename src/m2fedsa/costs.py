"""What a round costs the clients: bytes that travel, and visits of samples, from which their operations follow.

In a split run activations travel to the main server, and the clients' tensors to the fed server and back. In one that is not split
(`federation.split = false`) tensors alone travel, those of the main server too, which each client then has for itself.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from m2fedsa.blueprint import FUSION, Blueprint, server_parts
from m2fedsa.messages import ClientInfo, Traffic, TrainResult, TrainTask
from m2fedsa.state import by_prefix, nbytes, of_modalities


class Costs:
    """Of the rounds of one federation."""

    def __init__(self, blueprint: Blueprint, clients: Mapping[str, ClientInfo]) -> None:
        """`clients`: the registry."""
        self._rules, self._clients = blueprint.config.averaging, clients
        self._split = blueprint.config.federation.split
        self._server: Mapping[str, Tensor] = {} if self._split else server_parts(blueprint).tensors

    def of_link(self, traffic: Traffic) -> Traffic:
        """What of the traffic with the main server leaves the client."""
        return traffic if self._split else Traffic()

    def of_tensors(self, task: TrainTask, result: TrainResult) -> Traffic:
        """Tensors down at the beginning of a client's part in a round, and up at its end."""
        server = of_modalities(self._server, self._clients[task.client].modalities, (FUSION,))
        given = [value for name, value in {**task.view.tensors, **server}.items() if self._travels(name)]
        trained = [value for name, value in server.items() if self._travels(name) and by_prefix(result.samples, name) > 0]
        return Traffic(nbytes([*result.tensors.values(), *trained]), nbytes([*given, task.view.log_prior]))

    def _travels(self, name: str) -> bool:
        """Tensors that a rule keeps with their clients stay there."""
        return self._rules.over(name) != "nothing"


def visits_of(results: Sequence[TrainResult], modalities: Iterable[str]) -> dict[str, int]:
    """modality -> samples that trained in a round, as often as they did."""
    return {name: sum(result.visits.get(name, 0) for result in results) for name in modalities}
