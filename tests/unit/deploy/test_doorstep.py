"""A task through a client's door: what comes back, and what becomes of whoever is silent, away, or talks nonsense."""

import os
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from m2fedsa.errors import ProtocolError
from m2fedsa.federation.doorstep import ALIVE, ENVELOPE, TASK, Answer, Envelope, answer, ask, receive, send

ENVELOPE_OF_ANN = Envelope("run", "ann", "TrainTask", 3, "token", (2, "ab" * 32), "0.4")


@contextmanager
def door(behind):
    """A socket with a function behind it, called once a task is handed in; its path, and what was handed in."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        place, heard = Path(folder) / "s", []
        listening.bind(os.fspath(place))
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            with connection:
                # As a resident client does: whoever leaves before the task is handed in has left.
                heard.extend([receive(connection), receive(connection)])
                behind(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield place, heard
        thread.join(5)


def test_an_answer_comes_back_as_it_was_given():
    def behind(connection):
        send(connection, ALIVE, b"")
        answer(connection, Answer("TrainResult", bytes(range(256)) * 300))

    with door(behind) as (place, heard):
        found = ask(place, ENVELOPE_OF_ANN.to_json(), b"\x00\n\xff", 5.0)
    assert found == Answer("TrainResult", bytes(range(256)) * 300)
    assert heard == [(ENVELOPE, ENVELOPE_OF_ANN.to_json().encode()), (TASK, b"\x00\n\xff")]


def test_a_failure_keeps_its_kind_and_words():
    with door(lambda connection: answer(connection, Answer("DataError", message="café is broken"))) as (place, _):
        assert ask(place, "{}", b"", 5.0) == Answer("DataError", None, "café is broken")


def test_signs_of_life_are_waited_for_and_silence_is_not():
    def slow(connection):
        for _ in range(6):
            send(connection, ALIVE, b"")
            time.sleep(0.1)
        answer(connection, Answer("R", b"late"))

    with door(slow) as (place, _):
        assert ask(place, "{}", b"", 0.4).result == b"late", "six tenths of a second, but never four in silence"
    with door(lambda connection: time.sleep(0.6)) as (place, _):
        found = ask(place, "{}", b"", 0.2)
    assert (found.kind, found.result) == ("Silent", None)


def test_nobody_behind_the_door(tmp_path):
    assert ask(tmp_path / "nothing", "{}", b"", 1.0).kind == "Away"
    with door(lambda connection: None) as (place, _):
        assert ask(place, "{}", b"", 1.0).kind == "Away", "it left without an answer"


@pytest.mark.parametrize("sent", [b"X" + bytes(8), b"R" + b"\xff" * 8, b"GET / HTTP/1.1\r\n"])
def test_garbage_instead_of_an_answer(sent):
    with door(lambda connection: connection.sendall(sent)) as (place, _):
        assert ask(place, "{}", b"", 1.0).kind == "ProtocolError"


def test_envelopes_survive_and_others_are_refused():
    assert Envelope.from_json(ENVELOPE_OF_ANN.to_json()) == ENVELOPE_OF_ANN
    without = replace(ENVELOPE_OF_ANN, local=None)
    assert Envelope.from_json(without.to_json()) == without
    with pytest.raises(ProtocolError, match=r"format 7 came from m2fedsa 9.1; this client speaks format 1"):
        Envelope.from_json(replace(ENVELOPE_OF_ANN, format=7, version="9.1").to_json())
    for text in ("", "[]", "{}", '{"format": 1}', ENVELOPE_OF_ANN.to_json().replace('"run"', '"walk"', 1)):
        with pytest.raises(ProtocolError):
            Envelope.from_json(text)
