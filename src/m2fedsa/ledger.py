"""What a client and the main server store, compute and send for each modality, against the whole encoder held and trained in one place.

Parameters and bytes are those of the real modules, FLOPs are counted on them while they run on one sample (a multiply-add is two), bytes
on the wire are those of the real messages, less what belongs to no modality: f, its gradient, and which modality enters fusion.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2fedsa.blueprint import Blueprint, Parts, client_parts, server_parts
from m2fedsa.messages import Activation
from m2fedsa.models.architectures import architecture
from m2fedsa.models.cut import Head, Tail, specify, whole
from m2fedsa.reporting.records import LedgerEntry, Side, Weights
from m2fedsa.state import nbytes

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """An encoder, whole and cut, and the inputs of one sample."""

    model: nn.Module
    head: Head
    tail: Tail
    example: Mapping[str, Tensor]


def ledger(blueprint: Blueprint, measured: Mapping[str, Measured]) -> dict[str, LedgerEntry]:
    """One entry per modality."""
    client, server = client_parts(blueprint, blueprint.modalities), server_parts(blueprint)
    return {name: _entry(name, one, client, server) for name, one in measured.items()}


def _entry(name: str, one: Measured, client: Parts, server: Parts) -> LedgerEntry:
    mask = one.example.get(architecture(one.tail.plan.model_type).mask)
    specs = specify(one.example)
    hidden = one.head(one.example)
    adapter, task = client.modules.get(f"{name}.ma"), server.modules.get(f"{name}.ta")
    forward_head = _flops(lambda: one.head(one.example))
    # At the cut the client only runs its adapter forth and back; a kept head output costs nothing after the first time.
    on_client = _both(lambda h: h if adapter is None else h + adapter(h), hidden, client.modules[f"{name}.classifier"], one.tail.width)
    on_server = _forth_and_back(lambda h: one.tail(h, mask, specs, task), hidden)
    pooled = one.tail(hidden, mask, specs, None)
    up, down = Activation(hidden, torch.zeros(1, dtype=torch.int64), mask, specs).nbytes, nbytes([pooled])
    return {
        "client": _side(_real(one.head), _under(client, name), forward_head + on_client[0], on_client[1], head=forward_head),
        "server": _side(_real(one.tail), _under(server, name), *on_server),
        "whole": _side([], list(one.model.parameters()), *_whole(one)),
        "bytes": {"up": up + down, "down": down + nbytes([hidden])},
    }


def _side(frozen: Iterable[Tensor], trainable: Iterable[Tensor], forward: float, backward: float, **more: float) -> Side:
    return {"frozen": _weights(frozen), "trainable": _weights(trainable), "flops": {"forward": forward, "backward": backward, **more}}


def _weights(tensors: Iterable[Tensor]) -> Weights:
    listed = list(tensors)
    return {"parameters": sum(tensor.numel() for tensor in listed), "bytes": nbytes(listed)}


def _real(module: nn.Module) -> list[Tensor]:
    """The tensors that this slice holds."""
    return [parameter for parameter in module.parameters() if not parameter.is_meta]


def _under(parts: Parts, modality: str) -> list[Tensor]:
    return [tensor for name, tensor in parts.tensors.items() if name.startswith(f"{modality}.")]


def _flops(work: Callable[[], Any]) -> float:
    return _counted(work)[0]


def _forth_and_back(work: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[float, float]:
    """(forward, backward) of one sample, gradients down to the hidden state."""
    leaf = hidden.detach().requires_grad_()
    forward, output = _counted(lambda: work(leaf))
    backward = _flops(lambda: output.sum().backward())  # type: ignore[no-untyped-call]
    return forward, backward


def _both(adapt: Callable[[Tensor], Tensor], hidden: Tensor, classifier: nn.Module, width: int) -> tuple[float, float]:
    """MA and C_m together; nothing flows further back than MA."""
    forward, backward = 0.0, 0.0
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (adapt, hidden.detach()),
        (classifier, torch.zeros(1, width, requires_grad=True)),
    ]
    for work, value in cases:
        cost, output = _counted(lambda work=work, value=value: work(value))  # type: ignore[misc]
        forward += cost
        if output.requires_grad:
            backward += _flops(lambda output=output: output.sum().backward())  # type: ignore[misc]
    return forward, backward


def _counted(work: Callable[[], Result]) -> tuple[float, Result]:
    """FLOPs of `work`, and what it gives. Attention runs as plain products: its fused kernels are not counted on every device."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        output = work()
    return float(counter.get_total_flops()), output


def _whole(one: Measured) -> tuple[float, float]:
    """The whole encoder, all of it trained."""
    parameters = list(one.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        forward, output = _counted(lambda: whole(one.model, one.example, one.tail.pooling))
        backward = _flops(lambda: torch.autograd.grad(output.sum(), parameters, allow_unused=True))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return forward, backward
