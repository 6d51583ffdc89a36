"""What every tally is: named sums that add up, and the numbers that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor


class Tally(Protocol):
    """Sums over the samples of one subset of modalities; a frozen dataclass of float64 tensors."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def metrics(self) -> dict[str, float | None]:
        """name -> value; None where it is not defined."""


T = TypeVar("T", bound=Tally)
ALONE = ("auc", "shift")
"""Fields that do not add up: exact values of one client alone, and what is the same for all."""


def tensors_of(tally: Tally) -> dict[str, Tensor]:
    """As named tensors, for a message."""
    return {field.name: getattr(tally, field.name) for field in fields(tally)}


def merged(tallies: Sequence[T]) -> T:
    """The tally of all samples together."""
    first = tallies[0]
    if len(tallies) == 1:
        return first
    parts: Mapping[str, list[Tensor]] = {field.name: [getattr(tally, field.name) for tally in tallies] for field in fields(first)}
    summed = {name: torch.stack(values).sum(0) for name, values in parts.items() if name not in ALONE}
    if "auc" in parts:
        summed["auc"] = torch.full_like(parts["auc"][0], float("nan"))
    if "shift" in parts:
        assert all(torch.equal(value, parts["shift"][0]) for value in parts["shift"]), "tallies of different rounds"
        summed["shift"] = parts["shift"][0]
    return type(first)(**summed)
