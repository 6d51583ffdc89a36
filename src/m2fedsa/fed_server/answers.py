"""What clients answer, looked at before it counts: an answer that does not fit its task costs the client that gave it, and nobody else.

A finite number that is wrong cannot be told from one that is right; what would stop a run, or ruin an average at once, can. Samples are
bounded by the registry. Legend: K classes or targets, D width of the features that are summed.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from m2fedsa.blueprint import FUSED, FUSION, Blueprint
from m2fedsa.errors import ProtocolError
from m2fedsa.messages import (
    ClientInfo,
    EvaluateResult,
    EvaluateTask,
    Failure,
    JudgeResult,
    JudgeTask,
    Result,
    SumsResult,
    SumsTask,
    Task,
    Traffic,
    TrainResult,
    TrainTask,
)
from m2fedsa.metrics.tally import tensors_of
from m2fedsa.moments import FIRST, SECOND, STEPS
from m2fedsa.state import by_prefix
from m2fedsa.warm_start import numbers_of, rows_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROUNDING = 1e-6
"""By how much, relative to the registry, soft counts may be too many."""
_UNDEFINED = "auc"
"""The field of a tally that is NaN where it is not defined."""


def checked(blueprint: Blueprint, client: ClientInfo, task: Task, answer: Result | Failure) -> Result | Failure:
    """The answer of a client, or in its place a failure that names the tensor or field and says what would be right."""
    if isinstance(answer, Failure):
        return answer
    try:
        _Look(blueprint, client).at(task, answer)
    except ProtocolError as error:
        return Failure(client.name, type(error).__name__, f"client {client.name}: {error}")
    return answer


@dataclass(frozen=True)
class _Look:
    """At what one client answers; `ProtocolError` for what does not fit."""

    blueprint: Blueprint
    client: ClientInfo

    def at(self, task: Task, answer: Result) -> None:
        """An answer to a task."""
        match task, answer:
            case TrainTask(), TrainResult():
                _nonnegative("teaching", answer.teaching)
                self._trained(task, answer)
            case SumsTask(), SumsResult():
                self._summed(task, answer)
            case JudgeTask(), JudgeResult():
                self._judged(task, answer)
            case EvaluateTask(), EvaluateResult():
                self._evaluated(task, answer)
            case _:
                raise ProtocolError(f"a {type(answer).__name__} answers its {type(task).__name__}.")
        _nonnegative("traffic", answer.traffic)

    # --- a round --------------------------------------------------------------------------------------------------------------------

    def _trained(self, task: TrainTask, result: TrainResult) -> None:
        distinct, visits = self._may_train_on(task)
        for prefix, number in result.samples.items():
            if prefix.partition(".")[0] not in (*self.client.modalities, FUSED, FUSION):
                raise ProtocolError(f"`samples` names {prefix!r:.60}, which it does not hold; it has {', '.join(self.client.modalities)}.")
            most = self.client.labelled if prefix == f"{FUSED}." else distinct
            _within(f"`samples` of {prefix}", number, most)
        wanted = {name: value for name, value in task.view.tensors.items() if self._returns(task, result, name)}
        _same_names("tensor", result.tensors, wanted)
        for name, value in wanted.items():
            _fits(name, result.tensors[name], value.shape, value.dtype)
        self._carried(result)
        for name, (total, number) in result.losses.items():
            if not math.isfinite(total):
                raise ProtocolError(f"the loss {name} is {total}; a finite number is needed.")
            # A loss of one's own may report what it likes under names of its own.
            _within(f"samples of the loss {name}", number, visits if name in (*self.client.modalities, FUSED, "fused_multimodal") else None)
        for name, number in result.visits.items():
            _within(f"`visits` of {name}", number, visits)
        _within("`steps`", result.steps, visits)
        if result.local is not None and not _SHA256.fullmatch(result.local):
            raise ProtocolError(f"`local` is {result.local!r:.80}; a SHA-256 of 64 hexadecimal digits is needed.")

    def _carried(self, result: TrainResult) -> None:
        """Moments of what it returns, where the settings carry them: squares are not below zero, and somebody has stepped."""
        averaged = self.blueprint.config.optimizer.moments == "averaged"
        wanted = {kind + name: value for name, value in result.tensors.items() for kind in (FIRST, SECOND, STEPS) if averaged}
        _same_names("moment", result.moments, wanted)
        for name, tensor in wanted.items():
            value = result.moments[name]
            counts = name.startswith(STEPS)
            _fits(name, value, () if counts else tensor.shape, torch.float32 if counts else tensor.dtype)
            if not name.startswith(FIRST):
                _not_below_zero(name, value)

    def _may_train_on(self, task: TrainTask) -> tuple[int, int]:
        """Distinct samples that the client draws in a phase, and how many samples all its batches have together at most."""
        settings = self.blueprint.config
        taught = task.plan.phase == "transfer" and settings.transfer.unlabelled
        distinct = self.client.labelled + (self.client.teachable if taught else 0)
        federation = settings.federation
        if federation.local_steps is None:
            return distinct, distinct * federation.local_epochs
        return distinct, federation.batch_size * federation.local_steps

    def _returns(self, task: TrainTask, result: TrainResult, name: str) -> bool:
        """Whether a tensor is among those that a client has trained on these samples and gives away."""
        rests = task.plan.phase == "transfer" and name.startswith(f"{FUSED}.")
        stays = self.blueprint.config.averaging.over(name) == "nothing"
        return not rests and not stays and by_prefix(result.samples, name) > 0

    # --- the warm start -------------------------------------------------------------------------------------------------------------

    def _summed(self, task: SumsTask, result: SumsResult) -> None:
        known = self._summed_names(task)
        for half in (result.even, result.odd):
            _known_names("sums", half, known)
        _same_names("odd sums", result.odd, result.even)
        rows = self.blueprint.classes + (self.blueprint.task.kind != "single_label" or task.of in ("joint", FUSED))
        softly = self.client.teachable if task.of == "soft" else 0
        for name, width in ((name, known[name]) for name in result.even):
            for which, sums, most in (
                ("even", result.even[name], self.client.labelled + softly),
                ("odd", result.odd[name], self.client.labelled),
            ):
                place = f"{which} sums of {name}"
                taken = min(rows_of(sums.factor.numel(), width), most)
                for field, shape in (("counts", (rows,)), ("sums", (rows, width)), ("factor", (numbers_of(taken, width),))):
                    _fits(f"{field} in the {place}", getattr(sums, field), shape)
                # Of classes all counts are samples; else the last one is.
                counts = sums.counts if rows == self.blueprint.classes else sums.counts[-1:]
                _not_below_zero(f"counts in the {place}", counts)
                _within(f"samples in the {place}", float(counts.sum()), most)
        self._counted(result.counts)

    def _summed_names(self, task: SumsTask) -> dict[str, int]:
        """What may be summed, and how wide it is."""
        pooled = {name: widths.pooled for name, widths in self.blueprint.widths.items()}
        if task.of == "joint":
            return {FUSED: sum(pooled.values()) + len(pooled)}
        return {FUSED: self.blueprint.config.fusion.width + 1} if task.of == "fused" else {m: pooled[m] for m in self.client.modalities}

    def _counted(self, counts: Tensor) -> None:
        """What `Task.counted` gives: of classes their samples; of several those that have each, and all; of numbers N, Σ y, Σ y²."""
        task, most = self.blueprint.task, self.client.labelled
        _fits("counts", counts, task.counted(_no_labels(self.blueprint)).shape)
        kind = task.kind
        _not_below_zero("counts", counts[[0, 2]] if kind == "regression" else counts)
        if kind == "single_label":
            _within("samples in counts", float(counts.sum()), most)
            return
        _within("samples in counts", float(counts[1 if kind == "multi_label" else 0].max()), most)
        if kind == "multi_label" and bool((counts[0] > counts[1]).any()):
            raise ProtocolError("counts has more samples of a class than samples.")

    def _judged(self, task: JudgeTask, result: JudgeResult) -> None:
        _known_names("losses", result.losses, [name for name in task.candidates if name in (FUSED, *self.client.modalities)])
        for name, table in result.losses.items():
            candidates = task.candidates[name]
            each = (self.blueprint.classes,) if self.blueprint.task.kind == "regression" else ()
            # What follows from a candidate that is not finite is no fault of the client's.
            finite = all(bool(value.isfinite().all()) for pair in candidates for value in pair)
            _fits(f"losses of {name}", table, (len(candidates), len(task.scales), *each), finite=finite)

    # --- evaluation -----------------------------------------------------------------------------------------------------------------

    def _evaluated(self, task: EvaluateTask, result: EvaluateResult) -> None:
        most: int = getattr(self.client, task.split)
        sizes = range(1, len(self.client.modalities) + 1)
        subsets = ["+".join(subset) for size in sizes for subset in combinations(self.client.modalities, size)]
        _known_names("tallies", result.tallies, [FUSED, *subsets])
        right = _a_tally(self.blueprint, task.view.log_prior)
        for subset, tally in result.tallies.items():
            _same_names(f"field of the tally of {subset},", tally, right)
            for field, value in tally.items():
                _fits(f"{field} in the tally of {subset}", value, right[field].shape, finite=field != _UNDEFINED)
            for field in ("confusion", "scores", "right", "number"):
                if field in tally:
                    _not_below_zero(f"{field} in the tally of {subset}", tally[field])
            self._tallied(f"the tally of {subset}", tally, most)
            if "shift" in tally and not torch.equal(tally["shift"], right["shift"]):
                raise ProtocolError(f"shift in the tally of {subset} is not the mean that it was given.")

    def _tallied(self, place: str, tally: Mapping[str, Tensor], most: int) -> None:
        """How many samples are in a tally: at least one, and of every class or target the same."""
        kind = self.blueprint.task.kind
        each = tally["number"] if kind == "regression" else tally["confusion"].sum(() if kind == "single_label" else (1, 2)).reshape(-1)
        number = float(each[0])
        _within(f"samples in {place}", number, most)
        if number == 0 or bool((each != number).any()):
            raise ProtocolError(f"{place} is of {each.tolist()} samples; one number of at least 1 is needed.")


# --- what is said of them -----------------------------------------------------------------------------------------------------------


def _fits(name: str, value: Tensor, shape: Iterable[int], dtype: torch.dtype | None = None, *, finite: bool = True) -> None:
    """Shape and type (None: any floating one), and values that are finite."""
    right = tuple(shape)
    if tuple(value.shape) != right or (not value.is_floating_point() if dtype is None else value.dtype != dtype):
        wanted = "floating" if dtype is None else str(dtype).removeprefix("torch.")
        raise ProtocolError(f"{name} is {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}; {right} {wanted} is needed.")
    if finite and not bool(value.isfinite().all()):
        raise ProtocolError(f"{name} has {int((~value.isfinite()).sum())} of {value.numel()} values that are not finite.")


def _within(name: str, number: float, most: float | None) -> None:
    """A number of samples: not below zero, nor above what the registry knows of."""
    if not 0 <= number <= (math.inf if most is None else most * (1 + _ROUNDING)):
        raise ProtocolError(f"{name} is {number:g}; {'0 or more' if most is None else f'0 … {most:g}'} is needed.")


def _nonnegative(name: str, traffic: Traffic) -> None:
    if traffic.up < 0 or traffic.down < 0:
        raise ProtocolError(f"`{name}` is {traffic.up} bytes up and {traffic.down} down; 0 or more are needed.")


def _not_below_zero(name: str, value: Tensor) -> None:
    if bool((value < 0).any()):
        raise ProtocolError(f"{name} has a value of {float(value.min()):g}; 0 or more are needed.")


def _known_names(what: str, found: Iterable[str], known: Iterable[str]) -> None:
    right = list(known)
    strange = next((name for name in found if name not in right), None)
    if strange is not None:
        raise ProtocolError(f"{what} of {strange!r:.60} are unknown; of {', '.join(right)} they can be.")


def _same_names(what: str, found: Mapping[str, object], right: Mapping[str, object]) -> None:
    strange = next((name for name in found if name not in right), None)
    missing = next((name for name in right if name not in found), None)
    if strange is not None:
        raise ProtocolError(f"{what} {strange!s:.80} has no place in this answer.")
    if missing is not None:
        raise ProtocolError(f"{what} {missing} is missing.")


def _no_labels(blueprint: Blueprint) -> Tensor:
    """Of no sample, in the form of the task."""
    match blueprint.task.kind:
        case "single_label":
            return torch.zeros(0, dtype=torch.int64)
        case "multi_label":
            return torch.zeros(0, blueprint.classes, dtype=torch.int64)
        case _:
            return torch.zeros(0, blueprint.classes)


def _a_tally(blueprint: Blueprint, prior: Tensor) -> dict[str, Tensor]:
    """The tally of one sample: which fields there are, and their shapes."""
    one = _no_labels(blueprint)
    labels = one.new_zeros(1, *one.shape[1:])
    return tensors_of(blueprint.task.tally(torch.zeros(1, blueprint.classes), labels, prior))
