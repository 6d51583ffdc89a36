"""Who is waited for: clients that come, that fall away and come back, and that stay away; with a clock of the test's own."""

from types import SimpleNamespace

import pytest

from m2fedsa.asking import Asking
from m2fedsa.federation import flower
from m2fedsa.messages import ClientInfo, EvaluateTask, Failure, GlobalView

PATIENCE, ABSENCE = 300.0, 120.0


class Clock:
    """Time passes by sleeping alone."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Grid:
    """client -> the spans of time in which it is connected."""

    def __init__(self, clock, spans):
        self.clock, self.spans = clock, spans

    def get_nodes(self):
        there = [name for name, spans in self.spans.items() if any(start <= self.clock.now < end for start, end in spans)]
        return [SimpleNamespace(public_key=name.encode(), node_id=place) for place, name in enumerate(there)]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(flower, "time", clock)
    return clock


def federation(clock, spans, *answer, registered=("ann", "bob", "eva")):
    infos = [ClientInfo(name, ("image",), 5, 5, 0, 4, 4) for name in ("ann", "bob", "eva")]
    keys = {name.encode(): name for name in registered}
    return flower.FlowerFederation(Grid(clock, spans), infos, keys, "run", lambda *_: "token", PATIENCE, ABSENCE, *answer)


ALWAYS = [(0, 1e9)]


def test_a_round_waits_for_as_many_as_it_takes_and_no_more(clock):
    apart = federation(clock, {"ann": ALWAYS, "bob": [(70, 1e9)], "eva": ALWAYS})
    assert apart.present(["ann", "bob"], 1) == ["ann"]
    assert clock.now == 0
    assert apart.present(["ann", "bob"], 2) == ["ann", "bob"]
    assert 70 <= clock.now < 72


def test_a_round_does_not_wait_for_ever(clock):
    assert federation(clock, {"ann": ALWAYS, "eva": ALWAYS}).present(["ann", "bob"], 2) == ["ann"]
    assert PATIENCE <= clock.now < PATIENCE + 2


def test_nobody_waits_for_a_client_that_was_revoked(clock):
    apart = federation(clock, {"ann": ALWAYS}, registered=("ann", "eva"))
    assert apart.returned(["ann", "bob"], 2) == apart.present(["ann", "bob"], 2) == ["ann"]
    assert clock.now == 0


def test_whoever_comes_back_was_waited_for(clock):
    apart = federation(clock, {"ann": ALWAYS, "bob": [(60, 1e9)]})
    assert apart.returned(["bob", "ann"], 0) == ["ann", "bob"]
    assert 60 <= clock.now < 62


def test_whoever_stays_away_is_waited_for_once_until_it_has_come_back(clock):
    apart = federation(clock, {"ann": ALWAYS, "bob": [(1000, 2000), (2050, 1e9)]})
    assert apart.returned(["ann", "bob"], 0) == ["ann"]
    assert ABSENCE <= clock.now < ABSENCE + 2
    before = clock.now
    assert apart.returned(["ann", "bob"], 0) == ["ann"]
    assert clock.now == before
    clock.now = 1500
    assert apart.returned(["ann", "bob"], 0) == ["ann", "bob"]
    clock.now = 2010
    assert apart.returned(["ann", "bob"], 0) == ["ann", "bob"]
    assert 2050 <= clock.now < 2052


def test_where_too_few_are_there_others_are_waited_for_however_often_in_vain(clock):
    apart = federation(clock, {"bob": [(500, 1e9)]})
    assert apart.returned(["bob"], 1) == []
    assert PATIENCE <= clock.now < PATIENCE + 2
    assert apart.returned(["bob"], 1) == ["bob"]
    assert 500 <= clock.now < 502


class Answering(Grid):
    """client -> when it answers; it is connected all the time."""

    def __init__(self, clock, answers):
        super().__init__(clock, dict.fromkeys(answers, ALWAYS))
        self.answers = answers

    def push_messages(self, messages):
        return messages

    def pull_messages(self, numbers):
        arrived = [name for name in numbers if self.answers[name] <= self.clock.now]
        return [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=name), has_error=lambda: False) for name in arrived]


def answered(clock, monkeypatch, answers, hours):
    """client -> what became of its task."""
    apart = federation(clock, {}, hours * 3600)
    apart._grid = Answering(clock, answers)
    monkeypatch.setattr(apart, "_message", lambda task, node: task.client)
    monkeypatch.setattr(apart, "_read", lambda task, reply: SimpleNamespace(client=task.client, kind=None))
    tasks = [EvaluateTask(name, GlobalView({}, None, None, 0), "test") for name in answers]
    return {one.client: one for one in apart.run(tasks)}


def test_a_client_that_is_connected_and_never_answers_is_lost_in_the_end(clock, monkeypatch):
    """Whatever keeps it from answering: nothing hangs for longer than that."""
    found = answered(clock, monkeypatch, {"ann": 5, "bob": 3 * 3600, "eva": 1e9}, hours=2)
    assert found["ann"].kind is None
    assert 2 * 3600 <= clock.now < 2 * 3600 + 2
    for name in ("bob", "eva"):
        assert isinstance(found[name], Failure)
        assert found[name].kind == "Silent"
        assert f"client {name} is connected, but has not answered for 2 hours (`answer_hours`)" in found[name].message


def test_a_slow_client_is_waited_for(clock, monkeypatch):
    found = answered(clock, monkeypatch, {"ann": 5, "bob": 3 * 3600}, hours=24)
    assert [found[name].kind for name in ("ann", "bob")] == [None, None]
    assert clock.now < 3 * 3600 + 2


class Scripted:
    """Clients that answer in turn as they are told to, and return as they are told to."""

    def __init__(self, script, back):
        self.script, self.back, self.given, self.waited = script, back, [], []

    def run(self, tasks):
        for task in tasks:
            self.given.append(task.client)
            kind = self.script[task.client].pop(0)
            yield SimpleNamespace(client=task.client) if kind is None else Failure(task.client, kind, "so it was told")

    def returned(self, clients, least):
        self.waited.append((sorted(clients), least))
        return [name for name in self.back.pop(0) if name in clients]


def asked(script, back, least=1, attempts=5):
    found = SimpleNamespace(calls=0)

    def fingerprints():
        found.calls += 1

    federation = Scripted(script, back)
    parties = SimpleNamespace(
        federation=federation,
        attempts=attempts,
        coordination=SimpleNamespace(fingerprints=fingerprints),
        fed_server=SimpleNamespace(checked=lambda _task, answer: answer),
    )
    tasks = [EvaluateTask(name, GlobalView({}, None, None, 0), "test") for name in script]
    answers = Asking(parties, SimpleNamespace(client_done=lambda *_: None)).surely(tasks, "test samples", least)
    assert sorted(one.client for one in answers) == sorted(script)
    kinds = {one.client: one.kind if isinstance(one, Failure) else None for one in answers}
    assert found.calls == len(federation.waited)
    return kinds, federation


def test_whoever_is_away_is_asked_again_when_it_is_back_and_nobody_else():
    kinds, federation = asked({"ann": [None], "bob": ["Lost", "Away", None]}, [["bob"], ["bob"]], least=2)
    assert kinds == {"ann": None, "bob": None}
    assert federation.given == ["ann", "bob", "bob", "bob"]
    assert federation.waited == [(["bob"], 1), (["bob"], 1)]


def test_whoever_stays_away_is_given_up():
    kinds, federation = asked({"ann": [None], "bob": ["Away"]}, [[]])
    assert kinds == {"ann": None, "bob": "Away"}
    assert federation.waited == [(["bob"], 0)]


def test_a_broken_way_is_tried_once_more_and_a_fault_of_the_samples_never():
    kinds, federation = asked({"ann": ["LinkError", "LinkError"], "bob": ["InputError"]}, [["ann"]])
    assert kinds == {"ann": "LinkError", "bob": "InputError"}
    assert federation.given == ["ann", "bob", "ann"]


def test_no_more_attempts_than_there_are():
    kinds, federation = asked({"ann": ["Lost"] * 5}, [["ann"]] * 4)
    assert kinds == {"ann": "Lost"}
    assert len(federation.given) == 5
    assert asked({"ann": ["Lost"]}, [], attempts=1)[0] == {"ann": "Lost"}
