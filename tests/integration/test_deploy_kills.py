"""kill -9 of every party of a deployment at random moments: the run goes on or is begun again, and ends with the digest of a run that
nothing befell, over the same accepted clients.

The main server is killed in CI; `make nightly` adds twenty kills over all eight. They take minutes: Flower notices after about a
minute who is gone, and lets a client's key in again only then.
"""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.integration import deployments, small
from tests.integration.deployments import LONGEST, PROGRAM, alone, journal, left_behind, m2fedsa, made

from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.messages import Failure, TrainTask

MARKS = {
    "client": "client",
    "supernode": "flower-supernode",
    "main-server": "main-server",
    "superlink": "m2fedsa.federation.superlink",
    "serverapp": "flwr-serverapp",
    "fed-server": "fed-server",
    "superexec": "flower-superexec",
    "clientapp": "flwr-clientapp",
}
"""A word of each party's command."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return deployments.settings(tmp_path_factory.mktemp("settings"))


def processes(running, party):
    """The processes of one party, among those that this deployment has started and no others."""
    found = []
    for one in psutil.Process(running).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(Path(word).name == MARKS[party] or word == MARKS[party] for word in one.cmdline()[:5]):
                found.append(one.pid)
    return found


def kill(running, party, draw):
    """One of a party's processes; which one, or None where there was none at this moment."""
    victims = processes(running, party)
    victim = draw.choice(victims) if victims else None
    if victim is not None:
        os.kill(victim, signal.SIGKILL)
    return victim


def attacked(directory, out, attack):
    """Run, let `attack` do its work from the start of the run on, and go on until the end; its result."""
    words = [*PROGRAM, "deploy", "local", str(directory), "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=small.ONE_THREAD) as running:
        wait_for(directory, "started")
        attack(running.pid)
        said, complaint = running.communicate(timeout=LONGEST)
    for _ in range(5):
        if running.returncode == 0:
            break
        running = m2fedsa("deploy", "local", directory, "--out", out)
        said, complaint = running.stdout, running.stderr
    assert running.returncode == 0, said + complaint
    assert left_behind(directory) == []
    return small.result(out)


def wait_for(directory, event, seconds=300):
    until = time.monotonic() + seconds
    while not any(entry["event"] == event for entry in journal(directory)):
        assert time.monotonic() < until, event
        time.sleep(0.1)


def without(monkeypatch, rounds):
    """In one process, the same clients fail to train in the same rounds."""
    accepted = {record["round"]: record["clients"] for record in rounds}
    run = InProcessFederation.run

    def some(self, tasks):
        lost = [task for task in tasks if isinstance(task, TrainTask) and task.client not in accepted[task.plan.number]]
        yield from (Failure(task.client, "Away", "as in the other run") for task in lost)
        yield from run(self, [task for task in tasks if task not in lost])

    monkeypatch.setattr(InProcessFederation, "run", some)


@pytest.mark.skipif(not {"CI", "M2FEDSA_NIGHTLY"} & set(os.environ), reason="takes two minutes: CI and `make nightly` run it")
def test_a_main_server_killed_within_a_round(settings, tmp_path):
    """The round is begun again with a new one."""
    changes = ("federation.rounds=1", "federation.warm_start=false", "transfer.start=1", "federation.min_clients=2")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    draw, victims = random.Random(0), []

    def attack(running):
        victims.append(kill(running, "main-server", draw))

    result = attacked(directory, tmp_path / "run", attack)
    assert None not in victims
    assert result["digest"] == alone(settings, tmp_path / "alone", 2, *changes)["digest"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_killed_party_changes_nothing(settings, tmp_path, number):
    """Both clients count in both rounds, so whatever is lost is done again."""
    draw = random.Random(number)
    party = list(MARKS)[number % len(MARKS)]
    changes = ("federation.rounds=2", "federation.min_clients=2")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    after, victims = draw.uniform(0.0, 60.0), []

    def attack(running):
        time.sleep(after)
        victims.append(kill(running, party, draw))

    result = attacked(directory, tmp_path / "run", attack)
    print(f"{party} killed after {after:.0f} s: process {victims[0]}")
    assert result["digest"] == alone(settings, tmp_path / "alone", 2, *changes)["digest"], (party, victims)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_run_goes_on_without_a_killed_client_and_takes_it_back(settings, tmp_path, monkeypatch, seed):
    """One client is enough here; the digest is that of a run in which the same clients were missed in the same rounds."""
    changes = ("federation.rounds=3", "federation.warm_start=false", "federation.min_clients=1")
    directory = made(settings, tmp_path / "deployment", 3, *changes)
    draw, victims = random.Random(seed), []

    def attack(running):
        time.sleep(draw.uniform(0.0, 6.0))
        victims.append(kill(running, "client", draw))

    result = attacked(directory, tmp_path / "run", attack)
    assert victims[0] is not None
    records = small.rounds(tmp_path / "run")
    assert [record["round"] for record in records] == [1, 2, 3]
    print([record["clients"] for record in records])
    without(monkeypatch, records)
    assert result["digest"] == alone(settings, tmp_path / "alone", 3, *changes)["digest"]


@pytest.mark.slow
def test_a_full_disk_of_the_fed_server_stops_the_run_which_goes_on_with_room(settings, tmp_path):
    """After the warm start no file of the ServerApp, which writes the run directory, can grow any more."""
    changes = ("federation.rounds=2", "federation.min_clients=2")
    directory = made(settings, tmp_path / "deployment", 2, *changes)

    def fill(running):
        wait_for(directory, "warm_started")
        for pid in processes(running, "serverapp"):
            one = psutil.Process(pid)
            one.rlimit(psutil.RLIMIT_FSIZE, (100, one.rlimit(psutil.RLIMIT_FSIZE)[1]))

    words = [*PROGRAM, "deploy", "local", str(directory), "--out", str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=small.ONE_THREAD) as running:
        fill(running.pid)
        said, _ = running.communicate(timeout=LONGEST)
    assert running.returncode != 0
    assert str(tmp_path / "run") in said
    assert "Make room" in said
    assert left_behind(directory) == []
    done = m2fedsa("deploy", "local", directory, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert small.result(tmp_path / "run")["digest"] == alone(settings, tmp_path / "alone", 2, *changes)["digest"]
