"""The best round of a run is the same over every link and federation: which it is, and to which tensors the parties go back."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
from tests import worlds
from tests.conformance import over_flower, over_grpc

import m2fedsa
from m2fedsa.reporting.progress import Silent
from m2fedsa.training import Training


def settings(rate, moments, up, down):
    rules = '[{pattern="text.classifier.*", over="nothing"}]'
    return worlds.config(
        evaluation__keep_best=True,
        evaluation__metric="loss",
        evaluation__every=1,
        optimizer__learning_rate=rate,
        optimizer__moments=moments,
        federation__rounds=3,
        federation__warm_start=True,
        warm_start__calibrate=moments == "averaged",
        averaging__rules=rules,
        wire__up=up,
        wire__down=down,
    )


def data():
    """Clients that validate on what they train on."""
    found = worlds.federated(unlabelled=0.3)
    clients = {name: replace(one, validation=one.train) if one.train else one for name, one in found.clients.items()}
    return replace(found, clients=clients)


@pytest.mark.parametrize(
    ("rate", "moments", "up", "down"),
    [(0.5, "fresh", "float32", "float32"), (0.002, "averaged", "float32", "float32"), (0.002, "fresh", "int8", "bfloat16")],
)
@pytest.mark.parametrize("kind", ["gRPC", "Flower"])
def test_the_best_round(kind, rate, moments, up, down, tmp_path):
    """Where numbers travel in fewer bits, one process rounds them as the network does."""
    config = settings(rate, moments, up, down)
    expected = m2fedsa.run(config, data=data(), encoders=worlds.encoders())
    with ExitStack() as stack:
        who, links, coordination = stack.enter_context(over_grpc.served(config, data(), tmp_path))
        if kind == "gRPC":
            federation = over_grpc.federation(who, links)
        else:
            federation = stack.enter_context(over_flower.federation(who, links, tmp_path))
        training = Training(replace(who, federation=federation, coordination=coordination), Silent(), None)
        try:
            found = training.through(False)
        finally:
            training.close()
    assert training.warm["failures"] == []
    assert found.record["best_round"] == expected.record["best_round"]
    assert (found.record["best_round"] == 0) == (rate == 0.5)
    assert found.digest == expected.digest
    assert found.metrics == expected.metrics
    assert [record["bytes"] for record in training.history] == [record["bytes"] for record in expected.history]
