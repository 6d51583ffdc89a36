"""A loss, feature or gradient that is not finite ends that client's round with an error that says where; the run goes on without it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import worlds
from torch import Tensor

from m2fedsa import running
from m2fedsa.assembly import Parties
from m2fedsa.data.samples import SPLITS, FederatedData
from m2fedsa.errors import DataError, RunError
from m2fedsa.losses import Losses, Predictions, step_loss
from m2fedsa.messages import Failure
from m2fedsa.optimizers import clip, culprit
from m2fedsa.seeding import derive, derive_seed

NAN, INF = float("nan"), float("inf")


def poisoned(data: FederatedData, client: str, modality: str, row: int, value: float = NAN) -> FederatedData:
    """One sample of one client with an input that is not finite."""
    train = data.clients[client].train
    assert bool(train.presence[row, train.modalities.index(modality)])
    columns = {name: {key: tensor.clone() for key, tensor in one.items()} for name, one in train.columns.items()}
    (name,) = columns[modality]
    columns[modality][name][train.indices[row]] = value
    return replace(data, clients={**data.clients, client: replace(data.clients[client], train=replace(train, columns=columns))})


def batch_with(row: int, client: str, number: int, settings, samples: int) -> int:
    """Which step of a round (1, 2, …) meets this sample, by the draw that its name decides."""
    order = torch.randperm(samples, generator=derive(derive_seed(settings.seed, "round", number), client, "batches")).tolist()
    return order.index(row) // settings.federation.batch_size + 1


class Spoilt:
    """The loss of the specification, but spoilt for clients that hold audio alone."""

    def __init__(self, spoil) -> None:
        self.spoil, self.calls = spoil, 0

    def __call__(self, predictions: Predictions, phase, weights) -> Losses:
        self.calls += 1
        right = step_loss(predictions, phase, weights)
        return self.spoil(right, predictions) if list(predictions.unimodal) == ["audio"] else right


def total(value: float):
    return lambda right, _: Losses(right.total * value, right.reported)


def reported(name: str, value: float):
    return lambda right, _: Losses(right.total, {**right.reported, name: (torch.tensor(value), 1)})


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_poisoned_sample_ends_the_clients_round_and_the_run_goes_on(tmp_path: Path, phase: str, value: float) -> None:
    settings = worlds.config(federation__rounds=2, transfer__start="never" if phase == "fusion" else 1)
    data = poisoned(worlds.federated(), "ann", "audio", 4, value)
    result = running.run(settings, data=data, encoders=worlds.encoders(), out=tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [1, 2]
    for record in records:
        assert record["clients"] == ["bob", "cyd", "dee", "eve"]
        (failure,) = record["failures"]
        assert (failure["client"], failure["kind"]) == ("ann", "DivergedError")
        met = batch_with(4, "ann", record["round"], settings, 9)
        assert f"round {record['round']}" in failure["message"]
        assert f"client ann, round {record['round']}, batch {met - 1}, step {met}: " in failure["message"]
        assert "modality audio" in failure["message"]
        assert "not finite" in failure["message"]
    assert result.rounds == 2
    assert result.history[-1]["failures"] == records[-1]["failures"]
    assert result.per_client["ann"]["rounds"] == 0


SPOILT = {
    "a total that is NaN": (total(NAN), "the total loss is nan"),
    "a total that is infinite": (total(INF), "the total loss is inf"),
    "a modality's loss that is NaN": (reported("audio", NAN), "the loss of modality audio is nan"),
    "a fused loss that is infinite": (reported("fused", INF), "the fused loss is inf"),
}


@pytest.mark.parametrize("which", SPOILT)
def test_a_loss_that_is_not_finite_names_client_round_batch_step_and_whose_it_is(which: str) -> None:
    spoil, what = SPOILT[which]
    loss = Spoilt(spoil)
    settings = worlds.config(federation__rounds=1)
    result = running.run(settings, data=worlds.federated(), encoders=worlds.encoders(), loss=loss)
    (failure,) = result.history[0]["failures"]
    assert failure == {"client": "dee", "kind": "DivergedError", "message": f"client dee, round 1, batch 0, step 1: {what}."}
    # dee (6 samples) stopped at her first batch of two.
    assert loss.calls == 3 + 3 + 2 + 1 + 2


def test_a_loss_that_is_not_finite_later_in_the_round_names_that_batch() -> None:
    def second(right: Losses, predictions: Predictions) -> Losses:
        return Losses(right.total * NAN, right.reported) if len(predictions.labels) == 2 else right

    settings = worlds.config(federation__rounds=1)
    result = running.run(settings, data=worlds.federated(), encoders=worlds.encoders(), loss=Spoilt(second))
    (failure,) = result.history[0]["failures"]
    assert failure["message"].startswith("client dee, round 1, batch 1, step 2: ")


def with_tensor(who: Parties, name: str, value: float) -> None:
    """Put a client-side tensor in force that no finite step could have made."""
    state = who.fed_server.state
    who.fed_server.restore(replace(state, tensors={**state.tensors, name: torch.full_like(state.tensors[name], value)}))


@pytest.mark.parametrize(
    ("labelled", "said"), [(True, "the loss of modality audio is "), (False, "logits of modality audio are not finite")]
)
def test_a_modality_is_named_before_the_fused_loss_that_it_spoils(labelled: bool, said: str) -> None:
    """Fused logits are sums, and so as spoilt as any of theirs; without a label no modality has a loss to be named by."""
    data = worlds.federated()
    if not labelled:
        data.clients["ann"].train.labels[:] = -1
    who = worlds.parties(worlds.config(transfer__start=1), data)
    with_tensor(who, "audio.classifier.weight", INF)
    plan, tasks = who.fed_server.begin_round()
    who.coordination.begin(plan)
    task = next(task for task in tasks if task.client == "ann")
    if not labelled:  # her teacher would be spoilt as well, and be named first
        who.federation._clients["ann"].local = {"teacher window": torch.tensor(0), "teacher/fused": torch.zeros(9, len(worlds.CLASSES))}
    (failure,) = who.federation.run([task])
    assert isinstance(failure, Failure)
    assert failure.kind == "DivergedError"
    assert failure.message.startswith(f"client ann, round 1, batch 0, step 1: {said}")


@pytest.mark.parametrize(
    ("tensor", "said"), [("audio.classifier.bias", "logits of modality audio"), ("fused.classifier.bias", "fused logits")]
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_predictions_that_are_not_finite_are_not_counted(tensor: str, said: str, value: float) -> None:
    who = worlds.parties(worlds.config(), worlds.federated())
    with_tensor(who, tensor, value)
    (failure,) = who.federation.run(who.fed_server.evaluation("test"))
    assert failure == Failure("tst", "DivergedError", f"client tst, evaluation after round 0: {said} are not finite.")


class Explosive(torch.autograd.Function):
    """The identity, with a gradient that is infinite."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * INF


def test_a_finite_loss_with_a_gradient_that_is_not_finite() -> None:
    def explode(right: Losses, _: Predictions) -> Losses:
        return Losses(Explosive.apply(right.total), right.reported)

    settings = worlds.config(federation__rounds=1)
    result = running.run(settings, data=worlds.federated(), encoders=worlds.encoders(), loss=Spoilt(explode))
    (failure,) = result.history[0]["failures"]
    assert (failure["client"], failure["kind"]) == ("dee", "DivergedError")
    assert re.search(
        r"client dee, round 1, batch 0, step 1: main server.*step 1: a gradient of modality audio \(audio\..*\) is not finite",
        failure["message"],
    )


def test_when_every_client_fails_the_run_says_so_and_names_the_first() -> None:
    data = worlds.federated({"ann": (worlds.MODALITIES, 6), "bob": (("image",), 4)})
    for name in ("ann", "bob"):
        data = poisoned(data, name, "image", 3)
    with pytest.raises(RunError, match=r"round 1: all 2 clients failed. The first was ann \(DivergedError\): .*modality image"):
        running.run(worlds.config(federation__batch_size=100), data=data, encoders=worlds.encoders())


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 2, 3, 4, 5, 6, 7, 8]])
def test_a_poisoned_first_sample_does_not_stop_the_run(rows: list[int]) -> None:
    """On the first two sound samples encoders are cut, and the cut is verified."""
    data = worlds.federated()
    for row in rows:
        data = poisoned(data, "ann", "image", row)
    result = running.run(worlds.config(federation__rounds=1), data=data, encoders=worlds.encoders())
    assert [failure["client"] for failure in result.history[0]["failures"]] == ["ann"]
    assert result.history[0]["clients"] == ["bob", "cyd", "dee", "eve"]


def test_samples_of_which_none_is_finite_are_told_before_the_run() -> None:
    data = worlds.federated({"ann": (("image",), 3)}, modalities=("image",))
    train = data.clients["ann"].train
    pixels = {"image": {"pixel_values": torch.full_like(train.columns["image"]["pixel_values"], NAN)}}
    clients = {
        name: replace(one, **{split: replace(samples, columns=pixels) for split in SPLITS if (samples := one.split(split)) is not None})
        for name, one in data.clients.items()
    }
    with pytest.raises(DataError, match="every sample of modality image has values that are not finite"):
        running.run(worlds.config(("image",)), data=replace(data, clients=clients), encoders=worlds.encoders(("image",)))


def test_the_tensor_at_fault_is_named_and_no_other() -> None:
    """Scaling by a norm that is NaN would make every gradient NaN, and the first name in the alphabet the culprit."""
    trained = {name: torch.nn.Parameter(torch.zeros(2)) for name in ("audio.ta.up.bias", "fusion.norm", "text.ta.up.bias")}
    for name, parameter in trained.items():
        parameter.grad = torch.full((2,), NAN if name.startswith("text") else 3.0)
    assert math.isnan(clip(trained.values(), 1.0))
    assert culprit(trained) == "modality text (text.ta.up.bias)"
    assert bool((trained["audio.ta.up.bias"].grad == 3).all())
    trained["text.ta.up.bias"].grad, trained["fusion.norm"].grad = torch.zeros(2), torch.full((2,), INF)
    assert culprit(trained) == "the fused part (fusion.norm)"


def test_a_poisoned_client_is_left_out_of_the_warm_start_too(tmp_path: Path) -> None:
    settings = worlds.config(federation__rounds=1, federation__warm_start=True)
    data = worlds.federated()
    left_out = {name: client for name, client in data.clients.items() if name != "ann"}
    results = [
        running.run(settings, data=one, encoders=worlds.encoders(), out=tmp_path / str(number))
        for number, one in enumerate((poisoned(data, "ann", "image", 2), replace(data, clients=left_out)))
    ]
    assert results[0].digest == results[1].digest
    # Told once, though she fails in each of the exchanges.
    (failure,) = json.loads((tmp_path / "0" / "warm_start.json").read_text())["failures"]
    assert (failure["client"], failure["kind"]) == ("ann", "DivergedError")
    assert json.loads((tmp_path / "1" / "warm_start.json").read_text())["failures"] == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_client_that_cannot_evaluate_is_left_out_and_named(tmp_path: Path, split: str) -> None:
    """Two clients evaluate; the metrics are those of the sound one, and the run ends."""
    data = worlds.federated()
    name = "val" if split == "validation" else "tst"
    samples = data.clients[name].split(split)
    spoilt = {"image": {"pixel_values": torch.full_like(samples.columns["image"]["pixel_values"], NAN)}}
    bad = replace(samples, columns={**samples.columns, **spoilt})
    clients = {**data.clients, "bad": replace(data.clients[name], **{split: bad})}
    settings = worlds.config(federation__rounds=1, federation__warm_start=True)
    sound, found = (
        running.run(settings, data=one, encoders=worlds.encoders(), out=tmp_path / str(number))
        for number, one in enumerate((data, replace(data, clients=clients)))
    )
    assert found.digest == sound.digest
    assert (found.metrics, found.validation) == (sound.metrics, sound.validation)
    written = json.loads((tmp_path / "1" / "result.json").read_text())
    assert [(one["client"], one["kind"]) for one in written["failures"]] == [("bad", "DivergedError")]
    assert "failures" not in json.loads((tmp_path / "0" / "result.json").read_text())
    assert [one["client"] for one in found.history[0].get("failures", [])] == (["bad"] if split == "validation" else [])


def test_when_nobody_can_evaluate_the_run_says_so() -> None:
    data = worlds.federated()
    samples = data.clients["val"].validation
    spoilt = {"text": samples.columns["text"], "audio": {"input_values": torch.full_like(samples.columns["audio"]["input_values"], NAN)}}
    clients = {**data.clients, "val": replace(data.clients["val"], validation=replace(samples, columns={**samples.columns, **spoilt}))}
    with pytest.raises(RunError, match="no client could evaluate its validation samples. The first was val: .*modality audio"):
        running.run(worlds.config(federation__rounds=1), data=replace(data, clients=clients), encoders=worlds.encoders())


def test_a_round_that_too_few_finish_does_not_count() -> None:
    """One of two clients diverges: with `min_clients` the run stops, without a trace; without, it goes on with the other."""
    data = poisoned(worlds.federated({"ann": (worlds.MODALITIES, 8), "bob": (worlds.MODALITIES, 8)}), "ann", "image", 3)
    settings = {"data__clients": 2, "federation__rounds": 1}
    assert running.run(worlds.config(**settings), data=data, encoders=worlds.encoders()).rounds == 1
    for warm in (False, True):
        both = worlds.config(**settings, federation__min_clients=2, federation__warm_start=warm)
        with pytest.raises(RunError, match=r"1 of 2 clients (failed|finished).*federation.min_clients( = 2|\))"):
            running.run(both, data=data, encoders=worlds.encoders())
