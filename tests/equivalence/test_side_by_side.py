"""The closed forms over all modalities at once, against least squares on the pooled data: joined features, and what fusion corrects."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tests import worlds

from m2fedsa.blueprint import initial_client_tensors
from m2fedsa.errors import ConfigError
from m2fedsa.fed_server.warm import WarmStart, warm_start
from m2fedsa.main_server import MainServer
from m2fedsa.messages import ALL, EvaluationRequest, SumsResult
from m2fedsa.tasks import MultiLabel, Regression, SingleLabel
from m2fedsa.warm_start import Moments, Sums, centred, residual_ridge

CLASSES = len(worlds.CLASSES)
BIG = {name: (owned, 3 * number) for name, (owned, number) in worlds.CLIENTS.items()}


def least_squares(features: np.ndarray, targets: np.ndarray, shrinkage: float) -> np.ndarray:
    """(K, D) of least Σ |r − W φ|² / N + ρ/(1−ρ) Σ G_dd |W_d|²: the penalty as rows of zeros to be met."""
    sizes = np.sqrt(shrinkage / (1 - shrinkage) * (features**2).mean(0) * len(features))
    rows, aims = np.vstack([features, np.diag(sizes)]), np.vstack([targets, np.zeros((features.shape[1], targets.shape[1]))])
    return np.linalg.lstsq(rows, aims, rcond=None)[0].T


def test_ridge_by_hand() -> None:
    """φ = 1, 1, 1, 1 and r = 1, 0, 0, 1, ρ = ½: W (G + G) = C, so half of the mean. Centred, of y = 1, 0, 0, 1, nothing is left."""
    sums = Sums.of(Moments.sums(torch.ones(4, 1), torch.tensor([[1, 1], [0, 1], [0, 1], [1, 1]])))
    assert residual_ridge(sums, 0.5).tolist() == [[0.25]]
    assert residual_ridge(centred(sums), 0.5).tolist() == [[0.0]]
    # A feature that nobody has gets no weight.
    absent = Sums.of(Moments.sums(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])))
    assert residual_ridge(absent, 0.0).tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("shrinkage", [0.01, 0.4])
def test_sums_of_clients_give_the_ridge_regression_of_all(shrinkage: float) -> None:
    draw = np.random.default_rng(2)
    features, targets = draw.normal(size=(60, 7)) * np.arange(1, 8) + 3, draw.normal(size=(60, 3))
    parts = [Moments.sums(torch.from_numpy(features[k::3]), torch.from_numpy(np.pad(targets[k::3], ((0, 0), (0, 1)), constant_values=1)))
             for k in range(3)]  # fmt: skip
    whole = Sums.of(parts[0]) + Sums.of(parts[1]) + Sums.of(parts[2])
    assert np.allclose(residual_ridge(whole, shrinkage), least_squares(features, targets, shrinkage), rtol=1e-8)
    middle = targets - targets.mean(0)
    assert np.allclose(residual_ridge(centred(whole), shrinkage), least_squares(features, middle, shrinkage), rtol=1e-7, atol=1e-12)


def started(monkeypatch: pytest.MonkeyPatch, **settings: object) -> tuple[object, WarmStart, dict, list[object]]:
    """A warm start over a small world; what the main server sent to each client, and all answers."""
    data = worlds.federated(BIG)
    who = worlds.parties(worlds.config(federation__warm_start=True, transfer__closed_form=False, **settings), data)
    replies: dict[str, list] = {}
    evaluate = MainServer.evaluate

    def recording(self: MainServer, client: str, request: EvaluationRequest) -> object:
        reply = evaluate(self, client, request)
        replies.setdefault(client, []).append((request.activations, reply))
        return reply

    monkeypatch.setattr(MainServer, "evaluate", recording)
    answers: list[object] = []

    def ask(tasks) -> list[object]:
        answers.extend(who.federation.run(tasks))
        return answers[-len(tasks) :]

    return who, warm_start(who.fed_server, ask), replies, answers


def pooled(replies: dict, data) -> dict[str, np.ndarray]:
    """All samples: z per modality (zero where it lacks), `there` (N, M), f, labels."""
    found: dict[str, list] = {name: [] for name in (*worlds.MODALITIES, "there", "f", "y")}
    for client in sorted(replies):
        found["y"].append(data.clients[client].train.labels.numpy())
        for activations, reply in replies[client]:
            number = len(activations.entering)
            there = np.zeros((number, len(worlds.MODALITIES)))
            for place, name in enumerate(worlds.MODALITIES):
                z = np.zeros((number, WIDTH[name]))
                if name in reply.pooled:
                    rows = activations.modalities[name].rows.numpy()
                    z[rows], there[rows, place] = reply.pooled[name].numpy(), 1
                found[name].append(z)
            found["there"].append(there)
            found["f"].append(reply.fused[ALL].numpy() if ALL in reply.fused else np.zeros((number, 0)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture(autouse=True)
def widths(float64) -> None:
    who = worlds.parties(worlds.config(), worlds.federated(BIG))
    WIDTH.update({name: one.pooled for name, one in who.blueprint.widths.items()})


WIDTH: dict[str, int] = {}


def log_frequencies(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels, minlength=CLASSES) + 0.5
    return np.log(counts / counts.sum())


def test_joined_features_are_ridge_regression_of_the_pooled_data(monkeypatch) -> None:
    """y − ȳ on [z of all modalities, zero where one lacks; 1 for each that is there]: samples and clients that lack some among them."""
    who, outcome, replies, answers = started(monkeypatch, warm_start__form="joint")
    data = pooled(replies, who.data)
    assert 0 < data["there"].mean() < 1
    features = np.concatenate([*(data[name] for name in worlds.MODALITIES), data["there"]], 1)
    shrinkage, scale = outcome.chosen["image"]
    assert scale > 0
    labels = np.eye(CLASSES)[data["y"]]
    weight = scale * least_squares(features, labels - labels.mean(0), shrinkage)
    prior = log_frequencies(data["y"])
    assert np.allclose(who.fed_server.state.log_prior, prior)
    at, tensors = 0, who.fed_server.state.tensors
    for place, name in enumerate(worlds.MODALITIES):
        assert np.allclose(tensors[f"{name}.classifier.weight"], weight[:, at : at + WIDTH[name]], rtol=1e-7, atol=1e-10), name
        at += WIDTH[name]
        bias = weight[:, place - len(worlds.MODALITIES)] + prior
        assert np.allclose(tensors[f"{name}.classifier.bias"], bias, rtol=1e-7, atol=1e-10), name
    # The sum of opinions, less the prior that each of them has, is that one regression.
    opinions = np.zeros_like(labels)
    for place, name in enumerate(worlds.MODALITIES):
        own, bias = (tensors[f"{name}.classifier.{part}"].numpy() for part in ("weight", "bias"))
        opinions += data["there"][:, place, None] * (data[name] @ own.T + bias)
    assert np.allclose(opinions - (data["there"].sum(1, keepdims=True) - 1) * prior, features @ weight.T + prior, atol=1e-9)
    assert outcome.visits == {name: int(data["there"][:, place].sum()) for place, name in enumerate(worlds.MODALITIES)}
    start = initial_client_tensors(who.blueprint)
    assert torch.equal(tensors["fused.classifier.weight"], start["fused.classifier.weight"])
    assert sum(isinstance(answer, SumsResult) for answer in answers) == len(replies)


def test_the_fused_classifier_is_ridge_regression_of_what_the_opinions_leave(monkeypatch) -> None:
    """y − softmax(s) on [f, 1], s the sum of opinions of the discriminants, f of the untrained fusion; scale and shrinkage by a search
    over halves of the pooled data."""
    weak = {"warm_start__scales": "[0.001]"}  # opinions that leave something to explain
    who, outcome, replies, _ = started(monkeypatch, warm_start__fused=True, **weak)
    data, tensors = pooled(replies, who.data), who.fed_server.state.tensors
    prior = log_frequencies(data["y"])
    s = prior * (1 - data["there"].sum(1, keepdims=True))
    for place, name in enumerate(worlds.MODALITIES):
        weight, bias = (tensors[f"{name}.classifier.{part}"].numpy() for part in ("weight", "bias"))
        s = s + data["there"][:, place, None] * (data[name] @ weight.T + bias)
    features = np.pad(data["f"], ((0, 0), (0, 1)), constant_values=1)
    left = np.eye(CLASSES)[data["y"]] - softmax(s, axis=1)
    owner = np.concatenate([np.full(len(who.data.clients[client].train.labels), place) for place, client in enumerate(sorted(replies))])
    odd = np.concatenate([np.arange((owner == one).sum()) % 2 == 1 for one in range(len(replies))])

    def loss(shrinkage: float, scale: float) -> float:
        logits = s[odd] + scale * features[odd] @ least_squares(features[~odd], left[~odd], shrinkage).T
        return -float(log_softmax(logits, axis=1)[np.arange(odd.sum()), data["y"][odd]].sum())

    grid = [
        (shrinkage, scale) for shrinkage in who.blueprint.config.warm_start.shrinkages for scale in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    ]
    assert outcome.chosen["fused"] == min(grid, key=lambda pair: loss(*pair))
    shrinkage, scale = outcome.chosen["fused"]
    assert scale > 0
    expected = scale * least_squares(features, left, shrinkage)
    assert np.allclose(tensors["fused.classifier.weight"], expected[:, :-1], rtol=1e-7, atol=1e-10)
    assert np.allclose(tensors["fused.classifier.bias"], expected[:, -1], rtol=1e-7, atol=1e-10)
    # Each sample passed once for all of it, and the modalities' own classifiers are those without.
    assert len(data["y"]) == sum(len(one.train.labels) for one in who.data.clients.values() if one.train is not None)
    plain, without, _, _ = started(monkeypatch, **weak)
    assert {name: outcome.chosen[name] for name in worlds.MODALITIES} == dict(without.chosen)
    assert torch.equal(tensors["text.classifier.weight"], plain.fed_server.state.tensors["text.classifier.weight"])
    assert outcome.features.up == without.features.up
    assert outcome.features.down > without.features.down


def test_what_answers_leave_unexplained_by_hand() -> None:
    one = SingleLabel(2).residual(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    assert one.tolist() == [[-0.5, 0.5]]
    assert MultiLabel(2).residual(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).tolist() == [[0.5, -0.5]]
    assert Regression(1, ("image",)).residual(torch.tensor([[2.0]]), torch.tensor([[5.0]])).tolist() == [[3.0]]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match='form = "joint" gives log-odds'):
        worlds.config(warm_start__form="joint", data__task="regression")
    with pytest.raises(ConfigError, match="leaves class weights unknown"):
        worlds.config(warm_start__fused=True, loss__balance="sampling")
