"""What crosses the cut in fewer bits: rounded where it crosses, and nowhere else. That a network rounds alike stands in
tests/conformance/test_best_round.py, the bytes in tests/integration/test_contract.py."""

import pytest
import torch
from tests import worlds

import m2fedsa
from m2fedsa.links.narrowing import narrowing
from m2fedsa.messages import Activation, Activations

NARROW = {"wire__up": "int8", "wire__down": "int8"}


def run(**settings):
    return m2fedsa.run(
        worlds.config(optimizer__learning_rate=0.001, evaluation__every=1, **settings),
        data=worlds.federated(unlabelled=0.3),
        encoders=worlds.encoders(),
    )


@pytest.mark.parametrize("narrow", [{"wire__up": "int8"}, {"wire__down": "int8"}, {"wire__up": "bfloat16", "wire__down": "bfloat16"}])
def test_a_narrow_wire_gives_nearly_the_same_run(narrow):
    exact, near = run(), run(**narrow)
    assert near.digest != exact.digest
    for ours, theirs in zip(near.history, exact.history, strict=True):
        for name, loss in theirs["loss"].items():
            assert ours["loss"][name] == pytest.approx(loss, rel=0.02), name
        ways = {"up": narrow.get("wire__up"), "down": narrow.get("wire__down")}
        for way, width in ways.items():
            assert (ours["bytes"][way] < 0.7 * theirs["bytes"][way]) == (width is not None)


def test_what_does_not_cross_the_cut_is_not_rounded():
    """In a run that is not split tensors alone travel, as they are."""
    exact, same = (run(federation__split=False, **narrow) for narrow in ({}, NARROW))
    assert same.digest == exact.digest
    assert [one["tensors"] for one in same.history] == [one["tensors"] for one in exact.history]
    assert all(one["tensors"]["up"] > 0 and one["bytes"] == {"up": 0, "down": 0} for one in same.history)


@pytest.mark.parametrize(
    "order",
    [
        {"federation__server_update": "in_turn"},
        {"federation__server_update": "synchronous"},
        {"federation__server_update": "in_turn", "federation__client_update": "relay"},
    ],
    ids=lambda order: "-".join(order.values()),
)
def test_every_order_of_updates_has_a_narrow_wire(order):
    exact, near = (run(federation__rounds=1, **order, **narrow) for narrow in ({}, NARROW))
    assert near.digest != exact.digest
    assert near.history[0]["bytes"]["up"] < 0.7 * exact.history[0]["bytes"]["up"]
    assert near.history[0]["loss"]["fused"] == pytest.approx(exact.history[0]["loss"]["fused"], rel=0.02)


def test_each_direction_has_a_width_of_its_own():
    """Eight bits with a scale per token up: what the main server sees is a whole number of 127ths of the token's largest value."""
    seen = []

    class Session:
        def forward(self, activations):
            seen.append(activations)
            raise StopIteration

    class Link:
        def session(self, client, round_number):
            return Session()

    hidden = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    sent = Activations({"image": Activation(hidden, torch.arange(3), None, {})}, torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(StopIteration):
        narrowing(Link(), worlds.config(wire__up="int8").wire).session("ann", 1).forward(sent)
    arrived = seen[0].modalities["image"].hidden
    codes = 127 * arrived / hidden.abs().amax(-1, keepdim=True)
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert torch.equal(codes.abs().amax(-1).round(), torch.full((3, 5), 127.0))
    assert not torch.equal(arrived, hidden)
    assert seen[0].entering.dtype == torch.bool
