"""The round loop of a run: the warm start, the rounds, the figures.

for each round:
    1. the fed server plans it and makes the tasks       (who, which tensors, which phase, which seed)
    2. the clients train, each through its link to the main server
    3. both servers average exactly the accepted clients
    4. the round is written down and commits on both servers, or on neither
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from m2fedsa.asking import Asking, no_warm_start, too_few
from m2fedsa.checkpoint import Manifest
from m2fedsa.costs import Costs
from m2fedsa.errors import ProtocolError, RoundLostError, RunDirectoryError, RunError, UnfinishedError
from m2fedsa.fed_server.warm import WarmStart, warm_start
from m2fedsa.figures import Evaluated, bytes_of, failure_records, result_record, round_record
from m2fedsa.keeping import Keeping
from m2fedsa.messages import Averaged, Failure, RoundPlan, TrainResult, TrainTask
from m2fedsa.parties import Company
from m2fedsa.reporting.progress import Progress
from m2fedsa.reporting.records import Metrics, RoundRecord, WarmStartRecord
from m2fedsa.reporting.run_directory import RunDirectory, read_warm_start
from m2fedsa.reporting.units import plural
from m2fedsa.result import Result
from m2fedsa.stopping import metric_of, out_of_patience


class Training:
    """The state of a run between two rounds, and the steps from one to the next."""

    def __init__(self, parties: Company, progress: Progress, directory: RunDirectory | None) -> None:
        """Nothing is written or trained yet."""
        self.parties, self.progress, self.directory = parties, progress, directory
        self.config = parties.blueprint.config
        self.asking = Asking(parties, progress)
        self.history: list[RoundRecord] = []
        self.keeping = Keeping(parties)
        self.costs = Costs(parties.blueprint, parties.fed_server.clients)
        self.warm: WarmStartRecord | None = None

    def through(self, resume: bool) -> Result:
        """From the beginning, or from the checkpoint, to the end."""
        if resume:
            self.restore()
        else:
            self.begin()
        while self.round < self.config.federation.rounds and not self._is_over():
            self.next_round()
        return self.finish()

    @property
    def round(self) -> int:
        """The last round that is part of the run."""
        return self.parties.fed_server.state.round

    # --- before the first round -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the run directory, and the warm start if the settings ask for one."""
        facts = self.parties.facts()
        if self.directory is not None:
            self.directory.begin(facts)
        self.keeping.open(None if self.directory is None else self.directory.checkpoint)
        # A main server that is a process of its own may have been in a later round of a run that begins again.
        self.parties.coordination.restore(0, None)
        self.progress.started(facts)
        if self.config.federation.warm_start:
            self._warm_start()
        self.keeping.write(self.history, self._start, None)

    def _warm_start(self) -> None:
        began = time.monotonic()
        outcome = self._warmed()
        self.parties.federation.commit(0, list(self.parties.fed_server.clients))
        seconds = time.monotonic() - began
        validation, test = self.asking.evaluate("validation"), self.asking.evaluate("test")
        self.warm = {
            "metrics": validation.metrics,
            "test": test.metrics,
            "bytes": bytes_of(self.costs.of_link(outcome.features)),
            "sums": {"up": outcome.sums.up, "down": outcome.sums.down},
            "seconds": round(seconds, 3),
            "samples": outcome.samples,
            "visits": dict(outcome.visits),
            "chosen": {name: {"shrinkage": shrinkage, "scale": scale} for name, (shrinkage, scale) in outcome.chosen.items()},
            "failures": failure_records([*outcome.failures, *outcome.unheard, *validation.failures, *test.failures]),
        }
        if self.directory is not None:
            self.directory.warm_started(self.warm)
        self.progress.warm_started(self.warm)

    def _warmed(self) -> WarmStart:
        """The warm start of as many clients as a round takes; begun again like a round, where fewer finish."""
        server = self.parties.fed_server
        before, holders = server.state, {name for name, client in server.clients.items() if client.labelled}
        least = min(self.config.federation.min_clients, len(holders))
        for _ in range(self.parties.attempts):
            server.restore(before)
            outcome = warm_start(server, lambda tasks: self.asking.surely(tasks, "warm start", least))
            finished = len(holders - {failure.client for failure in outcome.failures})
            if outcome.chosen and finished >= least:
                return outcome
        if not outcome.chosen:
            raise RunError(no_warm_start(outcome.failures, self.config.warm_start.min_count))
        raise RoundLostError(
            f"the warm start: {finished} of {plural(len(holders), 'client')} finished, but federation.min_clients = {least}. "
            f"The first failure was at {outcome.failures[0].client}: {outcome.failures[0].message}"
        )

    def restore(self) -> None:
        """Go back to the checkpoint of the run directory, or to the beginning if there is none yet."""
        assert self.directory is not None
        manifest = Manifest.read(self.directory.checkpoint)
        if manifest is None:
            self.directory.cut_back(0)
            self.begin()
            return
        self.keeping.open(self.directory.checkpoint)
        self.directory.compare(self.parties.facts())
        self.keeping.restore(manifest)
        self.history = self.directory.cut_back(manifest.round)
        self.warm = read_warm_start(self.directory.path)
        if self.warm is None and self.config.federation.warm_start:
            raise RunDirectoryError(f"{self.directory.path}: warm_start.json is missing. Restore it from a copy, or begin a new run.")
        self.progress.started(self.parties.facts(), manifest.round)

    # --- a round --------------------------------------------------------------------------------------------------------------------

    def next_round(self) -> None:
        """One round. Where parties are apart, one that was lost is begun again: it leaves no trace, and is the same again."""
        before = self.parties.fed_server.state
        for attempt in range(self.parties.attempts):
            try:
                self._round()
                return
            except (RoundLostError, ProtocolError):
                if attempt + 1 == self.parties.attempts:
                    raise
                self.parties.fed_server.restore(before)
                self.parties.coordination.abort(before.round + 1)

    def _round(self) -> None:
        """The four steps at the head of this file. `RoundLostError` if too few clients finish; nothing counts then."""
        began = time.monotonic()
        server, coordination = self.parties.fed_server, self.parties.coordination
        candidates = server.candidates()
        here = self.parties.federation.present(candidates, min(self.config.federation.min_clients, len(candidates)))
        plan, tasks = server.begin_round(here, self.keeping.best_number)
        coordination.begin(plan)
        answers = self.asking.relay(tasks) if self.config.federation.client_update == "relay" else self.asking.ask(tasks, "training")
        results = [answer for answer in answers if isinstance(answer, TrainResult)]
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        averaged = self._averaged(plan, results, failures)
        server.end_round(plan, results)
        evaluated = self.asking.evaluate("validation") if self._is_due(plan.number) else None
        self._book(tasks, results, failures, evaluated, time.monotonic() - began)
        self.keeping.write(self.history, self._start, averaged.file, averaged.prints)
        coordination.commit(plan.number)
        self.parties.federation.commit(plan.number, [result.client for result in results])
        self.progress.round_done(self.history[-1])

    def _averaged(self, plan: RoundPlan, results: list[TrainResult], failures: list[Failure]) -> Averaged:
        """The main server's averages. A client whose session did not close in order there moves from the results to the failures."""
        coordination, least = self.parties.coordination, self.config.federation.min_clients
        while len(results) >= least:
            try:
                return coordination.end(self.parties.fed_server.accept(plan, results))
            except UnfinishedError as error:
                lost = {result.client for result in results}.intersection(error.clients)
                if not lost:
                    raise
                results[:] = [result for result in results if result.client not in lost]
                failures += [Failure(name, "ProtocolError", _unfinished(name)) for name in sorted(lost)]
        coordination.abort(plan.number)
        raise RoundLostError(too_few(plan, len(results), failures, least))

    def _is_over(self) -> bool:
        """Whether `evaluation.patience` is at its end."""
        return out_of_patience(self.history, metric_of(self.config), self.config.evaluation.patience, self._start)

    @property
    def _start(self) -> Metrics | None:
        """What round 0 is judged by: the warm start on validation samples."""
        return None if self.warm is None else self.warm["metrics"]

    def _is_due(self, number: int) -> bool:
        return number % self.config.evaluation.every == 0 or number == self.config.federation.rounds

    def _book(
        self,
        tasks: Sequence[TrainTask],
        results: Sequence[TrainResult],
        failures: Sequence[Failure],
        evaluated: Evaluated | None,
        seconds: float,
    ) -> None:
        cost = self.costs.of_round(tasks, results)
        record = round_record(tasks[0].plan, results, failures, evaluated, cost, self.parties.blueprint.modalities, seconds)
        self.history.append(record)
        self.keeping.accounts.book([replace(result, traffic=cost.sent[result.client]) for result in results])
        for result in results:
            if result.local is not None:
                self.keeping.locals.note(result.client, record["round"], result.local)
        if self.directory is not None:
            self.directory.append(record)

    # --- the end --------------------------------------------------------------------------------------------------------------------------

    def finish(self) -> Result:
        """Evaluate on the test samples, the best round where that is kept, and write the result."""
        began = time.monotonic()
        self.keeping.settle()
        validation, test = self.asking.evaluate("validation"), self.asking.evaluate("test")
        seconds = (
            sum(record["seconds"] for record in self.history) + (self.warm["seconds"] if self.warm else 0.0) + time.monotonic() - began
        )
        record = result_record(
            self.parties, self.keeping.accounts, validation, test, self.warm, self.keeping.digest(), len(self.history), seconds
        )
        if self.keeping.best is not None:
            record["best_round"] = self.keeping.best.round
        if self.directory is not None:
            self.directory.finish(record)
        self.progress.finished(record, None if self.directory is None else self.directory.path)
        return Result(record, tuple(self.history), None if self.directory is None else self.directory.path)

    def stop(self) -> None:
        """Leave the round that was under way without a trace."""
        self.parties.coordination.abort(self.round + 1)

    def close(self) -> None:
        """Forget the checkpoints of a run without a directory."""
        self.keeping.close()

    def what_is_kept(self) -> str:
        """How far the run has come and how to go on, for the person whose run has stopped."""
        if self.directory is None:
            return f"after round {len(self.history)}; nothing was kept, because no run directory was given."
        if not self.directory.begun:
            return "before it began; nothing was changed."
        how = self.parties.go_on(self.directory.path)
        manifest = Manifest.read(self.directory.checkpoint)
        if manifest is None:
            return f"before its first checkpoint, and will begin again. {how}"
        return f"after round {manifest.round} of {self.config.federation.rounds}, which is kept. {how}"


def _unfinished(client: str) -> str:
    return f"client {client} sent a result, but its session with the main server did not close in order: its copies there do not count."
