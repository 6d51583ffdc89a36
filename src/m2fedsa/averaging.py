"""Averages: the rules of the fed server and of the main server, and the optional optimiser on their difference: momentum or Adam.

A tensor is averaged over the accepted clients of the round that trained it, weighted by their distinct samples; it keeps its value if
none did. (Section "One round is a pure function", step 3.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from m2fedsa.config import Averaging, Federation
from m2fedsa.errors import ConfigError, RunError
from m2fedsa.state import by_prefix


@dataclass(frozen=True)
class Contribution:
    """What one client has to say in an average."""

    client: str
    tensors: Mapping[str, Tensor]
    samples: Mapping[str, int]
    """tensor name prefix -> distinct samples; the longest prefix of a name counts"""


class Average(Protocol):
    """The new value of one tensor from those of the clients that trained it: [(client, value, samples)], sorted by client, never empty.

    A researcher's own rule is any callable of this form.
    """

    def __call__(self, name: str, values: Sequence[tuple[str, Tensor, int]], previous: Tensor) -> Tensor:
        """See the class."""


def weighted_mean(
    name: str,  # noqa: ARG001  (its place in `Average`)
    values: Sequence[tuple[str, Tensor, int]],
    previous: Tensor,
) -> Tensor:
    """Σ n_u x_u / Σ n_u in float64, in the order of the clients' names."""
    total = sum(samples for _, _, samples in values)
    mean = torch.zeros_like(previous, dtype=torch.float64)
    for _, value, samples in values:
        mean += value.to(torch.float64) * (samples / total)
    return mean.to(previous.dtype)


FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.99, 1e-3
"""β1, β2 and τ of FedAdam, as Reddi et al. (2021) found them good on most tasks."""
SECOND = "second/"
"""How its second moments are filed among the velocities."""


@dataclass
class Averager:
    """The averages of one party, and its momentum or its Adam (of this learning rate; None: none)."""

    rules: Averaging
    modalities: Sequence[str]
    momentum: float = 0.0
    average: Average = weighted_mean
    adam: float | None = None

    @classmethod
    def of(cls, rules: Averaging, modalities: Sequence[str], federation: Federation, average: Average) -> "Averager":
        """As the settings want it."""
        return cls(rules, modalities, federation.server_momentum, average, federation.server_adam)

    def is_local(self, name: str) -> bool:
        """Whether the tensor stays with its client."""
        return self.rules.over(name) == "nothing"

    def apply(
        self, previous: Mapping[str, Tensor], contributions: Sequence[Contribution], velocity: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors and the velocities after a round."""
        trained = self._over_clients(previous, contributions)
        trained |= self._over_modalities(trained)
        velocities = dict(velocity)
        for name, target in trained.items() if self.momentum or self.adam is not None else ():
            step = target - previous[name]
            if self.adam is not None:
                trained[name] = previous[name] + self._adam(name, step, velocities)
            else:
                velocities[name] = step + self.momentum * velocities[name] if name in velocities else step
                trained[name] = previous[name] + velocities[name]
        return {**previous, **trained}, velocities

    def _adam(self, name: str, step: Tensor, moments: dict[str, Tensor]) -> Tensor:
        """η m / (√v + τ), m and v the moments of the steps of all rounds; v begins at τ². (Reddi et al. 2021, algorithm 2.)"""
        assert self.adam is not None
        first, second = moments.get(name, torch.zeros_like(step)), moments.get(SECOND + name, torch.full_like(step, TINY**2))
        moments[name] = FIRST_DECAY * first + (1 - FIRST_DECAY) * step
        moments[SECOND + name] = SECOND_DECAY * second + (1 - SECOND_DECAY) * step.square()
        return self.adam * moments[name] / (moments[SECOND + name].sqrt() + TINY)

    def _over_clients(self, previous: Mapping[str, Tensor], contributions: Sequence[Contribution]) -> dict[str, Tensor]:
        ordered = sorted(contributions, key=lambda contribution: contribution.client)
        result = {}
        for name, old in previous.items():
            if self.is_local(name):
                continue
            values = [
                (one.client, one.tensors[name], int(by_prefix(one.samples, name)))
                for one in ordered
                if name in one.tensors and by_prefix(one.samples, name) > 0
            ]
            if values:
                result[name] = self.average(name, values, old)
                _check_average(name, result[name], old)
        return result

    def _over_modalities(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Equal weights over the modalities whose tensor trained in this round; the others stay."""
        groups: dict[str, list[str]] = {}
        for name in sorted(trained):
            modality, _, rest = name.partition(".")
            if modality in self.modalities and self.rules.over(name) == "modalities":
                groups.setdefault(rest, []).append(name)
        result: dict[str, Tensor] = {}
        for names in groups.values():
            shapes = {name: tuple(trained[name].shape) for name in names}
            if len(set(shapes.values())) > 1:
                raise ConfigError(f"averaging.rules: tensors of unequal shape cannot be averaged over modalities: {shapes}.")
            mean = torch.stack([trained[name].to(torch.float64) for name in names]).mean(0)
            # Copies: in float64 the mean itself would stand under several names, and a checkpoint refuses shared memory.
            result |= {name: mean.to(trained[name].dtype, copy=True) for name in names}
        return result


def _check_average(name: str, value: object, previous: Tensor) -> None:
    """`RunError` where a researcher's own rule gives something else than a new value of the tensor."""
    if not isinstance(value, Tensor) or value.shape != previous.shape or value.dtype != previous.dtype:
        found = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise RunError(f"the averaging rule gave {found} for {name}, but {tuple(previous.shape)} {previous.dtype} is needed.")
    if not bool(value.isfinite().all()):
        raise RunError(f"the averaging rule gave values for {name} that are not finite.")
