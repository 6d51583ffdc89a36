"""What the main server holds between rounds, and how it is filed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from m2fedsa import moments

VELOCITY, LOCAL, MOMENTS = "velocity/", "local/", "moments/"
"""How tensors that are not global ones are filed in the checkpoint."""


@dataclass(frozen=True)
class State:
    """Everything that the main server holds between rounds."""

    round: int
    tensors: Mapping[str, Tensor]
    velocity: Mapping[str, Tensor] = field(default_factory=dict)
    local: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """client -> tensors that a rule keeps from averaging"""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """of AdamW, where they are carried from round to round"""

    def seen_by(self, client: str) -> dict[str, Tensor]:
        """The tensors that a client's copies start from."""
        return {**self.tensors, **self.local.get(client, {})}

    def filed(self) -> dict[str, Tensor]:
        """As one flat mapping, for the checkpoint."""
        flat = dict(self.tensors)
        flat |= {VELOCITY + name: value for name, value in self.velocity.items()}
        flat |= {f"{LOCAL}{client}/{name}": value for client, tensors in self.local.items() for name, value in tensors.items()}
        return flat | moments.filed(self.moments, MOMENTS)

    @classmethod
    def from_filed(cls, round_number: int, flat: Mapping[str, Tensor]) -> "State":
        """The inverse of `filed`."""
        local: dict[str, dict[str, Tensor]] = {}
        for name, value in flat.items():
            if name.startswith(LOCAL):
                client, _, tensor = name.removeprefix(LOCAL).rpartition("/")
                local.setdefault(client, {})[tensor] = value
        velocity = {name.removeprefix(VELOCITY): value for name, value in flat.items() if name.startswith(VELOCITY)}
        tensors = {name: value for name, value in flat.items() if not name.startswith((VELOCITY, LOCAL, MOMENTS))}
        return cls(round_number, tensors, velocity, local, moments.from_filed(flat, MOMENTS))
