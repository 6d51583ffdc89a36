"""The fed server's tasks put to the clients, and their answers, in the four ways in which a run asks."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from m2fedsa.errors import RoundLostError
from m2fedsa.figures import Evaluated
from m2fedsa.messages import Evaluated as Split
from m2fedsa.messages import EvaluateResult, Failure, RoundPlan, Task, TrainResult, TrainTask
from m2fedsa.messages import Result as Answer
from m2fedsa.moments import of_tensors
from m2fedsa.parties import Company
from m2fedsa.reporting.progress import Progress
from m2fedsa.reporting.units import plural
from m2fedsa.state import Tensors

PASSING = ("Away", "Lost", "Silent", "LinkError", "ProtocolError", "RefusedError")
"""Kinds of failures that are of a broken way rather than of a client's samples: asked again, it may answer."""
ABSENT = ("Away", "Lost")
"""Those of a client that was not there: it may be a while until it is."""


class Asking:
    """Asks the clients of a run, and tells a person how many have answered."""

    def __init__(self, parties: Company, progress: Progress) -> None:
        """Nobody is asked yet."""
        self._parties, self._progress = parties, progress

    def ask(self, tasks: Sequence[Task], what: str) -> list[Answer | Failure]:
        """The answers, in the order in which they come; one that does not fit its task is its client's failure."""
        answers: list[Answer | Failure] = []
        given = {task.client: task for task in tasks}
        for answer in self._parties.federation.run(tasks):
            answers.append(self._parties.fed_server.checked(given[answer.client], answer))
            self._progress.client_done(len(answers), len(tasks), what)
        return answers

    def surely(self, tasks: Sequence[Task], what: str, least: int) -> list[Answer | Failure]:
        """Ask, and ask those once more that a broken way has kept from answering, and again those that were away or lost; before that the
        main server is found again, and whoever is away is waited for, above all while fewer than `least` have answered."""
        answers = self.ask(tasks, what)
        passing: Sequence[str] = PASSING
        for _ in range(self._parties.attempts - 1):
            lost = [answer.client for answer in answers if isinstance(answer, Failure) and answer.kind in passing]
            if not lost:
                break
            self._parties.coordination.fingerprints()
            answered = sum(not isinstance(answer, Failure) for answer in answers)
            back = set(self._parties.federation.returned(lost, min(least - answered, len(lost))))
            if not back:
                break
            again = self.ask([task for task in tasks if task.client in back], what)
            answers = [*(answer for answer in answers if answer.client not in back), *again]
            passing = ABSENT
        return answers

    def relay(self, tasks: Sequence[TrainTask]) -> list[Answer | Failure]:
        """One client after the other, each from what those before it made of the clients' tensors: the last one's count."""
        answers: list[Answer | Failure] = []
        latest: dict[str, Tensor] = {}
        carried: dict[str, Tensor] = {}
        for done, task in enumerate(tasks, 1):
            view = replace(task.view, tensors={name: latest.get(name, value) for name, value in task.view.tensors.items()})
            given = replace(task, view=view, moments={**task.moments, **of_tensors(carried, view.tensors)})
            for found in self._parties.federation.run([given]):
                answer = self._parties.fed_server.checked(given, found)
                answers.append(answer)
                if isinstance(answer, TrainResult):
                    latest |= answer.tensors
                    carried |= answer.moments
            self._progress.client_done(done, len(tasks), "training")
        return [_last(answer, latest, carried) if isinstance(answer, TrainResult) else answer for answer in answers]

    def evaluate(self, split: Split) -> Evaluated:
        """Metrics of one split over all that hold samples of it. `RoundLostError` if none of them could answer."""
        answers = self.surely(self._parties.fed_server.evaluation(split), f"{split} samples", 1)
        failed = [answer for answer in answers if isinstance(answer, Failure)]
        if failed and len(failed) == len(answers):
            raise RoundLostError(f"no client could evaluate its {split} samples. The first was {failed[0].client}: {failed[0].message}")
        return Evaluated.of(
            self._parties.blueprint.config.data.task, [answer for answer in answers if isinstance(answer, EvaluateResult)], failed
        )


def _last(answer: TrainResult, tensors: Tensors, moments: Tensors) -> TrainResult:
    """The answer with what the last client has made of its tensors, and of their moments."""
    mine, carried = ({name: found[name] for name in names} for found, names in ((tensors, answer.tensors), (moments, answer.moments)))
    return replace(answer, tensors=mine, moments=carried)


def no_warm_start(failures: Sequence[Failure], least: int) -> str:
    """Why there is no warm start."""
    if failures:
        return f"the warm start failed at every client; the first said: {failures[0].message}"
    return (
        f"the warm start has no sums: warm_start.min_count = {least} keeps all of them back, because no client has that many samples of a "
        "class in half of its samples. Lower it, or set federation.warm_start = false."
    )


def too_few(plan: RoundPlan, number: int, failures: Sequence[Failure], least: int) -> str:
    """Why a round that `number` clients finished does not count."""
    if not failures:
        if number:
            return f"round {plan.number}: {plural(number, 'client')} took part, but federation.min_clients = {least}."
        return f"round {plan.number}: no client takes part; in the {plan.phase} phase none has samples to train on."
    first = failures[0]
    what = f"{len(failures)} of {number + len(failures)}" if number else f"all {len(failures)}"
    told = f"round {plan.number}: {what} clients failed. The first was {first.client} ({first.kind}): {first.message}"
    return f"{told} At least {least} must finish (federation.min_clients)." if number else told
