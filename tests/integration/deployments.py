"""Deployments of the tests: made on free ports, started whole or party by party, looked at from outside."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import psutil
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


def settings(folder):
    """The TOML file of a small run in which every client takes part in every round."""
    values = small.tables(small.save_encoders(folder / "encoders"))
    del values["federation"]["clients_per_round"]
    values["evaluation"] = {"every": 100}
    return small.write(folder / "small.toml", values)


def told(changes):
    return [word for change in changes for word in ("--set", change)]


def made(target, directory, clients, *changes, host="127.0.0.1"):
    """A deployment on free ports."""
    words = [
        "deploy", "init", target, "--dir", directory, "--clients", clients, "--superlink", f"{host}:{free_port()}",
        "--main-server", f"{host}:{free_port()}", *told(changes),
    ]  # fmt: skip
    assert main([*map(str, words)]) == 0
    # SuperNodes on ports that are free now: several deployments may run on this machine.
    for path in directory.glob("clients/*/client.toml"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"runtime_port = {free_port()}" if line.startswith("runtime_port") else line for line in lines) + "\n")
    return directory


def alone(target, out, clients, *changes):
    """What the same settings come to in one process."""
    assert main(["run", str(target), "--set", f"data.clients={clients}", *told(changes), "--out", str(out)]) == 0
    return small.result(out)


def journal(directory):
    """What the fed server has told."""
    path = directory / "fed-server" / "state" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left_behind(directory):
    """Processes that speak of the deployment."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if str(directory) in line and f" {os.getpid()} " not in line]


def folders(directory):
    """client -> its folder"""
    return {folder.name: folder for folder in sorted((directory / "clients").iterdir())}


@contextmanager
def party_by_party(directory, order=None, pause=0.0, prefix=lambda _name: []):
    """Main server and clients as somebody starts them on their machines, clients in this order with pauses between; the fed server's
    process, and name -> process of the clients. `prefix`: what stands before a client's command."""
    started = {}

    def start(name, *words, **piped):
        started[name] = subprocess.Popen([*map(str, words)], env=small.ONE_THREAD, text=True, **piped)
        return started[name]

    try:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        fed_server = start("fed server", *PROGRAM, "fed-server", directory / "fed-server" / "fed-server.toml", **piped)
        start("main server", *PROGRAM, "main-server", directory / "main-server" / "main-server.toml")
        clients = {}
        for name in order or folders(directory):
            clients[name] = start(name, *prefix(name), *PROGRAM, "client", folders(directory)[name] / "client.toml")
            time.sleep(pause)
        yield fed_server, clients
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(30)


def digest_of(fed_server):
    """What a fed server says in the end."""
    said, complaint = fed_server.communicate(timeout=LONGEST)
    assert fed_server.returncode == 0, complaint
    return said.strip()


@contextmanager
def unsteady(processes, seed):
    """While it lasts, one of these processes at a time stands still for a moment; how often that was."""
    draw, over, stops = random.Random(seed), threading.Event(), []

    def disturb():
        while not over.wait(draw.uniform(0.1, 0.5)):
            one = draw.choice(processes)
            with suppress(psutil.NoSuchProcess):
                os.kill(one.pid, signal.SIGSTOP)
                stops.append(one.pid)
                over.wait(draw.uniform(0.2, 3.0))
                os.kill(one.pid, signal.SIGCONT)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield stops
    finally:
        over.set()
        thread.join()
