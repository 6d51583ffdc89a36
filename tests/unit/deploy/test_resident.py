"""What becomes of a resident client when a task fails in a way that nobody foresaw, or when it is told to end in the midst of one."""

import json
import os
import signal
import socket

import pytest
import torch

from m2fedsa.data.samples import ClientData
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.resident import Resident
from m2fedsa.errors import Interrupted
from m2fedsa.federation.doorstep import ENVELOPE, TASK, Answer, Envelope, receive, send
from m2fedsa.links import wire
from m2fedsa.messages import EvaluateResult, EvaluateTask, GlobalView, Traffic

TASK_OF_ANN = wire.to_bytes(EvaluateTask("ann", GlobalView({}, torch.zeros(2), torch.ones(2), 3), "test"))
SECRET = "mrs-smith-is-ill"


class Ann:
    """A client that does with a task what the test wants."""

    def __init__(self, perform):
        self.name, self.link, self.data, self.perform = "ann", None, ClientData(("image",)), perform


@pytest.fixture
def resident(tmp_path):
    return lambda perform: Resident(Ann(perform), "run", lambda token: None, Journal(tmp_path / "log", "ann", "run"), tmp_path)


def given(resident):
    """Hand in a task; its answer, as the ClientApp reads it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, ENVELOPE, Envelope("run", "ann", "EvaluateTask", 3, "token", None, "0.4").to_json().encode())
        send(ours, TASK, TASK_OF_ANN)
        resident._serve(theirs)
        ours.settimeout(5.0)
        kind, content = receive(ours)
    told = json.loads(content) if kind == b"F" else {"kind": content.partition(b"\n")[0].decode(), "message": ""}
    return Answer(told["kind"], message=told["message"])


def logged(tmp_path):
    return [entry for entry in map(json.loads, (tmp_path / "log").read_text().splitlines()) if entry["level"] == "error"]


def raising(error):
    def perform(_task):
        raise error

    return perform


def test_a_disk_that_fails_is_told_with_its_file_and_the_client_lives_on(resident, tmp_path):
    client = resident(raising(OSError(5, "Input/output error", "/data/train.safetensors")))
    answer = given(client)
    assert answer.kind == "OSError"
    assert answer.message == (
        "client ann: OSError: [Errno 5] Input/output error: '/data/train.safetensors'. Its state/log.jsonl says where in the code."
    )
    (entry,) = logged(tmp_path)
    assert entry["event"] == "failed"
    assert "train.safetensors" in entry["reason"]
    assert any("test_resident.py" in place for place in entry["trace"])
    client.client.perform = lambda task: EvaluateResult("ann", {}, Traffic())
    assert given(client).kind == "EvaluateResult"


@pytest.mark.parametrize("error", [KeyError(SECRET), ValueError(SECRET), MemoryError(), RuntimeError(SECRET), ConnectionResetError(SECRET)])
def test_whatever_a_task_raises_is_an_answer(resident, tmp_path, error):
    """What the words of others hold may be a sample's: neither the log nor the answer repeats them, except the system's own."""
    answer = given(resident(raising(error)))
    assert answer.kind == type(error).__name__
    (entry,) = logged(tmp_path)
    assert entry["kind"] == type(error).__name__
    assert "perform" in entry["trace"][-1]
    if not isinstance(error, OSError):
        assert SECRET not in answer.message + (tmp_path / "log").read_text()


def test_a_result_that_cannot_be_sent_is_an_answer(resident):
    assert given(resident(lambda task: object())).kind in ("TypeError", "AttributeError", "ProtocolError", "KeyError")


def test_told_to_end_within_a_task_it_ends(resident):
    """The signal's exception is one of ours, and no failed task."""

    def perform(_task):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    def interrupt(*_):
        raise Interrupted("stopped.")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(Interrupted):
            given(resident(perform))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_door_is_left_when_told_to_end(resident, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        door.bind(os.fspath(tmp_path / "s"))
        door.listen()
        caller.connect(os.fspath(tmp_path / "s"))
        send(caller, ENVELOPE, Envelope("run", "ann", "EvaluateTask", 3, "token", None, "0.4").to_json().encode())
        send(caller, TASK, TASK_OF_ANN)
        with pytest.raises(Interrupted):
            resident(raising(Interrupted("stopped."))).serve(door)
