"""All parties as processes of their own on this machine: SuperLink, SuperNodes, resident clients, main server; mTLS, tokens, real ports.

A federation of two clients here; `make nightly` adds twenty, kills, and clients behind lines that are slow and lose packets.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.integration import small

from m2fedsa.cli import main

PROGRAM = [sys.executable, "-m", "m2fedsa"]
LONGEST = 900.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def m2fedsa(*words, timeout=LONGEST):
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=timeout, env=small.ONE_THREAD)


def made(target, directory, clients, *changes):
    """A deployment on free ports."""
    ports = [free_port(), free_port()]
    told = [word for change in changes for word in ("--set", change)]
    words = [
        "deploy", "init", target, "--dir", directory, "--clients", clients, "--superlink", f"127.0.0.1:{ports[0]}",
        "--main-server", f"127.0.0.1:{ports[1]}", *told,
    ]  # fmt: skip
    assert main([*map(str, words)]) == 0
    moved(directory)
    return directory


def moved(directory):
    """SuperNodes on ports that are free now: several deployments may run on this machine."""
    for path in directory.glob("clients/*/client.toml"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"runtime_port = {free_port()}" if line.startswith("runtime_port") else line for line in lines) + "\n")


def alone(target, out, clients, *changes):
    told = [word for change in changes for word in ("--set", change)]
    assert main(["run", str(target), "--set", f"data.clients={clients}", *told, "--out", str(out)]) == 0
    return small.result(out)


def left_behind(directory):
    """Processes that speak of the deployment."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if str(directory) in line and f" {os.getpid()} " not in line]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    values = small.tables(small.save_encoders(folder / "encoders"))
    del values["federation"]["clients_per_round"]
    values["evaluation"] = {"every": 100}
    return small.write(folder / "small.toml", values)


def test_a_deployment_ends_with_the_digest_of_the_run(settings, tmp_path):
    changes = ("federation.rounds=1", "federation.warm_start=false", "transfer.start=1")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    done = m2fedsa("deploy", "local", directory, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr + done.stdout
    expected = alone(settings, tmp_path / "alone", 2, *changes)
    found = small.result(tmp_path / "run")
    assert found["digest"] == expected["digest"]
    assert found["metrics"] == expected["metrics"]
    assert found["ledger"] == expected["ledger"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert "round 1/1" in done.stdout
    assert "report: " in done.stdout
    assert left_behind(directory) == []
    secrets = [path.read_text().splitlines()[1] for path in directory.rglob("*.key")]
    said = "".join(path.read_text(errors="replace") for path in directory.rglob("*") if path.suffix in (".log", ".jsonl"))
    assert not [secret for secret in secrets if secret in said]


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 3, 20])
def test_digits_end_with_the_digest_of_the_run(tmp_path, clients):
    changes = ("federation.rounds=2", "evaluation.every=100")
    directory = made("digits", tmp_path / "deployment", clients, *changes)
    done = m2fedsa("deploy", "local", directory, "--out", tmp_path / "run", timeout=3600)
    assert done.returncode == 0, done.stderr + done.stdout
    expected = alone("digits", tmp_path / "alone", clients, *changes)
    assert small.result(tmp_path / "run")["digest"] == expected["digest"]
    assert left_behind(directory) == []


# --- kills --------------------------------------------------------------------------------------------------------------------------


MARKS = {
    "main-server": "main-server",
    "client": "client",
    "fed-server": "fed-server",
    "superlink": "m2fedsa.federation.superlink",
    "serverapp": "flwr-serverapp",
}


def processes(running, party):
    """The processes of one party, among those that this deployment has started and no others."""
    found = []
    for one in psutil.Process(running).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(Path(word).name == MARKS[party] or word == MARKS[party] for word in one.cmdline()[:5]):
                found.append(one.pid)
    return found


def journal(directory):
    path = directory / "fed-server" / "state" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def killed(directory, out, party, after):
    """Run, kill one process of a party so many seconds after the run has started, and go on until the end; its outcome."""
    words = [*PROGRAM, "deploy", "local", str(directory), "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=small.ONE_THREAD) as running:
        until = time.monotonic() + 300
        while not any(entry["event"] == "started" for entry in journal(directory)) and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(after)
        victims = processes(running.pid, party)
        for victim in victims[:1]:
            os.kill(victim, signal.SIGKILL)
        said, complaint = running.communicate(timeout=LONGEST)
    for _ in range(5):
        if running.returncode == 0:
            break
        running = m2fedsa("deploy", "local", directory, "--out", out)
        said, complaint = running.stdout, running.stderr
    assert running.returncode == 0, said + complaint
    return small.result(out), victims


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_killed_party_changes_nothing(settings, tmp_path, number):
    draw = random.Random(number)
    party = ["main-server", "fed-server", "superlink", "serverapp"][number % 4]
    changes = ("federation.rounds=2", "federation.min_clients=2")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    result, victims = killed(directory, tmp_path / "run", party, draw.uniform(0.0, 60.0))
    assert result["digest"] == alone(settings, tmp_path / "alone", 2, *changes)["digest"], (party, victims)
    assert left_behind(directory) == []


@pytest.mark.slow
def test_the_run_goes_on_without_a_killed_client_and_takes_it_back(settings, tmp_path):
    changes = ("federation.rounds=3", "federation.warm_start=false")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    result, victims = killed(directory, tmp_path / "run", "client", 4.0)
    assert victims
    records = small.rounds(tmp_path / "run")
    assert [record["round"] for record in records] == [1, 2, 3]
    assert all(record["clients"] for record in records)
    assert result["rounds"] == 3


# --- lines that are slow and lose packets ----------------------------------------------------------------------------------------------


def namespaces_refused():
    """Why network namespaces cannot be made here; empty where they can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "the programs ip and tc are not installed"
    name = f"m2fedsa-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return done.stderr.strip()


@pytest.fixture
def far():
    """A network namespace behind a line with 40 ms of delay and 1 % of loss; its prefix for commands, and the address of this side."""
    why = namespaces_refused()
    if why:
        pytest.skip(f"no network namespaces: {why}")
    name, here, there = "m2far", "10.213.7.1", "10.213.7.2"
    steps = [
        f"ip netns add {name}",
        "ip link add m2here type veth peer name m2there",
        f"ip link set m2there netns {name}",
        f"ip addr add {here}/24 dev m2here",
        "ip link set m2here up",
        f"ip -n {name} addr add {there}/24 dev m2there",
        f"ip -n {name} link set m2there up",
        f"ip -n {name} link set lo up",
        "tc qdisc add dev m2here root netem delay 40ms loss 1%",
    ]
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces: {step}: {done.stderr.strip()}")
        yield ["ip", "netns", "exec", name], here
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", "m2here"], capture_output=True)


@pytest.mark.slow
def test_clients_behind_a_bad_line_end_with_the_same_digest(settings, far, tmp_path):
    prefix, here = far
    changes = ("federation.rounds=2", "federation.min_clients=2")
    ports = [free_port(), free_port()]
    directory = tmp_path / "deployment"
    told = [word for change in changes for word in ("--set", change)]
    done = m2fedsa(
        "deploy", "init", settings, "--dir", directory, "--clients", 2, "--superlink", f"{here}:{ports[0]}",
        "--main-server", f"{here}:{ports[1]}", *told,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    moved(directory)
    started = []
    try:
        words = [[*prefix, *PROGRAM, "client", str(folder / "client.toml")] for folder in sorted((directory / "clients").iterdir())]
        words.append([*PROGRAM, "main-server", str(directory / "main-server" / "main-server.toml")])
        started += [subprocess.Popen(one, env=small.ONE_THREAD) for one in words]
        done = m2fedsa("fed-server", directory / "fed-server" / "fed-server.toml")
        assert done.returncode == 0, done.stderr
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)
    assert done.stdout.strip() == alone(settings, tmp_path / "alone", 2, *changes)["digest"]
