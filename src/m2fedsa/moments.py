"""The moments of AdamW, carried from round to round: averaged over clients like the tensors that they belong to.

A round of a few steps with fresh moments moves every number by about the learning rate, whatever the size of its gradient: the first
step of AdamW is one of signs. Carried on, rounds of n steps step as one long training does whose batch are the batches of all clients.
With one client they are that training, to the bit. Tensors that a rule keeps with their client begin anew.
A researcher's own averaging rule is for tensors alone: moments are weighted means, so a rule against poisoned tensors wants fresh ones.

Filed and sent flat, `first/<name>`, `second/<name>` (of the tensor's shape) and `steps/<name>` (), a mean over clients and so not whole.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from m2fedsa.averaging import Contribution, weighted_mean
from m2fedsa.state import Tensors, by_prefix

FIRST, SECOND, STEPS = "first/", "second/", "steps/"
_KEPT_AS = {FIRST: "exp_avg", SECOND: "exp_avg_sq", STEPS: "step"}


def give(optimizer: torch.optim.Optimizer, tensors: Tensors, moments: Tensors) -> None:
    """Let AdamW go on from moments of tensors that it steps; those without any begin at zero."""
    for name, tensor in tensors.items():
        if tensor.requires_grad and FIRST + name in moments:
            # The count of steps is where AdamW itself keeps it: with the tensor, since it is fused.
            optimizer.state[tensor] = {kept: moments[kind + name].to(tensor.device, copy=True) for kind, kept in _KEPT_AS.items()}


def take(optimizer: torch.optim.Optimizer, tensors: Tensors) -> dict[str, Tensor]:
    """The moments of these tensors, in main memory, of those that have been stepped."""
    found = {}
    for name, tensor in tensors.items():
        for kind, kept in _KEPT_AS.items() if tensor in optimizer.state else ():
            found[kind + name] = optimizer.state[tensor][kept].to("cpu", copy=True)
    return found


def belongs_to(name: str) -> str:
    """The tensor whose moment this is."""
    return name.partition("/")[2]


def of_tensors(moments: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    """The moments of these tensors."""
    return {kind + name: moments[kind + name] for name in names for kind in _KEPT_AS if kind + name in moments}


def averaged(previous: Tensors, contributions: Sequence[Contribution]) -> dict[str, Tensor]:
    """Means over the clients that trained the tensor, weighted by their distinct samples; without any, what there was before."""
    ordered = sorted(contributions, key=lambda one: one.client)
    values: dict[str, list[tuple[str, Tensor, int]]] = {}
    for one in ordered:
        for name, value in one.tensors.items():
            samples = int(by_prefix(one.samples, belongs_to(name)))
            if samples > 0:
                values.setdefault(name, []).append((one.client, value, samples))
    return {**previous, **{name: weighted_mean(name, found, found[0][1]) for name, found in sorted(values.items())}}


def filed(moments: Tensors, prefix: str) -> dict[str, Tensor]:
    """As part of a flat mapping for a checkpoint."""
    return {prefix + name: value for name, value in moments.items()}


def from_filed(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The inverse of `filed`."""
    return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
