"""Fed server and main server: a round begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Phase = Literal["fusion", "transfer"]


@dataclass(frozen=True)
class RoundPlan:
    """A round as the fed server announces it: who takes part with which modalities, and how."""

    number: int
    phase: Phase
    seed: int
    roster: Mapping[str, tuple[str, ...]]
    learning_rate: float
    """Of the adapters, after the schedule."""
    weights: tuple[float, float, float]
    """λ of the transfer phase."""
    transfer_since: int | None = None
    """The first round of the transfer phase, once it has begun."""
    best: int | None = None
    """The round whose checkpoint is to be kept beside the last one."""


@dataclass(frozen=True)
class Acceptance:
    """Which copies count: client -> tensor name prefix -> number of its distinct samples that trained tensors under that prefix."""

    round: int
    samples: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Averaged:
    """The main server's answer to the end of a round: prints of its new tensors, and where they are kept."""

    round: int
    prints: Mapping[str, list[object]]
    file: str | None
    """SHA-256 of what it wrote for its checkpoint; None without one"""
