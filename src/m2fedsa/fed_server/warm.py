"""The warm start as the fed server runs it: two exchanges for the classifiers, two more where there are unlabelled samples, one where
scales are chosen on validation samples.

(Section "Warm start" and "Unlabelled samples", closed form.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from m2fedsa.fed_server.server import FedServer
from m2fedsa.messages import ClassSums, Failure, Judged, JudgeResult, JudgeTask, Result, Summed, SumsResult, SumsTask, Task, Traffic
from m2fedsa.state import nbytes
from m2fedsa.tasks.task import FUSED, Linear
from m2fedsa.warm_start import Sums, best, blocks_of, centred, residual_ridge, total

CORRECTIONS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Scales of a regression on what is left unexplained: a half of the identity bounds the Hessian of cross-entropy, so 2 is a Newton step at
even odds, and more is wanted where predictions are sure; 0 leaves things as they are."""

Ask = Callable[[Sequence[Task]], list[Result | Failure]]
"""Gives tasks to clients and waits for all answers."""


@dataclass(frozen=True)
class WarmStart:
    """What the warm start came to."""

    chosen: Mapping[str, tuple[float, float]]
    """modality -> (shrinkage, scale)"""
    features: Traffic
    """between clients and main server"""
    sums: Traffic
    """between clients and fed server"""
    samples: int
    """that were sent, each once"""
    failures: tuple[Failure, ...]
    unheard: tuple[Failure, ...]
    """of clients whose validation samples did not count; their sums do"""
    visits: Mapping[str, int]
    """modality -> samples whose features went into the sums"""


def warm_start(server: FedServer, ask: Ask) -> WarmStart:
    """Set the classifiers and π of the fed server's state from the clients' sums."""
    holders = sorted(name for name, client in server.clients.items() if client.labelled > 0)
    taught = sorted(name for name, client in server.clients.items() if client.teachable > 0)
    config = server.blueprint.config.warm_start
    whole: Mapping[str, Linear] = {}
    if config.form == "joint":
        first, chosen = _side_by_side(server, ask, holders, "joint")
    else:
        first, chosen, whole = _fit(server, ask, holders, holders, "labels")
    if taught and chosen and config.form == "apart" and server.blueprint.config.transfer.closed_form:
        # Once only: repeated, it drifts away from the labels.
        before = server.state
        second, softly, wholly = _fit(server, ask, sorted({*holders, *taught}), holders, "soft")
        lost = {failure.client for failure in second.failures} - {failure.client for failure in first.failures}
        if lost.intersection(holders):
            # Sums without labels that the first exchange had would be a step back.
            server.restore(before)
        else:
            chosen, whole = softly, wholly
        first = first + second
    judged = _Exchange()
    if config.calibrate and chosen:
        chosen, judged = _calibrated(server, ask, whole, chosen)
    if config.fused and chosen:
        third, corrected = _side_by_side(server, ask, holders, "fused")
        first, chosen = first + third, {**chosen, **corrected}
    sent = sum(client.labelled for client in server.clients.values())
    if taught and server.blueprint.config.transfer.closed_form:
        sent += sum(client.teachable for client in server.clients.values())
    # Whoever fails in one exchange of the same samples fails in the next as well, and says the same.
    failures = tuple(dict.fromkeys(first.failures))
    return WarmStart(chosen, first.features + judged.features, first.sums + judged.sums, sent, failures, judged.failures, first.visits)


def _fit(
    server: FedServer, ask: Ask, clients: Sequence[str], judges: Sequence[str], of: Summed
) -> tuple["_Exchange", dict[str, tuple[float, float]], dict[str, Linear]]:
    """Two exchanges: fit on even samples and judge on odd ones, then refit on all. What was chosen, and the refitted without their scales.

    With soft labels the choice is made anew: ten times the samples want less shrinkage. Unlabelled samples count as even ones.
    """
    config, task = server.blueprint.config.warm_start, server.blueprint.task
    scales = task.scales(config.scales)
    sums, first = _sums(server, ask, clients, of)
    if not sums:
        return first, {}, {}
    even, odd = total(result.even for result in sums), total(result.odd for result in sums)
    server.adopt_prior(task.prior(_ordered_sum([result.counts for result in sums]), server.state.log_prior))
    prior = server.state.log_prior.double()
    candidates = {
        name: tuple(task.fit(one, shrinkage, prior) for shrinkage in config.shrinkages)
        for name, one in even.items()
        if task.number(one) > 0
    }
    pairs = {name: tuple((one.weight, one.bias) for one in many) for name, many in candidates.items()}
    tables, second = _judge(server, ask, _heard(judges, sums), pairs, scales, "labels")
    chosen = best(tables, config.shrinkages, scales)
    whole = {modality: task.fit(even[modality] + odd[modality], shrinkage, prior) for modality, (shrinkage, _) in chosen.items()}
    server.adopt({modality: task.classifier(whole[modality], scale, prior) for modality, (_, scale) in chosen.items()})
    judged = {
        modality: (tables[modality][config.shrinkages.index(shrinkage), scales.index(scale)], task.number(odd[modality]))
        for modality, (shrinkage, scale) in chosen.items()
    }
    learned = task.learned(prior, judged)
    if learned is not prior:
        server.adopt_prior(learned)
    return first + second, chosen, whole


def _calibrated(
    server: FedServer, ask: Ask, whole: Mapping[str, Linear], chosen: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, tuple[float, float]], "_Exchange"]:
    """Classifiers at the scales of least loss on validation samples; as before for a modality that nobody validates."""
    task, prior = server.blueprint.task, server.state.log_prior.double()
    scales = task.scales(server.blueprint.config.warm_start.scales)
    clients = sorted(name for name, client in server.clients.items() if client.validation > 0)
    pairs = {modality: ((one.weight, one.bias),) for modality, one in whole.items()}
    tables, exchange = _judge(server, ask, clients, pairs, scales, "validation")
    found = best({modality: table for modality, table in tables.items() if bool(table.any())}, (0.0,), scales)
    server.adopt({modality: task.classifier(whole[modality], scale, prior) for modality, (_, scale) in found.items()})
    return {modality: (shrinkage, found.get(modality, (shrinkage, scale))[1]) for modality, (shrinkage, scale) in chosen.items()}, exchange


def _side_by_side(
    server: FedServer, ask: Ask, clients: Sequence[str], of: Literal["joint", "fused"]
) -> tuple["_Exchange", dict[str, tuple[float, float]]]:
    """Two exchanges, as in `_fit`, for the ridge regression of what is not explained yet: without any classifier by the prior (`joint`,
    which makes all C_m), or by the sum of opinions (`fused`, which makes C_f)."""
    shrinkages, task = server.blueprint.config.warm_start.shrinkages, server.blueprint.task
    sums, first = _sums(server, ask, clients, of)
    if not sums:
        return first, {}
    even, odd = (total(half)[FUSED] for half in ([result.even for result in sums], [result.odd for result in sums]))
    if of == "joint":
        server.adopt_prior(task.prior(_ordered_sum([result.counts for result in sums]), server.state.log_prior))
    if even.counts[-1] == 0:
        return first, {}

    def fit(one: Sums, shrinkage: float) -> Tensor:
        return residual_ridge(centred(one) if of == "joint" else one, shrinkage)

    candidates = tuple((fit(even, shrinkage), torch.zeros(task.outputs)) for shrinkage in shrinkages)
    tables, second = _judge(server, ask, _heard(clients, sums), {FUSED: candidates}, CORRECTIONS, of)
    if FUSED not in tables:  # nobody could judge
        return first + second, {}
    shrinkage, scale = best(tables, shrinkages, CORRECTIONS)[FUSED]
    weight = scale * fit(even + odd, shrinkage)
    if of == "fused":
        server.adopt({FUSED: Linear(weight[:, :-1], weight[:, -1])})
        return first + second, {FUSED: (shrinkage, scale)}
    widths, prior = server.blueprint.widths, server.state.log_prior.double()
    blocks = zip(widths, blocks_of(weight, [one.pooled for one in widths.values()]), strict=True)
    server.adopt({name: Linear(block, bias + prior) for name, (block, bias) in blocks})
    return first + second, dict.fromkeys(widths, (shrinkage, scale))


def _heard(judges: Sequence[str], sums: Sequence[SumsResult]) -> list[str]:
    """Those whose sums are in what is judged: one that was away then and has come back would count by half."""
    return [name for name in judges if name in {result.client for result in sums}]


@dataclass(frozen=True)
class _Exchange:
    features: Traffic = field(default_factory=Traffic)
    sums: Traffic = field(default_factory=Traffic)
    failures: tuple[Failure, ...] = ()
    visits: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "_Exchange") -> "_Exchange":
        # What was sent once is sent no second time: a later exchange of sums is over the same samples and more.
        visits = {name: max(one.get(name, 0) for one in (self.visits, other.visits)) for name in {**self.visits, **other.visits}}
        return _Exchange(self.features + other.features, self.sums + other.sums, self.failures + other.failures, visits)


def _sums(server: FedServer, ask: Ask, clients: Sequence[str], of: Summed) -> tuple[list[SumsResult], _Exchange]:
    tasks = [SumsTask(name, server.view(name), of) for name in clients]
    answers = ask(tasks)
    results = sorted((one for one in answers if isinstance(one, SumsResult)), key=lambda one: one.client)
    features = sum((one.traffic for one in results), Traffic())
    sums = Traffic(sum(one.nbytes for one in results), sum(task.view.nbytes for task in tasks))
    visits: dict[str, float] = {}
    for half in (half for result in results for half in (result.even, result.odd)):
        for modality, one in half.items():
            for name, number in _visited(server, modality, one, of).items():
                visits[name] = visits.get(name, 0.0) + number
    failures = tuple(one for one in answers if isinstance(one, Failure))
    return results, _Exchange(features, sums, failures, {modality: round(number) for modality, number in visits.items()})


def _visited(server: FedServer, name: str, sums: ClassSums, of: Summed) -> dict[str, float]:
    """modality -> samples whose features are in these sums; of all modalities side by side the last features count them."""
    if name != FUSED:
        return {name: server.blueprint.task.number(sums)}
    modalities = server.blueprint.modalities
    return dict(zip(modalities, sums.sums[-1, -len(modalities) :].tolist(), strict=True)) if of == "joint" else {}


def _judge(
    server: FedServer,
    ask: Ask,
    clients: Sequence[str],
    pairs: Mapping[str, tuple[tuple[Tensor, Tensor], ...]],
    scales: tuple[float, ...],
    of: Judged,
) -> tuple[dict[str, Tensor], _Exchange]:
    tasks = [JudgeTask(name, server.view(name), pairs, scales, of) for name in clients]
    answers = ask(tasks)
    results = sorted((one for one in answers if isinstance(one, JudgeResult)), key=lambda one: one.client)
    tables: dict[str, list[Tensor]] = {}
    for result in results:
        for modality, table in result.losses.items():
            tables.setdefault(modality, []).append(table)
    sent = sum(
        nbytes(pair)
        for task in tasks
        for name, many in pairs.items()
        if name in (FUSED, *server.clients[task.client].modalities)
        for pair in many
    )
    received = sum(nbytes(result.losses.values()) for result in results)
    features = sum((one.traffic for one in results), Traffic())
    sums = Traffic(received, sent + sum(task.view.nbytes for task in tasks))
    failures = tuple(one for one in answers if isinstance(one, Failure))
    return {modality: _ordered_sum(parts) for modality, parts in tables.items()}, _Exchange(features, sums, failures, {})


def _ordered_sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum in float64 in the order given."""
    result = torch.zeros_like(parts[0], dtype=torch.float64)
    for part in parts:
        result = result + part
    return result
