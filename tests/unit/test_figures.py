import json
import platform

import pytest
import torch
from tests import worlds

from m2fedsa.assembly import Extensions, assemble
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.figures import Accounts, Evaluated, facts_of, failure_records, metrics_of, reported_losses, versions
from m2fedsa.messages import ClientInfo, EvaluateResult, Failure, Traffic, TrainResult
from m2fedsa.metrics import ClassTally
from m2fedsa.metrics.tally import tensors_of
from m2fedsa.storage import Store


def tally(labels, predicted, classes=3):
    return ClassTally.of(10.0 * torch.eye(classes)[torch.tensor(predicted)], torch.tensor(labels))


def answer(client, **tallies):
    return EvaluateResult(client, {name.replace("__", "+"): tensors_of(one) for name, one in tallies.items()}, Traffic())


def test_evaluated_merges_clients():
    """Right and wrong add up, in whatever order the answers came; subsets stand with `fused` first, then small ones."""
    ann = answer("ann", image__text=tally([0, 1], [0, 0]), image=tally([0, 1], [0, 1]), fused=tally([0, 1], [0, 1]))
    bob = answer("bob", image=tally([2, 2, 2, 1], [2, 2, 0, 1]), fused=tally([2, 2, 2, 1], [2, 2, 2, 2]))
    found = Evaluated.of("single_label", [bob, ann])
    assert list(found.clients) == ["ann", "bob"]
    assert list(found.metrics) == ["fused", "image", "image+text"]
    assert found.metrics["image"]["accuracy"] == pytest.approx(5 / 6)
    assert found.metrics["fused"]["accuracy"] == pytest.approx(5 / 6)
    assert found.metrics["image+text"]["samples"] == 2
    assert found.metrics["fused"]["uar"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    other = Evaluated.of("single_label", [ann, bob])
    assert other.metrics == found.metrics
    assert metrics_of(found.clients["bob"])["image"]["accuracy"] == 0.75


def test_nobody_to_evaluate():
    assert Evaluated.of("single_label", []).metrics is None
    assert metrics_of({}) is None


def trained(client, up, down, **losses):
    return TrainResult(client, {}, {}, losses, 1, Traffic(up, down))


def test_accounts():
    """Bytes and rounds add up; the loss is that of the last round with labelled samples, per sample."""
    accounts = Accounts(["bob", "ann", "cyd"])
    accounts.book([trained("ann", 10, 3, fused=(6.0, 4)), trained("bob", 1, 1)])
    accounts.book([trained("ann", 5, 2, fused=(1.0, 4))])
    assert accounts.of("ann") == {"rounds": 2, "up": 15, "down": 5, "loss": 0.25}
    assert accounts.of("bob") == {"rounds": 1, "up": 1, "down": 1, "loss": None}
    assert accounts.of("cyd") == {"rounds": 0, "up": 0, "down": 0, "loss": None}


def test_accounts_come_back_from_a_checkpoint(tmp_path):
    accounts, store = Accounts(["ann", "bob"]), Store(tmp_path)
    accounts.book([trained("ann", 10, 3, fused=(1.0, 3))])
    file = store.write(1, {"image.ma.up.bias": torch.zeros(2), **accounts.filed()})
    again = Accounts(["ann", "bob"])
    assert set(again.restore(store.read(1, file))) == {"image.ma.up.bias"}
    again.book([trained("bob", 1, 0, fused=(3.0, 1))])
    assert again.of("ann") == {"rounds": 1, "up": 10, "down": 3, "loss": 1 / 3}
    assert again.of("bob") == {"rounds": 1, "up": 1, "down": 0, "loss": 3.0}
    assert accounts.of("bob")["rounds"] == 0, "a copy of its own"


def test_losses_that_a_round_did_not_have_are_null():
    found = reported_losses({"text": 0.5, "fused": 1.0, "fused_multimodal": 2.0}, ("image", "text"))
    assert found == {"image": None, "text": 0.5, "fused": 1.0}


def test_failures():
    assert failure_records([Failure("ann", "DivergedError", "batch 3")]) == [
        {"client": "ann", "kind": "DivergedError", "message": "batch 3"}
    ]


def test_facts():
    data = worlds.federated({"ann": (("image", "text"), 4), "bob": (("text",), 6)}, modalities=("image", "text"))
    data.clients["bob"].train.labels[:] = torch.tensor([0, 0, 3, -1, -1, 1])
    parties = assemble(worlds.config(("image", "text")), Extensions(data, worlds.encoders(("image", "text"))))
    facts = parties.facts()
    assert facts["modalities"] == ["image", "text"]
    assert facts["classes"] == list(worlds.CLASSES)
    assert facts["clients"]["bob"] == {
        "modalities": ["text"],
        "train": 6,
        "labelled": 4,
        "validation": 0,
        "test": 0,
        "classes": [2, 1, 0, 1],
        "having": {"text": 6},
    }
    assert facts["clients"]["tst"]["test"] == 12
    assert facts["clients"]["tst"]["train"] == 0
    assert json.loads(json.dumps(facts)) == facts


def test_facts_of_other_tasks():
    """Samples that have each class, of which one has two; mean and deviation of numbers, of those that are known."""
    many, numbers = (
        InMemorySamples.whole({"text": {"x": torch.zeros(3, 2)}}, labels)
        for labels in ([[1, 1], [1, 0], [-1, -1]], [[1.0], [3.0], [float("nan")]])
    )
    registry = {"ann": ClientInfo("ann", ("text",), 3, 2, 0, 0, 0)}
    told = [
        facts_of(FederatedData(("a", "b")[: one.labels.shape[1]], ("text",), {"ann": ClientData(("text",), one)}, kind=kind), registry)
        for one, kind in ((many, "multi_label"), (numbers, "regression"))
    ]
    assert told[0]["clients"]["ann"]["classes"] == [2, 1]
    assert told[1]["clients"]["ann"]["mean"] == [2.0]
    assert told[1]["clients"]["ann"]["deviation"] == [1.0]


def test_versions_are_those_installed():
    found = versions()
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert found["machine"].startswith(f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}")
    assert all(isinstance(value, str) and value for value in found.values())
