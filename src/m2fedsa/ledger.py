"""What a client and the main server store, compute and send for each modality, against the whole encoder held and trained in one place.

Parameters and bytes are those of the real modules, FLOPs are counted on them while they run on one sample (a multiply-add is two), bytes
on the wire are those of the real messages, less what belongs to no modality: f, its gradient, and which modality enters fusion.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2fedsa.blueprint import HEAD, TAIL, Blueprint, Parts, client_parts, server_parts
from m2fedsa.config import Wire
from m2fedsa.links.narrow import payload
from m2fedsa.messages import Activation
from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.cut import Head, Tail, specify, whole
from m2fedsa.models.precision import fed
from m2fedsa.models.quantise import weights
from m2fedsa.reporting.records import LedgerEntry, Side, Weights
from m2fedsa.state import nbytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """An encoder, whole and cut, and the inputs of one sample."""

    model: "PreTrainedModel"
    """whole; its weights may be hollow where only its sides were loaded"""
    head: Head
    tail: Tail
    example: Mapping[str, Tensor]


def ledger(blueprint: Blueprint, measured: Mapping[str, Measured], known: Mapping[str, Side] | None = None) -> dict[str, LedgerEntry]:
    """One entry per modality. `known`: what was counted on whole encoders before, by modality."""
    client, server = client_parts(blueprint, blueprint.modalities), server_parts(blueprint)
    wire = blueprint.config.wire
    entries = {name: _entry(name, one, client, server, wire, (known or {}).get(name)) for name, one in measured.items()}
    return entries if blueprint.config.federation.split else {name: _unsplit(entry) for name, entry in entries.items()}


def _unsplit(entry: LedgerEntry) -> LedgerEntry:
    """Everything at the client: nothing of a sample travels."""
    client, server = entry["client"], entry["server"]
    flops = {**client["flops"], **{way: client["flops"][way] + server["flops"][way] for way in ("forward", "backward")}}
    none: Side = {"frozen": _weights([]), "trainable": _weights([]), "flops": {"forward": 0.0, "backward": 0.0}}
    both: Side = {
        "frozen": _sum(client["frozen"], server["frozen"]),
        "trainable": _sum(client["trainable"], server["trainable"]),
        "flops": flops,
    }
    return {**entry, "client": both, "server": none, "bytes": {"up": 0, "down": 0}}


def _sum(one: Weights, other: Weights) -> Weights:
    return {"parameters": one["parameters"] + other["parameters"], "bytes": one["bytes"] + other["bytes"]}


def _entry(name: str, one: Measured, client: Parts, server: Parts, wire: Wire, known: Side | None) -> LedgerEntry:
    mask = one.example.get(architecture(one.tail.plan.model_type).mask)
    specs = specify(one.example)
    hidden = one.head(one.example)
    # Before anything is counted: shadows that meet a shape for the first time run the code of modules that are elsewhere.
    pooled = one.tail(hidden, mask, specs, None)
    adapter, task = client.modules.get(f"{name}.ma"), server.modules.get(f"{name}.ta")
    of_head, of_tail = client.weights(name, HEAD), server.weights(name, TAIL)
    forward_head, made = _counted(lambda: one.head.under(of_head, one.example, graph=bool(of_head)))
    # A head that trains is run in every step, forth and back; one that is frozen once.
    backward_head = _flops(lambda: made.sum().backward()) if of_head else 0.0
    once = {} if of_head else {"head": forward_head}
    # At the cut the client only runs its adapter forth and back; a kept head output costs nothing after the first time.
    on_client = _both(lambda h: h if adapter is None else h + adapter(h), hidden, client.modules[f"{name}.classifier"], one.tail.width)
    on_server = _forth_and_back(lambda h: one.tail.under(of_tail, h, mask, specs, task), hidden)
    sent = Activation(hidden, torch.zeros(1, dtype=torch.int64), mask, specs)
    return {
        "client": _side(
            _less(held(one.head), of_head), _under(client, name), forward_head + on_client[0], backward_head + on_client[1], **once
        ),
        "server": _side(_less(held(one.tail), of_tail), _under(server, name), *on_server),
        "whole": known
        or _side(_weights([]), list(one.model.parameters()), *whole_flops(one.model, fed(one.model, one.example), one.tail.pooling)),
        "bytes": {"up": payload([*sent.tensors, pooled], wire.up), "down": payload([pooled, hidden], wire.down)},
        "kept": 0 if of_head else nbytes([hidden, *([] if mask is None else [mask])]),
    }


def _side(frozen: Weights, trainable: Iterable[Tensor], forward: float, backward: float, **more: float) -> Side:
    return {"frozen": frozen, "trainable": _weights(trainable), "flops": {"forward": forward, "backward": backward, **more}}


def _weights(tensors: Iterable[Tensor]) -> Weights:
    listed = list(tensors)
    return {"parameters": sum(tensor.numel() for tensor in listed), "bytes": nbytes(listed)}


def _less(all_of_it: Weights, trained: Mapping[str, Tensor]) -> Weights:
    """What stays frozen of a side's weights."""
    part = _weights(trained.values())
    return {"parameters": all_of_it["parameters"] - part["parameters"], "bytes": all_of_it["bytes"] - part["bytes"]}


def held(side: nn.Module) -> Weights:
    """The weights that a slice holds, in the bytes that it holds them in."""
    parameters, stored = weights(side)
    return {"parameters": parameters, "bytes": stored}


def _under(parts: Parts, modality: str) -> list[Tensor]:
    return [tensor for name, tensor in parts.tensors.items() if name.startswith(f"{modality}.")]


def _flops(work: Callable[[], Any]) -> float:
    return _counted(work)[0]


def _backward(output: Tensor) -> None:
    output.sum().backward()


def _forth_and_back(work: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[float, float]:
    """(forward, backward) of one sample, gradients down to the hidden state."""
    leaf = hidden.detach().requires_grad_()
    forward, output = _counted(lambda: work(leaf))
    backward = _flops(partial(_backward, output))
    return forward, backward


def _both(adapt: Callable[[Tensor], Tensor], hidden: Tensor, classifier: nn.Module, width: int) -> tuple[float, float]:
    """MA and C_m together; nothing flows further back than MA."""
    forward, backward = 0.0, 0.0
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (adapt, hidden.detach()),
        (classifier, torch.zeros(1, width, requires_grad=True)),
    ]
    for work, value in cases:
        cost, output = _counted(partial(work, value))
        forward += cost
        if output.requires_grad:
            backward += _flops(partial(_backward, output))
    return forward, backward


def _counted(work: Callable[[], Result]) -> tuple[float, Result]:
    """FLOPs of `work`, and what it gives. Attention runs as plain products: its fused kernels are not counted on every device."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        output = work()
    return float(counter.get_total_flops()), output


def whole_flops(model: nn.Module, example: Mapping[str, Tensor], pooling: Pooling) -> tuple[float, float]:
    """(forward, backward) of the whole encoder, all of it trained, over the samples of `example`. One gradient at a time is in memory."""
    parameters = list(model.parameters())
    hooks = [parameter.requires_grad_(True).register_post_accumulate_grad_hook(_drop) for parameter in parameters]
    try:
        forward, output = _counted(lambda: whole(model, example, pooling))
        backward = _flops(partial(_backward, output))
    finally:
        for parameter, hook in zip(parameters, hooks, strict=True):
            hook.remove()
            parameter.requires_grad_(False)
    return forward, backward


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
