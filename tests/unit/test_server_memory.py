"""What the main server holds of a client of the round: 16 bytes a trainable number while its session is open, 4 when it is closed (12 where
moments are carried on)."""

import gc

import pytest
import torch
from tests import worlds
from tests.conformance.test_ports import activations, drawn, plan

from m2fedsa.errors import ProtocolError
from m2fedsa.messages import ALL, Acceptance, EvaluationRequest, Gradients

PLACES = ("image", "audio", "text")


def held() -> int:
    """Bytes of all tensors that are alive, each memory once."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        # By its type: some proxies warn when they are asked for their class.
        if issubclass(type(one), torch.Tensor) and not one.is_meta:
            # A gradient that nobody has asked for is no object of Python's yet.
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None:
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def step(session) -> None:
    features = session.forward(activations(PLACES))
    session.backward(Gradients({name: drawn(*z.shape) for name, z in features.pooled.items()}, drawn(*features.fused.shape)))


@pytest.mark.parametrize(("moments", "kept"), [("fresh", 4), ("averaged", 12)])
def test_bytes_per_client_of_a_round(moments: str, kept: int) -> None:
    who = worlds.parties(worlds.config(optimizer__moments=moments), worlds.federated())
    numbers = sum(tensor.numel() for tensor in worlds.server_tensors(who).values())
    server = who.coordination
    server.begin(plan())
    # What is remembered of shapes is made once, not per client.
    with server.session("ann", 1) as session:
        step(session)
    del session
    server.begin(plan())
    before = held()
    session = server.session("ann", 1)
    step(session)
    opened = held() - before
    session.__exit__(None, None, None)
    del session
    closed = held() - before
    # AdamW counts its steps in one number per tensor.
    steps = 4 * len(worlds.server_tensors(who))
    assert 16 * numbers <= opened <= 16 * numbers + steps + 64
    assert kept * numbers <= closed <= kept * numbers + steps + 64


def test_what_is_in_flight_grows_with_the_samples_that_a_setting_bounds() -> None:
    """Between forward and backward a session holds the graph of its batch beside its 16 bytes; a larger batch is refused."""
    who = worlds.parties(worlds.config(federation__batch_size=3, evaluation__batch_size=2), worlds.federated())
    server = who.coordination
    server.begin(plan())
    whole = activations(PLACES)
    assert len(whole.entering) == 3
    with server.session("ann", 1) as session:
        step(session)
        idle = held()
        features = session.forward(whole)
        assert held() - idle > sum(one.hidden.nbytes for one in whole.modalities.values())
        session.backward(Gradients({name: drawn(*z.shape) for name, z in features.pooled.items()}, drawn(*features.fused.shape)))
        del features
        assert held() - idle <= 64
    with pytest.raises(ProtocolError, match="client ann sent 3 samples at once; the run's settings allow 2"):
        server.evaluate("ann", EvaluationRequest(whole, (ALL,), 0))
    few = worlds.parties(worlds.config(federation__batch_size=2), worlds.federated()).coordination
    few.begin(plan())
    with few.session("ann", 1) as session, pytest.raises(ProtocolError, match="client ann sent 3 samples at once; .* allow 2"):
        session.forward(whole)


def test_a_closed_copy_still_counts_in_the_average() -> None:
    who = worlds.parties(worlds.config(), worlds.federated())
    server = who.coordination
    server.begin(plan())
    start = server.fingerprints()
    with server.session("ann", 1) as session:
        step(session)
    prefixes = {"fusion.": 3, **{f"{name}.": 3 for name in PLACES}}
    assert server.end(Acceptance(1, {"ann": prefixes})).prints != start
