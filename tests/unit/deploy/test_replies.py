"""Replies over Flower that no ClientApp of ours makes: each is its client's failure, and says what is wrong."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from tests.conformance import over_flower

from m2fedsa.federation.flower import FlowerFederation
from m2fedsa.messages import ClientInfo, EvaluateTask, Failure, GlobalView

CASES = {
    "nothing": ({}, "replied with nothing where a ConfigRecord named m2fedsa"),
    "another record": ({"m2fedsa": ArrayRecord()}, "replied with a ArrayRecord where"),
    "no kind": ({"m2fedsa": ConfigRecord({"message": ""})}, "a kind of NoneType; a text is needed"),
    "a kind in numbers": ({"m2fedsa": ConfigRecord({"kind": 3, "message": ""})}, "a kind of int"),
    "no message": ({"m2fedsa": ConfigRecord({"kind": "EvaluateResult"})}, "a message of NoneType"),
    "a result as a text": ({"m2fedsa": ConfigRecord({"kind": "EvaluateResult", "message": "", "result": "x"})}, "a result of str; bytes"),
    "a result in numbers": ({"m2fedsa": ConfigRecord({"kind": "EvaluateResult", "message": "", "result": [1]})}, "a result of list"),
    "garbage": ({"m2fedsa": ConfigRecord({"kind": "EvaluateResult", "message": "", "result": b"x"})}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reply_that_is_none(case, monkeypatch, tmp_path):
    records, expected = CASES[case]
    monkeypatch.setattr(over_flower, "client_app", lambda message, _context: Message(RecordDict(records), reply_to=message))
    grid = over_flower.DirectGrid({"ann": tmp_path / "ann"})
    infos = [ClientInfo("ann", ("image",), 5, 5, 0, 4, 4)]
    federation = FlowerFederation(grid, infos, {b"ann": "ann"}, "run", lambda *_: "token")
    view = GlobalView({}, torch.zeros(1), torch.zeros(1), 0)
    (answer,) = federation.run([EvaluateTask("ann", view, "test")])
    assert isinstance(answer, Failure)
    assert (answer.client, answer.kind) == ("ann", "ProtocolError")
    assert expected in answer.message
