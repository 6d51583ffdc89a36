"""Clients that join late, leave, or come back with an old state or an old version: over Flower's messages, ClientApps and mTLS."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests import worlds
from tests.conformance import over_flower, over_grpc
from tests.conformance.test_ports import PERSONAL, answers, signature

from m2fedsa.federation import doorstep
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.messages import Failure, TrainResult
from m2fedsa.reporting.progress import Silent
from m2fedsa.training import Training

AWAY = {1: {"bob"}, 2: set(), 3: {"cyd", "tst"}, 4: {"ann", "cyd"}}
"""Who is not there in a round: one comes late, one leaves, one of those who stay leaves for a round; and who tests may be gone too."""


@dataclass
class Apart:
    """See `parties.Company`; clients and main server behind the network."""

    who: Any
    federation: Any
    coordination: Any
    attempts = 1

    def __getattr__(self, name):
        return getattr(self.who, name)

    def keep_in(self, checkpoint):
        pass


class Round(Silent):
    """Tells that the next round is about to begin."""

    def __init__(self, begin):
        self._begin = begin
        begin(1)

    def round_done(self, record):
        self._begin(record["round"] + 1)


@contextmanager
def over_a_network(config, data, folder):
    with over_grpc.served(config, data, folder) as (who, links, coordination), over_flower.federation(who, links, folder) as federation:
        yield Apart(who, federation, coordination), links


def trained(company, begin):
    training = Training(company, Round(begin), None)
    digest = training.through(resume=False).digest
    return digest, [(record["clients"], [one["client"] for one in record.get("failures", [])]) for record in training.history]


def test_the_run_goes_on_with_those_that_are_there(tmp_path, monkeypatch):
    """It ends with the digest of a run in one process in which the same clients were missing in the same rounds."""
    config, data = worlds.config(federation__rounds=4, federation__local_steps=2), worlds.federated()
    with over_a_network(config, data, tmp_path) as (company, _):
        grid = company.federation._grid

        def leave(number):
            grid.away = AWAY.get(number, set())

        digest, found = trained(company, leave)
    away = set()
    present, run = InProcessFederation.present, InProcessFederation.run
    monkeypatch.setattr(InProcessFederation, "present", lambda self, *asked: [name for name in present(self, *asked) if name not in away])

    def some(self, tasks):
        yield from (Failure(task.client, "Away", "as in the other run") for task in tasks if task.client in away)
        yield from run(self, [task for task in tasks if task.client not in away])

    monkeypatch.setattr(InProcessFederation, "run", some)

    def leave_here(number):
        away.clear()
        away.update(AWAY.get(number, ()))

    everybody = {"ann", "bob", "cyd", "dee", "eve"}
    assert [set(clients) for clients, _ in found] == [everybody - AWAY[number] for number in (1, 2, 3, 4)]
    assert trained(worlds.parties(config, data), leave_here) == (digest, found)


def test_a_client_with_an_old_state_is_left_out_until_it_has_the_right_one(tmp_path):
    """Its own tensors are those that the fed server counts, or it does not take part; nobody else is touched."""
    config, data = worlds.config(**PERSONAL), worlds.federated(unlabelled=0.3)
    with over_a_network(config, data, tmp_path) as (company, links):
        server, written, kept = company.fed_server, {}, tmp_path / "kept"
        for number in (1, 2):
            plan, tasks = server.begin_round()
            company.coordination.begin(plan)
            results = list(answers(company, tasks).values())
            assert all(isinstance(one, TrainResult) for one in results)
            company.coordination.end(server.accept(plan, results))
            server.end_round(plan, results)
            company.coordination.commit(number)
            company.federation.commit(number, [one.client for one in results])
            written = {one.client: (number, one.local) for one in results}
            if number == 1:
                shutil.copytree(tmp_path / "clients" / "ann", kept)
        plan, tasks = server.begin_round()
        company.coordination.begin(plan)
        expected = answers(company, tasks)
        shutil.copytree(tmp_path / "clients" / "ann", tmp_path / "right")
        shutil.rmtree(tmp_path / "clients" / "ann")
        shutil.copytree(kept, tmp_path / "clients" / "ann")
        with over_flower.federation(company.who, links, tmp_path) as back:
            back.restore(written)
            company.coordination.begin(plan)
            found = answers(Apart(company.who, back, None), tasks)
            lost = found.pop("ann")
            assert isinstance(lost, Failure)
            assert lost.kind == "RunDirectoryError"
            assert "ann/round-000002.safetensors: cannot be read" in lost.message
            assert {name: signature(one) for name, one in found.items()} == {name: signature(expected[name]) for name in found}
            shutil.copytree(tmp_path / "right", tmp_path / "clients" / "ann", dirs_exist_ok=True)
            company.coordination.begin(plan)
            again = answers(Apart(company.who, back, None), tasks)
            assert signature(again["ann"]) == signature(expected["ann"])


def test_a_client_of_another_version_takes_no_task(tmp_path, monkeypatch):
    """It says both versions; once it has the right one it takes part."""
    with over_a_network(worlds.config(), worlds.federated(), tmp_path) as (company, _):
        plan, tasks = company.fed_server.begin_round()
        company.coordination.begin(plan)
        hers = [task for task in tasks if task.client == "ann"]
        with monkeypatch.context() as old:
            old.setattr(doorstep, "FORMAT", 0)
            lost = answers(company, hers)["ann"]
        assert isinstance(lost, Failure)
        assert lost.kind == "ProtocolError"
        assert "this client speaks format 0. Install the same version of m2fedsa on both sides." in lost.message
        assert all(isinstance(one, TrainResult) for one in answers(company, tasks).values())


def test_a_client_whose_disk_is_full_is_left_out(tmp_path):
    """It says which file; what it had stays, and with room it goes on to the same bits."""
    resource = pytest.importorskip("resource")
    with over_a_network(worlds.config(**PERSONAL), worlds.federated(), tmp_path) as (company, _):
        plan, tasks = company.fed_server.begin_round()
        company.coordination.begin(plan)
        expected = answers(company, tasks)
        before = {path: path.read_bytes() for path in (tmp_path / "clients").rglob("*") if path.is_file()}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        hers = [task for task in tasks if task.client == "ann"]
        company.coordination.begin(plan)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            lost = answers(company, hers)["ann"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(lost, Failure)
        assert lost.kind == "StorageError"
        assert "ann/round-000001.safetensors: cannot be written: File too large. Nothing written earlier is lost." in lost.message
        assert {path: path.read_bytes() for path in (tmp_path / "clients").rglob("*") if path.is_file()} == before
        company.coordination.begin(plan)
        assert signature(answers(company, tasks)["ann"]) == signature(expected["ann"])
