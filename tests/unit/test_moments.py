"""The moments of AdamW, carried from round to round."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds

from m2fedsa import moments, running
from m2fedsa.averaging import Contribution
from m2fedsa.optimizers import adamw


def stepped(parameter, optimizer, gradients):
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()


def new(value):
    parameter = torch.nn.Parameter(torch.tensor(value))
    return parameter, adamw([{"params": [parameter], "lr": 0.1}], weight_decay=0.05)


gradient = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2)


@given(st.lists(gradient, min_size=1, max_size=4), st.lists(gradient, min_size=1, max_size=4))
def test_two_rounds_of_one_client_are_one_long_training(first, second):
    whole, optimizer = new([0.5, -1.0])
    stepped(whole, optimizer, first + second)
    part, optimizer = new([0.5, -1.0])
    stepped(part, optimizer, first)
    said = Contribution("ann", moments.take(optimizer, {"image.ma.w": part}), {"image.": 3})
    carried = moments.averaged({}, [said])
    later, optimizer = new(part.tolist())
    moments.give(optimizer, {"image.ma.w": later}, carried)
    stepped(later, optimizer, second)
    assert torch.equal(later, whole)


def test_averages_by_hand():
    """Weighted by distinct samples, of those that trained the tensor; whoever has none keeps what there was."""
    said = [
        Contribution("bob", {"first/image.w": torch.tensor([4.0]), "steps/image.w": torch.tensor(2.0)}, {"image.": 1}),
        Contribution("ann", {"first/image.w": torch.tensor([1.0]), "steps/image.w": torch.tensor(5.0)}, {"image.": 2}),
        Contribution("cyd", {"first/image.w": torch.tensor([9.0])}, {"text.": 7}),
    ]
    before = {"first/text.w": torch.tensor([3.0]), "first/image.w": torch.tensor([7.0])}
    found = moments.averaged(before, said)
    assert {name: value.tolist() for name, value in found.items()} == {"first/text.w": [3.0], "first/image.w": [2.0], "steps/image.w": 4.0}


def test_the_optimiser_has_its_own():
    """What it steps leaves the moments that it was given as they were."""
    part, optimizer = new([1.0, 1.0])
    stepped(part, optimizer, [[0.5, -0.5]])
    given_ = moments.take(optimizer, {"w": part})
    before = {name: value.clone() for name, value in given_.items()}
    later, optimizer = new([1.0, 1.0])
    moments.give(optimizer, {"w": later}, given_)
    stepped(later, optimizer, [[2.0, 2.0]])
    assert all(torch.equal(given_[name], before[name]) for name in before)


@pytest.mark.parametrize("settings", [{}, {"federation__server_update": "synchronous"}, {"federation__client_update": "relay"}])
def test_a_resumed_run_carries_on(tmp_path, settings):
    """Interrupted after any round it ends with the digest of the uninterrupted one; with fresh moments it would be another."""
    config = worlds.config(federation__rounds=3, optimizer__moments="averaged", transfer__start=3, **settings)
    data = worlds.federated(unlabelled=0.3)
    whole = running.run(config, data=data, encoders=worlds.encoders())
    assert whole.digest != running.run(config.override(["optimizer.moments=fresh"]), data=data, encoders=worlds.encoders()).digest
    seen = []

    class Leaves:
        def round_done(self, record):
            seen.append(record)
            if len(seen) == 1:
                raise KeyboardInterrupt

        def __getattr__(self, name):
            return lambda *_args, **_kwargs: None

    with pytest.raises(Exception, match="stopped"):
        running.run(config, data=data, encoders=worlds.encoders(), out=tmp_path / "run", progress=Leaves())
    assert running.run(config, data=data, encoders=worlds.encoders(), out=tmp_path / "run", resume=True).digest == whole.digest
    assert len(seen) == 1


@pytest.mark.parametrize("split", [True, False])
def test_what_they_cost(split):
    """Two more tensors of the shape, and a count of four bytes: up in every round, down from the second on."""

    def rounds(how):
        config = worlds.config(federation__rounds=2, federation__split=split, federation__warm_start=False, optimizer__moments=how)
        return running.run(config, data=worlds.federated(unlabelled=0.0), encoders=worlds.encoders()).history

    fresh, carried = ([record["tensors"] for record in rounds(how)] for how in ("fresh", "averaged"))
    assert carried[0]["down"] == fresh[0]["down"]
    who = worlds.parties(worlds.config(), worlds.federated())
    of_all = {**who.fed_server.state.tensors, **({} if split else worlds.server_tensors(who))}
    beside = sum(
        2 * value.nbytes + 4
        for client in who.fed_server.clients.values()
        if client.train
        for name, value in of_all.items()
        if name.partition(".")[0] in (*client.modalities, "fused", "fusion")
    )
    assert carried[1]["down"] - fresh[1]["down"] == beside
    for one, other in zip(carried, fresh, strict=True):
        assert 0 < one["up"] - other["up"] <= beside
