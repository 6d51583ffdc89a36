"""Metrics from tallies that merge, against scikit-learn on the union of the samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import metrics
from tests import worlds
from tests.equivalence import unsplit

from m2fedsa import running
from m2fedsa.assembly import Parties
from m2fedsa.data.samples import UNLABELLED, ClientData, FederatedData
from m2fedsa.figures import Evaluated
from m2fedsa.messages import EvaluateResult
from m2fedsa.metrics import ClassTally, merged, tally_of
from m2fedsa.metrics.curves import BINS
from m2fedsa.metrics.tally import tensors_of


def auc_of(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """One against the rest, mean over the classes that have both members and others."""
    occurring = [one for one in range(scores.shape[1]) if 0 < (labels == one).sum() < len(labels)]
    return float(np.mean([metrics.roc_auc_score(labels == one, scores[:, one]) for one in occurring])) if occurring else None


def check(tally: ClassTally, logits: np.ndarray, labels: np.ndarray, exact: bool) -> None:
    found, predicted = tally.metrics(), logits.argmax(1)
    assert found["samples"] == len(labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    occurring = np.unique(labels)
    assert found["uar"] == pytest.approx(metrics.recall_score(labels, predicted, labels=occurring, average="macro"), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-12)
    # The code's own last bits: scikit-learn shall see the same ties.
    scores = torch.from_numpy(logits).softmax(1).numpy()
    # No probability is zero here, or scikit-learn's clipping of it would count.
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, scores, labels=range(scores.shape[1])), rel=1e-9)
    expected = auc_of(scores, labels)
    if expected is None:
        assert found["auc"] is None
        assert found["auc_error"] is None
    elif exact:
        assert found["auc"] == pytest.approx(expected, abs=1e-12)
        assert found["auc_error"] == 0
    else:
        assert 0 <= found["auc_error"] < 1
        assert abs(found["auc"] - expected) <= found["auc_error"] + 1e-12


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, with ties, and with classes that do not occur or are not predicted."""
    classes = draw(st.integers(2, 5))
    number = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    logits = random.normal(size=(number, classes)) * draw(st.sampled_from([0.05, 1, 6]))
    if draw(st.booleans()):
        logits = logits.round()
    labels = random.integers(0, draw(st.integers(1, classes)), number)
    return logits + 1e-9 * np.arange(classes), labels


@given(predictions())
@hypothesis_settings(max_examples=60)
def test_one_client(made: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = made
    check(ClassTally.of(torch.from_numpy(logits), torch.from_numpy(labels)), logits, labels, exact=True)


@given(predictions(), st.integers(2, 4), st.integers(0, 1000))
@hypothesis_settings(max_examples=60)
def test_tallies_of_several_clients_are_that_of_the_union(made: tuple[np.ndarray, np.ndarray], clients: int, seed: int) -> None:
    logits, labels = made
    owner = np.random.default_rng(seed).integers(0, clients, len(labels))
    tallies = [
        ClassTally.of(torch.from_numpy(logits[owner == one]), torch.from_numpy(labels[owner == one]))
        for one in range(clients)
        if one in owner
    ]
    travelled = [tally_of("single_label", tensors_of(one)) for one in tallies]
    check(merged(travelled), logits, labels, exact=len(tallies) == 1)
    backwards = merged(travelled[::-1])
    assert torch.equal(backwards.confusion, merged(travelled).confusion)
    assert torch.equal(backwards.scores, merged(travelled).scores)


def test_with_many_samples_the_bound_of_the_merged_auc_is_small() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 1500)
    logits = random.normal(size=(1500, 3)) + 1.5 * np.eye(3)[labels]
    halves = [ClassTally.of(torch.from_numpy(logits[part]), torch.from_numpy(labels[part])) for part in (slice(700), slice(700, None))]
    both = merged(halves)
    check(both, logits, labels, exact=False)
    assert both.metrics()["auc_error"] < 5 / BINS


def test_figures_by_hand() -> None:
    """True 0 0 0 1 1 2; predicted 0 0 1 1 0 0, of four classes. Recalls 2/3, 1/2, 0; F1 4/7, 1/2, 0; the fourth is nowhere."""
    predicted, labels = torch.tensor([0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 2])
    found = ClassTally.of(torch.eye(4)[predicted], labels).metrics()
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["uar"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)
    # -log softmax is log(e + 3) - 1 where it hits, log(e + 3) where it misses.
    assert found["loss"] == pytest.approx((6 * math.log(math.e + 3) - 3) / 6)


def test_auc_by_hand_with_a_tie() -> None:
    """Members .9 and .5, others .5 and .1 by the score of class 1: 3 pairs in order and one tie, 3.5 of 4; and so for class 0."""
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]).log()
    assert ClassTally.of(scores, torch.tensor([1, 1, 0, 0])).metrics()["auc"] == pytest.approx(3.5 / 4)


def test_without_others_there_is_no_auc() -> None:
    found = ClassTally.of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).metrics()
    assert (found["auc"], found["auc_error"], found["accuracy"]) == (None, None, 0.5)


# --- through a federation -----------------------------------------------------------------------------------------------------------


def judged() -> tuple[Parties, list[EvaluateResult]]:
    """Three clients that test: one with all modalities whose samples lack some, one with two, one with one; and one label is missing."""
    who = federation_of({"ann": worlds.MODALITIES, "cyd": ("image", "text"), "dee": ("audio",)})
    worlds.unsettle(who)
    return who, list(who.federation.run(who.fed_server.evaluation("test")))


def federation_of(holders: dict[str, tuple[str, ...]]) -> Parties:
    data = worlds.federated()
    table, labels = worlds.columns(60, seed=4)
    clients = {name: ClientData(client.modalities, train=client.train) for name, client in data.clients.items() if client.train}
    for place, (name, owned) in enumerate(holders.items()):
        rows = torch.arange(20 * place, 20 * place + 20)
        known = labels[rows].clone()
        known[3] = UNLABELLED
        presence = worlds.some_missing(20, owned, seed=place) if len(owned) > 1 else None
        test = worlds.samples(table, known, rows, owned, presence)
        clients[name] = ClientData(owned, train=clients[name].train, test=test)
    settings = worlds.config(evaluation__batch_size=7)
    return worlds.parties(settings, FederatedData(data.classes, data.modalities, clients))


def unsplit_logits(who: Parties) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Subset -> logits and labels over all clients, from the unsplit network, sample by sample."""
    tensors = {**who.fed_server.state.tensors, **worlds.server_tensors(who)}
    network = unsplit.Network(who.blueprint.config, worlds.encoders(), who.fed_server.state.log_prior)
    found: dict[str, list[tuple[np.ndarray, int]]] = {}
    subsets = [("image", "audio"), ("image", "text"), ("audio", "text"), worlds.MODALITIES]
    for client in who.data.clients.values():
        samples = client.test
        for row in range(len(samples.labels) if samples else 0):
            label, one = int(samples.labels[row]), torch.tensor([row])
            whole = unsplit.Batch.complete(samples, one)
            if label < 0:
                continue
            out = network.forward(tensors, whole, unsplit.Masks())
            found.setdefault("fused", []).append((out.fused[0].detach().numpy(), label))
            for name, logits in out.logits[0].items():
                found.setdefault(name, []).append((logits.detach().numpy(), label))
            for names in subsets:
                if set(names) <= whole.entering[0]:
                    part = network.forward(tensors, unsplit.Batch(samples, one, [set(names)]), unsplit.Masks())
                    found.setdefault("+".join(names), []).append((part.fused[0].detach().numpy(), label))
    return {subset: (np.stack([s for s, _ in many]), np.array([y for _, y in many])) for subset, many in found.items()}


def test_every_subset_of_modalities_over_all_clients(float64) -> None:
    who, answers = judged()
    union = Evaluated.of("single_label", answers).union
    expected = unsplit_logits(who)
    assert next(iter(union)) == "fused"
    assert set(union) == set(expected)
    sizes = {subset: len(labels) for subset, (_, labels) in expected.items()}
    assert sizes["fused"] == 57
    assert sizes["image+audio+text"] < sizes["image+text"] < sizes["image"] < 57
    for subset, (logits, labels) in expected.items():
        # Subsets with audio and another are ann's alone: their AUC is exact.
        holders = [one for one in answers if subset in one.tallies]
        check(union[subset], logits, labels, exact=len(holders) == 1)
    assert {subset for subset in expected if sum(subset in one.tallies for one in answers) == 1} == {
        "image+audio",
        "audio+text",
        "image+audio+text",
    }


def test_whoever_holds_no_sample_of_a_subset_sends_none() -> None:
    _, answers = judged()
    held = {answer.client: set(answer.tallies) for answer in answers}
    assert held["dee"] == {"fused", "audio"}
    assert held["cyd"] == {"fused", "image", "text", "image+text"}
    assert {shape for answer in answers for one in answer.tallies.values() for shape in map(tuple, (t.shape for t in one.values()))} == {
        (4, 4),
        (4, 2, BINS),
        (),
    }


def test_the_validation_of_a_round_sees_what_it_made_of_personal_tensors() -> None:
    """Nothing changes between the validation of the last round, before its commit, and that of the end, after it."""
    data = worlds.federated()
    clients = {name: ClientData(one.modalities, train=one.train, validation=one.train) for name, one in data.clients.items() if one.train}
    settings = worlds.config(
        averaging__rules='[{pattern="*.classifier.*", over="nothing"}]', optimizer__learning_rate=0.1, evaluation__every=1
    )
    result = running.run(settings, data=FederatedData(data.classes, data.modalities, clients), encoders=worlds.encoders())
    assert result.history[-1]["metrics"] == result.validation
    assert result.history[0]["metrics"] != result.validation
