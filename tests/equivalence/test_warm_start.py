"""The warm start against scikit-learn's discriminant analysis of the pooled data, and numpy where labels are soft."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tests import worlds
from tests.equivalence.unsplit import Masks
from tests.equivalence.unsplit_run import Run
from tests.equivalence.unsplit_run import discriminant as weighted_discriminant
from tests.equivalence.unsplit_tasks import OneLabel
from torch import Tensor

from m2fedsa import running
from m2fedsa.assembly import Parties
from m2fedsa.blueprint import initial_client_tensors, initial_server_tensors
from m2fedsa.data.samples import FederatedData
from m2fedsa.errors import ConfigError, RunError
from m2fedsa.fed_server.warm import WarmStart, warm_start
from m2fedsa.main_server import MainServer
from m2fedsa.messages import (
    ClassSums,
    EvaluationReply,
    EvaluationRequest,
    Failure,
    JudgeResult,
    JudgeTask,
    SumsResult,
    SumsTask,
)
from m2fedsa.tasks.opinions import own_frequencies
from m2fedsa.warm_start import Sums, best, class_sums, discriminant, numbers_of, rows_of, total

CLASSES = len(worlds.CLASSES)


def sklearn_discriminant(z: np.ndarray, y: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias without the prior; `y` has every class."""
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z, y)
    return fitted.coef_, fitted.intercept_ - np.log(fitted.priors_)


def one_hot(labels: np.ndarray, classes: int = CLASSES) -> torch.Tensor:
    return torch.from_numpy(np.eye(classes)[labels])


# --- from sums ----------------------------------------------------------------------------------------------------------------------


@given(
    shrinkage=st.floats(0.01, 1.0),
    width=st.integers(2, 9),
    classes=st.integers(3, 6),
    clients=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
@hypothesis_settings(max_examples=40)
def test_a_discriminant_from_sums_is_that_of_the_pooled_data(shrinkage, width, classes, clients, seed) -> None:
    """Sums of clients in any split, features far off centre as those of real encoders are; each class with one sample at least."""
    draw = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), draw.integers(0, classes, 50)])
    z = draw.normal(size=(len(y), width)) @ draw.normal(size=(width, width)) + 5 * draw.normal(size=(classes, width))[y] + 10
    owner = draw.integers(0, clients, len(y))
    parts = [{"m": class_sums(torch.from_numpy(z[owner == one]), one_hot(y[owner == one], classes))} for one in range(clients)]
    found = discriminant(total(parts)["m"], shrinkage)
    weight, bias = sklearn_discriminant(z, y, shrinkage)
    # Both solve the same system; how far apart that leaves them depends on its condition.
    assert np.allclose(found.weight.numpy(), weight, rtol=1e-6, atol=1e-7 * np.abs(weight).max())
    assert np.allclose(found.bias.numpy(), bias, rtol=1e-6, atol=1e-7 * np.abs(bias).max())


def test_sums_by_hand() -> None:
    """Features (1, 2), (3, 4), (5, 6) of classes 0, 1, 0."""
    sums = class_sums(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[1, 0], [0, 1], [1, 0]]))
    assert sums.counts.tolist() == [2, 1]
    assert sums.sums.tolist() == [[6, 8], [3, 4]]
    products = torch.tensor([[1 + 9 + 25, 2 + 12 + 30], [2 + 12 + 30, 4 + 16 + 36]], dtype=torch.float64)
    assert torch.allclose(Sums.of(sums).products, products, rtol=1e-14)
    # R = √35, 44/√35; √(56 − 44²/35).
    assert sums.factor.tolist() == pytest.approx([35**0.5, 44 / 35**0.5, (56 - 44**2 / 35) ** 0.5])
    assert {one.dtype for one in (sums.counts, sums.sums, sums.factor)} == {torch.float64}


def test_sums_of_soft_labels_by_hand() -> None:
    """A quarter of (4, 0) counts for class 0, and three of them for class 1; the products count it once."""
    sums = class_sums(torch.tensor([[4.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert sums.counts.tolist() == [1.25, 0.75]
    assert sums.sums.tolist() == [[1, 2], [3, 0]]
    assert Sums.of(sums).products.tolist() == [[16, 0], [0, 4]]


@given(rows=st.integers(0, 12), width=st.integers(1, 9), rank=st.integers(1, 9), seed=st.integers(0, 999))
@hypothesis_settings(max_examples=60)
def test_a_factor_is_the_sum_of_products_and_tells_no_more(rows, width, rank, seed) -> None:
    """Whatever N, D and rank; turned samples have the same products, and the same factor where it is the only one."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(rows, min(rank, width))) @ draw.normal(size=(min(rank, width), width))
    sums = class_sums(torch.from_numpy(z), torch.ones(rows, 1))
    assert len(sums.factor) == numbers_of(min(rows, width), width)
    assert rows_of(len(sums.factor), width) == min(rows, width)
    assert np.allclose(Sums.of(sums).products, z.T @ z, atol=1e-10)
    if rows and rank >= min(rows, width):
        turn, _ = np.linalg.qr(draw.normal(size=(rows, rows)))
        turned = class_sums(torch.from_numpy(turn @ z), torch.ones(rows, 1)).factor
        assert np.allclose(turned, sums.factor, atol=1e-6 * max(1.0, float(sums.factor.abs().max())))


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_soft_labels_are_weights(shrinkage: float) -> None:
    draw = np.random.default_rng(3)
    z, q = draw.normal(size=(40, 5)) + 3, draw.dirichlet(np.ones(4), 40)
    found = discriminant(Sums.of(class_sums(torch.from_numpy(z), torch.from_numpy(q))), shrinkage)
    weight, bias = weighted_discriminant(z, q, shrinkage)
    assert np.allclose(found.weight, weight, rtol=1e-9)
    assert np.allclose(found.bias, bias, rtol=1e-9)
    # Whole numbers of copies are weights too: the reference itself against scikit-learn.
    y, copies = draw.integers(0, 4, 40), draw.integers(1, 4, 40)
    repeated = sklearn_discriminant(np.repeat(z, copies, 0), np.repeat(y, copies), shrinkage)
    for ours, theirs in zip(weighted_discriminant(z, np.eye(4)[y] * copies[:, None], shrinkage), repeated, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-8)


def test_a_class_of_nobody_sits_at_the_mean_of_all_and_moves_no_other() -> None:
    draw = np.random.default_rng(4)
    z, y = draw.normal(size=(30, 3)), draw.integers(0, 3, 30)
    found = discriminant(Sums.of(class_sums(torch.from_numpy(z), one_hot(y, 4))), 0.2)
    weight, bias = sklearn_discriminant(z, y, 0.2)
    assert np.allclose(found.weight[:3], weight, rtol=1e-8)
    assert np.allclose(found.bias[:3], bias, rtol=1e-8)
    within = sum((z[y == c] - z[y == c].mean(0)).T @ (z[y == c] - z[y == c].mean(0)) for c in range(3)) / 30
    shrunk = 0.8 * within + 0.2 * np.trace(within) / 3 * np.eye(3)
    assert np.allclose(found.weight[3], np.linalg.solve(shrunk, z.mean(0)), rtol=1e-8)


def test_features_that_are_all_the_same_give_finite_classifiers() -> None:
    found = discriminant(Sums.of(class_sums(torch.full((6, 3), 0.7), one_hot(np.array([0, 1, 2, 0, 1, 2])))), 0.01)
    assert bool(found.weight.isfinite().all())
    assert bool(found.bias.isfinite().all())


def test_the_best_of_a_table() -> None:
    tables = {"image": torch.tensor([[3.0, 2.0, 9.0], [4.0, 5.0, 1.5]]), "text": torch.tensor([[0.5, 2.0, 9.0], [4.0, 5.0, 1.5]])}
    assert best(tables, (0.1, 0.2), (1.0, 2.0, 4.0)) == {"image": (0.2, 4.0), "text": (0.1, 1.0)}


# --- through a federation -----------------------------------------------------------------------------------------------------------

BIG = {name: (owned, 3 * number) for name, (owned, number) in worlds.CLIENTS.items()}


def started(data: FederatedData, **settings: object) -> tuple[Parties, WarmStart, Run, list[object]]:
    """After the exchange of a whole federation; the reference after its own; what the clients answered."""
    config = worlds.config(federation__warm_start=True, **settings)
    who = worlds.parties(config, data)
    start = {**initial_client_tensors(who.blueprint), **initial_server_tensors(who.blueprint)}
    answers: list[object] = []

    def ask(tasks) -> list[object]:
        found = list(who.federation.run(tasks))
        answers.extend(found)
        return found

    outcome = warm_start(who.fed_server, ask)
    reference = Run(config, data, worlds.encoders(), start)
    reference.warm_start()
    assert not outcome.failures
    return who, outcome, reference, answers


def pooled(reference: Run, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all labelled samples of all clients."""
    z, y = [], []
    for samples in reference.clients.values():
        if modality in samples.modalities:
            known = samples.presence[:, samples.modalities.index(modality)] & (samples.labels >= 0)
            z.append(reference.pooled_features(samples)[modality][known.numpy()])
            y.append(samples.labels[known].numpy())
    return np.concatenate(z), np.concatenate(y)


def test_the_classifiers_are_those_of_the_pooled_data(float64) -> None:
    """Every client holds a part, some lack classes, some modalities, some samples lack modalities or labels."""
    data = worlds.federated(BIG, unlabelled=0.2)
    for name, missing in (("ann", 0), ("dee", 3), ("eve", 1)):
        labels = data.clients[name].train.labels
        labels[labels == missing] = 2
    who, outcome, reference, _ = started(data, transfer__closed_form=False)
    counts = np.zeros(CLASSES)
    for samples in reference.clients.values():
        counts += np.bincount(samples.labels[samples.labels >= 0].numpy(), minlength=CLASSES)
    prior = np.log((counts + 0.5) / (counts + 0.5).sum())
    assert np.allclose(who.fed_server.state.log_prior, prior, rtol=1e-12)
    for modality in worlds.MODALITIES:
        shrinkage, scale = outcome.chosen[modality]
        weight, bias = sklearn_discriminant(*pooled(reference, modality), shrinkage)
        found = {part: who.fed_server.state.tensors[f"{modality}.classifier.{part}"].numpy() for part in ("weight", "bias")}
        assert np.allclose(found["weight"], scale * weight, rtol=1e-7), modality
        assert np.allclose(found["bias"], scale * bias + prior, rtol=1e-7), modality


GRIDS = {
    "as it comes": {},
    "coarse": {"warm_start__shrinkages": "[0.05, 0.9]", "warm_start__scales": "[0.5, 2.0]"},
    "fine": {"warm_start__shrinkages": "[0.2, 0.5, 0.8, 0.99]", "warm_start__scales": "[0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6]"},
    "rare classes left out": {"warm_start__min_count": 3},
}


@pytest.mark.parametrize("unlabelled", [0.0, 0.4])
@pytest.mark.parametrize("which", GRIDS)
def test_shrinkage_and_scale_are_those_of_a_search_over_pooled_halves(float64, which: str, unlabelled: float) -> None:
    """Fitted on the even samples of all clients, judged on their odd ones, refitted on all; and so once more with soft labels."""
    data = worlds.federated(BIG, unlabelled=unlabelled)
    who, outcome, reference, _ = started(data, **GRIDS[which])
    assert outcome.chosen == reference.chosen
    ours = {name: tensor for name, tensor in who.fed_server.state.tensors.items() if ".classifier." in name and "fused" not in name}
    worlds.assert_close(ours, {name: reference.tensors[name] for name in ours}, 1e-9)
    assert torch.allclose(who.fed_server.state.log_prior, reference.log_prior, rtol=1e-12)
    untouched = [name for name in who.fed_server.state.tensors if name not in ours]
    start = initial_client_tensors(who.blueprint)
    assert all(torch.equal(who.fed_server.state.tensors[name], start[name]) for name in untouched)


def test_soft_labels_at_a_temperature_and_by_their_confidence(float64) -> None:
    """Against numpy; weights have a mean of one, so as many samples are in the sums as without them."""
    data = worlds.federated(BIG, unlabelled=0.5)
    who, outcome, reference, _ = started(data, transfer__temperature=0.5, transfer__confidence=2.0)
    (plain, alike, _, _) = started(data)
    name = "image.classifier.weight"
    found = who.fed_server.state.tensors
    worlds.assert_close({name: found[name]}, {name: reference.tensors[name]}, 1e-8)
    assert not torch.allclose(found[name], plain.fed_server.state.tensors[name], rtol=1e-3)
    assert outcome.visits == alike.visits


def test_soft_labels_enter_once_and_move_the_classifiers(float64) -> None:
    data = worlds.federated(BIG, unlabelled=0.5)
    (with_them, _, reference, answers), (without, _, _, _) = started(data), started(data, transfer__closed_form=False)
    name = "image.classifier.weight"
    assert not torch.allclose(with_them.fed_server.state.tensors[name], without.fed_server.state.tensors[name], rtol=1e-3)
    assert torch.equal(with_them.fed_server.state.log_prior, without.fed_server.state.log_prior)
    sums = [answer for answer in answers if isinstance(answer, SumsResult)]
    judged = [answer for answer in answers if isinstance(answer, JudgeResult)]
    # Two exchanges with labels alone, two more with the soft ones, and no third time.
    assert (len(sums), len(judged)) == (2 * len(reference.clients), 2 * len(reference.clients))


def test_labelled_samples_have_no_soft_labels_where_their_fusion_is_asked_for_too(float64) -> None:
    """With the fused classifier in the warm start, the classifiers of single modalities are the same, and their sums to the bit."""
    data = worlds.federated(BIG, unlabelled=0.5)
    (_, _, _, plain), (_, _, _, fused) = (started(data, warm_start__fused=fused) for fused in (False, True))
    sums = [[one for one in answers if isinstance(one, SumsResult)] for answers in (plain, fused)]
    assert len(sums[1]) == 1.5 * len(sums[0])
    for mine, other in zip(*sums, strict=False):
        assert mine.client == other.client
        for modality, one in mine.even.items():
            assert torch.equal(one.counts, other.even[modality].counts), (mine.client, modality)
            assert torch.equal(one.factor, other.even[modality].factor), (mine.client, modality)


@pytest.mark.parametrize("least", [1, 4])
def test_what_a_client_returns_is_sums_of_its_own_samples(float64, least: int) -> None:
    """Counts, sums and products by numpy over the even and the odd of its labelled samples that have the modality."""
    data = worlds.federated(BIG, unlabelled=0.2)
    _, _, reference, answers = started(data, warm_start__min_count=least, transfer__closed_form=False)
    start = Run(reference.config, data, worlds.encoders(), dict(reference.tensors))
    left_out = 0
    for answer in answers:
        if not isinstance(answer, SumsResult):
            continue
        samples = start.clients[answer.client]
        labels = samples.labels.numpy()
        counts = np.bincount(labels[labels >= 0], minlength=CLASSES)
        left_out += int(counts[counts < least].sum())
        kept = np.where(counts < least, 0, counts)
        assert np.array_equal(answer.counts.numpy(), kept)
        for column, modality in enumerate(samples.modalities):
            z = start.pooled_features(samples)[modality]
            rows = [row for row, y in enumerate(labels) if y >= 0 and kept[y] and bool(samples.presence[row, column])]
            for half, found in ((rows[0::2], answer.even[modality]), (rows[1::2], answer.odd[modality])):
                often = np.bincount(labels[half], minlength=CLASSES) >= least
                half = [row for row in half if often[labels[row]]]
                check_sums(found, z[half], labels[half])
                assert all(count == 0 or count >= least for count in found.counts.tolist())
    assert (left_out > 0) == (least > 1)


def check_sums(found: ClassSums, z: np.ndarray, y: np.ndarray) -> None:
    assert np.array_equal(found.counts.numpy(), np.bincount(y, minlength=CLASSES))
    for one in range(CLASSES):
        assert np.allclose(found.sums[one], z[y == one].sum(0), atol=1e-12)
    assert np.allclose(Sums.of(found).products, z.T @ z, atol=1e-12)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_client_that_fails_is_left_out_of_the_sums(float64, comes_back: bool) -> None:
    """And of the judging of what they came to, where it has come back by then."""
    data = worlds.federated(BIG)
    config = worlds.config(federation__warm_start=True)
    who = worlds.parties(config, data)

    def ask(tasks) -> list[object]:
        away = "" if comes_back and isinstance(tasks[0], JudgeTask) else "eve"
        return [Failure("eve", "DataError", "") if task.client == away else next(iter(who.federation.run([task]))) for task in tasks]

    outcome = warm_start(who.fed_server, ask)
    assert {failure.client for failure in outcome.failures} == {"eve"}
    clients = {name: client for name, client in data.clients.items() if name != "eve"}
    start = {**initial_client_tensors(who.blueprint), **initial_server_tensors(who.blueprint)}
    reference = Run(config, FederatedData(data.classes, data.modalities, clients), worlds.encoders(), start)
    reference.warm_start()
    for modality in worlds.MODALITIES:
        name = f"{modality}.classifier.weight"
        assert torch.allclose(who.fed_server.state.tensors[name], reference.tensors[name], rtol=1e-8), modality


@pytest.mark.parametrize("task_type", [SumsTask, JudgeTask])
def test_a_client_that_fails_among_the_soft_labels_does_not_cost_its_own(float64, task_type: type) -> None:
    """Without bob's labelled sums the second fit would be a step back: π and classifiers of the first stay."""
    data = worlds.federated(BIG, unlabelled=0.5)

    def start(closed_form: bool, fails: str) -> tuple[object, dict[str, Tensor], Tensor]:
        who = worlds.parties(worlds.config(federation__warm_start=True, transfer__closed_form=closed_form), data)
        seen: list[str] = []

        def ask(tasks) -> list[object]:
            seen.append(type(tasks[0]).__name__)
            late = len(seen) > 2 and isinstance(tasks[0], task_type)
            return [
                Failure(fails, "DataError", "") if late and task.client == fails else next(iter(who.federation.run([task])))
                for task in tasks
            ]

        outcome = warm_start(who.fed_server, ask)
        return outcome, dict(who.fed_server.state.tensors), who.fed_server.state.log_prior

    plain, tensors, prior = start(False, "")
    outcome, kept, kept_prior = start(True, "bob")
    assert {failure.client for failure in outcome.failures} == {"bob"}
    assert outcome.chosen == plain.chosen
    assert torch.equal(prior, kept_prior)
    assert all(torch.equal(tensors[name], kept[name]) for name in tensors)


def validating(data: FederatedData) -> FederatedData:
    """One more client has validation samples, some without a label, and training samples beside them."""
    own = worlds.federated(BIG, seed=5).clients["tst"].test
    own.labels[[1, 4]] = worlds.UNLABELLED
    return replace(data, clients={**data.clients, "ann": replace(data.clients["ann"], validation=own)})


def test_scales_are_chosen_once_more_on_the_validation_samples_of_all_clients(float64) -> None:
    """Of the classifiers of all training samples; shrinkages stay, and so do scales of a modality that nobody validates."""
    data = validating(worlds.federated(BIG))
    # A modality that training samples speak of surely and validation samples do not, and one that these lack.
    for client in (data.clients["ann"], data.clients["val"]):
        text = client.validation.columns["text"]
        client.validation.columns["text"] = {**text, "input_ids": text["input_ids"].flip(0)}
        client.validation.presence[:, client.modalities.index("audio")] = False
    _, before, reference, _ = started(data)
    who, outcome, _, answers = started(data, warm_start__calibrate=True)
    assert not any(isinstance(answer, JudgeResult) and "audio" in answer.losses for answer in answers[-2:])
    assert outcome.chosen["audio"] == before.chosen["audio"]
    assert outcome.chosen["text"][1] < before.chosen["text"][1]
    prior = who.fed_server.state.log_prior.numpy()
    for modality in worlds.MODALITIES:
        shrinkage, scale = outcome.chosen[modality]
        assert shrinkage == before.chosen[modality][0]
        weight, bias = sklearn_discriminant(*pooled(reference, modality), shrinkage)
        if modality != "audio":
            z, y = validated(reference, data, modality)
            scales = who.blueprint.config.warm_start.scales
            losses = [-log_softmax(one * (z @ weight.T + bias) + prior, 1)[np.arange(len(y)), y].sum() for one in scales]
            assert scale == scales[int(np.argmin(losses))], modality
        found = {part: who.fed_server.state.tensors[f"{modality}.classifier.{part}"].numpy() for part in ("weight", "bias")}
        assert np.allclose(found["weight"], scale * weight, rtol=1e-7), modality
        assert np.allclose(found["bias"], scale * bias + prior, rtol=1e-7), modality


def validated(reference: Run, data: FederatedData, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all validation samples of all clients."""
    found = [client.validation for client in data.clients.values() if client.validation is not None]
    known = [(one.labels != worlds.UNLABELLED).nonzero().flatten() for one in found]
    with torch.no_grad():
        z = [
            reference.network.features(reference.tensors, modality, one.inputs(modality, rows), Masks())
            for one, rows in zip(found, known, strict=True)
        ]
    return torch.cat(z).numpy(), np.concatenate([one.labels[rows].numpy() for one, rows in zip(found, known, strict=True)])


def test_a_client_whose_validation_samples_fail_keeps_its_sums(float64) -> None:
    """It judges no scale, and nothing of it counts as lost; the others choose."""
    data = validating(worlds.federated(BIG))
    _, expected, _, _ = started(worlds.federated(BIG), warm_start__calibrate=True)
    who = worlds.parties(worlds.config(federation__warm_start=True, warm_start__calibrate=True), data)

    def ask(tasks) -> list[object]:
        fails = "ann" if isinstance(tasks[0], JudgeTask) and tasks[0].of == "validation" else ""
        return [Failure(fails, "DataError", "") if task.client == fails else next(iter(who.federation.run([task]))) for task in tasks]

    outcome = warm_start(who.fed_server, ask)
    assert outcome.chosen == expected.chosen
    assert outcome.visits == expected.visits
    assert not outcome.failures
    assert [failure.client for failure in outcome.unheard] == ["ann"]


def test_after_soft_labels_the_scales_are_those_of_validation_samples_too(float64) -> None:
    data = validating(worlds.federated(BIG, unlabelled=0.5))
    _, before, reference, _ = started(data)
    assert before.chosen == reference.chosen
    who, outcome, _, answers = started(data, warm_start__calibrate=True)
    assert {name: shrinkage for name, (shrinkage, _) in outcome.chosen.items()} == {name: one for name, (one, _) in before.chosen.items()}
    prior = reference.log_prior
    for modality, (_, scale) in outcome.chosen.items():
        losses = sum(answer.losses[modality][0] for answer in answers[-2:])
        assert scale == who.blueprint.config.warm_start.scales[int(losses.argmin())]
        times = scale / before.chosen[modality][1]
        found = {part: who.fed_server.state.tensors[f"{modality}.classifier.{part}"] for part in ("weight", "bias")}
        assert torch.allclose(found["weight"], times * reference.tensors[f"{modality}.classifier.weight"], rtol=1e-7), modality
        assert torch.allclose(found["bias"] - prior, times * (reference.tensors[f"{modality}.classifier.bias"] - prior), rtol=1e-6), (
            modality
        )


@pytest.mark.parametrize(("unlabelled", "calibrate"), [(0.0, False), (0.5, True)])
def test_each_sample_is_sent_once(float64, monkeypatch: pytest.MonkeyPatch, unlabelled: float, calibrate: bool) -> None:
    """With labels, or without and with several modalities; whatever is asked for, and no other. Those of validation, where they choose."""
    data = validating(worlds.federated(BIG, unlabelled=unlabelled))
    sent: dict[str, int] = {}
    evaluate = MainServer.evaluate

    def counting(self: MainServer, client: str, request: EvaluationRequest) -> EvaluationReply:
        sent[client] = sent.get(client, 0) + len(request.activations.entering)
        return evaluate(self, client, request)

    monkeypatch.setattr(MainServer, "evaluate", counting)
    _, outcome, _, answers = started(data, warm_start__calibrate=calibrate)
    due: dict[str, int] = {}
    judging: dict[str, int] = {}
    for name, client in data.clients.items():
        if client.train is not None:
            alone = client.train.presence.sum(1) == 1
            due[name] = int((~((client.train.labels < 0) & alone)).sum())
        if client.validation is not None and calibrate:
            judging[name] = int((client.validation.labels >= 0).sum())
    assert sent == {name: due.get(name, 0) + judging.get(name, 0) for name in {**due, **judging}}
    assert outcome.samples == sum(due.values())
    assert outcome.features.up == sum(answer.traffic.up for answer in answers) > 0
    assert len({type(answer) for answer in answers}) == 2


def test_soft_labels_know_which_classes_their_client_has(float64) -> None:
    """Logits that cannot tell two classes apart, at a client that holds but one of them; and by hand for one sample."""
    torch.manual_seed(0)
    truth = torch.randint(0, 2, (400,)) * 2
    logits = torch.randn(400, 4) + 2 * torch.eye(4)[truth] + 2 * torch.eye(4)[truth + 1]
    uniform = torch.full((4,), 0.25).log()
    found = own_frequencies(logits, uniform, torch.tensor([20, 0, 20, 0]))
    plain = logits.softmax(1).mean(0)
    assert float(plain[1] + plain[3]) > 0.4
    assert float(found[1] + found[3]) < float(plain[1] + plain[3]) - 0.05
    assert torch.allclose(found.sum(), torch.tensor(1.0))
    known = [0] * 20 + [2] * 20
    expected = OneLabel.estimated([(line, ()) for line in logits], known, uniform).tolist()
    assert torch.allclose(found, torch.tensor(expected), atol=1e-10)
    alone = own_frequencies(torch.tensor([[3.0, 3.0]]), torch.tensor([0.5, 0.5]).log(), torch.tensor([0, 0]))
    assert torch.allclose(alone, torch.tensor([0.5, 0.5])), "nothing tells them apart"


def test_without_a_sample_to_judge_on_the_first_candidates_are_not_taken_for_the_best() -> None:
    """No client has two labelled samples of a modality: a table of zeros says nothing."""
    data = worlds.federated({f"client{number}": (("text",), 1) for number in range(6)}, modalities=("text",))
    who = worlds.parties(worlds.config(("text",), federation__warm_start=True), data)
    outcome = warm_start(who.fed_server, lambda tasks: list(who.federation.run(tasks)))
    settings = who.blueprint.config.warm_start
    assert outcome.chosen == {"text": (max(settings.shrinkages), min(settings.scales))}


def test_sums_that_are_all_kept_back_are_told() -> None:
    settings = worlds.config(federation__warm_start=True, warm_start__min_count=1000)
    with pytest.raises(RunError, match=r"warm_start\.min_count = 1000 keeps all of them back.*Lower it, or set federation\.warm_start"):
        running.run(settings, data=worlds.federated(), encoders=worlds.encoders())


def test_calibration_is_refused_where_there_is_nothing_to_choose_or_nothing_to_choose_by() -> None:
    with pytest.raises(ConfigError, match=r'warm_start.form = "joint" has none; leave it out'):
        worlds.config(warm_start__calibrate=True, warm_start__form='"joint"')
    with pytest.raises(ConfigError, match=r'data.task = "regression" has none; leave it out'):
        worlds.config(warm_start__calibrate=True, data__task='"regression"')
    data = worlds.federated()
    without = replace(data, clients={name: client for name, client in data.clients.items() if client.validation is None})
    settings = worlds.config(federation__warm_start=True, warm_start__calibrate=True)
    with pytest.raises(ConfigError, match=r"warm_start.calibrate chooses scales on validation samples, but no client has any\. Give some"):
        running.run(settings, data=without, encoders=worlds.encoders())
