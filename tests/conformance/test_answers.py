"""A client that answers badly costs itself: over every link and federation the run ends as one without it does."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests import worlds
from tests.conformance import over_flower, over_grpc

from m2fedsa.errors import RoundLostError
from m2fedsa.messages import Failure, TrainResult, TrainTask
from m2fedsa.reporting.progress import Silent
from m2fedsa.training import Training

BAD = "bob"


@dataclass
class Spoiling:
    """A federation in which one client's answers are others."""

    inner: object
    spoil: object
    seen: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, tasks):
        for answer in self.inner.run(tasks):
            yield self.spoil(answer) if answer.client == BAD and isinstance(answer, TrainResult) else answer


@dataclass
class Unopened:
    """A federation in which one client sends a result without a session of the round."""

    inner: object
    results: dict

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, tasks):
        yield from self.inner.run([task for task in tasks if not (task.client == BAD and isinstance(task, TrainTask))])
        yield from (self.results[task.plan.number] for task in tasks if task.client == BAD and isinstance(task, TrainTask))


@contextmanager
def placed(kind, config, folder):
    """All parties, put together in one of the ways."""
    data = worlds.federated()
    if kind == "in process":
        who = worlds.parties(config, data)
        who.keep_in(folder)
        yield who
        return
    with over_grpc.served(config, data, folder) as (who, links, coordination):
        if kind == "gRPC":
            yield replace(who, federation=over_grpc.federation(who, links), coordination=coordination)
            return
        with over_flower.federation(who, links, folder) as federation:
            yield replace(who, federation=federation, coordination=coordination)


def config(**settings):
    return worlds.config(federation__local_steps=2, **settings)


def trained(who):
    training = Training(who, Silent(), None)
    return training.through(resume=False).digest, [
        [(one["client"], one["kind"], one["message"]) for one in record.get("failures", [])] for record in training.history
    ]


def without(folder):
    """The digest of a run in which the client fails in every round."""
    with placed("in process", config(), folder) as who:
        digest, _ = trained(replace(who, federation=Spoiling(who.federation, lambda answer: Failure(answer.client, "Lost", "gone"))))
    return digest


def not_finite(answer):
    tensors = dict(answer.tensors)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * float("nan")
    return replace(answer, tensors=tensors)


ways = pytest.mark.parametrize("kind", ["in process", "gRPC", "Flower"])


@ways
def test_a_result_that_is_not_finite(kind, tmp_path):
    with placed(kind, config(), tmp_path / "with") as who:
        digest, failures = trained(replace(who, federation=Spoiling(who.federation, not_finite)))
    assert digest == without(tmp_path / "without")
    for ((client, why, message),) in failures:
        assert (client, why) == (BAD, "ProtocolError")
        assert "values that are not finite" in message


@ways
def test_a_result_without_a_session(kind, tmp_path):
    """The main server has no copies of it that count; the round ends with the others."""
    kept = {}

    def keep(answer):
        kept[len(kept) + 1] = answer
        return answer

    with placed("in process", config(), tmp_path / "before") as who:
        trained(replace(who, federation=Spoiling(who.federation, keep)))
    with placed(kind, config(), tmp_path / "with") as who:
        digest, failures = trained(replace(who, federation=Unopened(who.federation, kept)))
    assert digest == without(tmp_path / "without")
    for ((client, why, message),) in failures:
        assert (client, why) == (BAD, "ProtocolError")
        assert "its session with the main server did not close in order" in message


def test_too_few_are_left(tmp_path):
    with placed("in process", config(federation__min_clients=5), tmp_path) as who:
        bad = replace(who, federation=Spoiling(who.federation, not_finite))
        with pytest.raises(RoundLostError, match=r"1 of 5 clients failed. The first was bob \(ProtocolError\)"):
            trained(bad)
        assert who.coordination.rounds == (0, None, None)


@ways
def test_a_run_that_begins_again_begins_from_the_seed(kind, tmp_path):
    """Whatever the main server had in force: its process may be an older one than that of the fed server."""
    with placed(kind, config(), tmp_path) as who:
        start = who.fed_server.state
        first, _ = trained(who)
        who.fed_server.restore(start)
        who.federation.restore({})
        again, _ = trained(who)
    assert again == first
