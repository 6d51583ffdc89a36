"""Several classes and numbers: metrics against scikit-learn, ridge from sums against scikit-learn, opinions against Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import Ridge

from m2fedsa.client.teacher import Teacher
from m2fedsa.config import Transfer
from m2fedsa.data.samples import InMemorySamples
from m2fedsa.metrics import merged, tally_of
from m2fedsa.metrics.tally import tensors_of
from m2fedsa.tasks import MultiLabel, Regression, SingleLabel
from m2fedsa.tasks.task import Targets
from m2fedsa.warm_start import Sums

ONES = torch.ones(3)


def parts(number: int, clients: int, draw: np.random.Generator) -> list[np.ndarray]:
    owner = draw.integers(0, clients, number)
    return [np.flatnonzero(owner == one) for one in range(clients) if (owner == one).any()]


# --- metrics ------------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**16))
@hypothesis_settings(max_examples=40)
def test_metrics_of_several_classes(number: int, classes: int, clients: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, (number, classes)) * (draw.random(classes) < 0.8)
    s = draw.normal(size=(number, classes)) + y
    task = MultiLabel(classes)
    tallies = [task.tally(torch.from_numpy(s[rows]), torch.from_numpy(y[rows]), ONES) for rows in parts(number, clients, draw)]
    found = merged([tally_of("multi_label", tensors_of(one)) for one in tallies]).metrics()
    said = (s > 0).astype(int)
    assert found["samples"] == number
    assert found["accuracy"] == pytest.approx(1 - sklearn_metrics.hamming_loss(y, said))
    assert found["exact_match"] == pytest.approx((y == said).all(1).mean())
    if y.any() or said.any():
        assert found["micro_f1"] == pytest.approx(sklearn_metrics.f1_score(y.ravel(), said.ravel(), zero_division=0))
        seen = y.any(0) | said.any(0)
        each = [sklearn_metrics.f1_score(y[:, k], said[:, k], zero_division=0) for k in np.flatnonzero(seen)]
        assert found["macro_f1"] == pytest.approx(np.mean(each))
    else:
        assert found["macro_f1"] is None
    both = [k for k in range(classes) if 0 < y[:, k].sum() < number]
    if not both:
        assert found["auc"] is None
        assert found["uar"] is None
        return
    assert found["uar"] == pytest.approx(np.mean([sklearn_metrics.balanced_accuracy_score(y[:, k], said[:, k]) for k in both]))
    auc = np.mean([sklearn_metrics.roc_auc_score(y[:, k], s[:, k]) for k in both])
    assert abs(found["auc"] - auc) <= found["auc_error"] + 1e-12
    assert (found["auc_error"] == 0) == (len(tallies) == 1) or len(tallies) > 1
    loss = sklearn_metrics.log_loss(y.ravel(), 1 / (1 + np.exp(-s.ravel())), labels=[0, 1])
    assert found["loss"] == pytest.approx(loss)


@given(st.integers(2, 60), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.0, 1e6]), st.integers(0, 2**16))
@hypothesis_settings(max_examples=40)
def test_metrics_of_numbers(number: int, targets: int, clients: int, offset: float, seed: int) -> None:
    """Far from zero as well, where squares lose their digits."""
    draw = np.random.default_rng(seed)
    y = offset + 3 * draw.normal(size=(number, targets))
    s = draw.normal(size=(number, targets))
    task = Regression(targets, ("image",))
    prior = torch.cat([torch.full((1, targets), offset), torch.full((1, targets), 3.0), torch.ones(1, targets)]).double()
    tallies = [task.tally(torch.from_numpy(s[rows]), torch.from_numpy(y[rows]), prior) for rows in parts(number, clients, draw)]
    found = merged([tally_of("regression", tensors_of(one)) for one in tallies]).metrics()
    said = offset + 3 * s
    assert found["samples"] == number
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, said))
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(y, said))
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(y, said), rel=1e-6)
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(y[:, k], said[:, k])[0] for k in range(targets)]), abs=1e-6)


def test_a_number_that_is_always_the_same_has_no_r2() -> None:
    tally = Regression(1, ("image",)).tally(torch.tensor([[0.1], [0.2]]), torch.tensor([[5.0], [5.0]]), torch.tensor([[5.0], [1.0], [0.5]]))
    found = tally.metrics()
    assert found["r2"] is None
    assert found["pearson"] is None
    assert found["mae"] == pytest.approx(0.15, rel=1e-6)


# --- ridge from sums ----------------------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.99), st.integers(2, 9), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**16))
@hypothesis_settings(max_examples=40)
def test_ridge_from_sums_is_that_of_the_pooled_data(shrinkage: float, width: int, targets: int, clients: int, seed: int) -> None:
    """Sums of clients in any split; features and labels far off centre; in the units of the labels."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(50, width)) @ draw.normal(size=(width, width)) + 10
    y = z @ draw.normal(size=(width, targets)) + draw.normal(size=(50, targets)) + 100
    task = Regression(targets, ("image",))
    held = parts(50, clients, draw)
    summed = [Sums.of(task.sums(torch.from_numpy(z[rows]), task.targets(torch.from_numpy(y[rows]), 1).values)) for rows in held]
    prior = task.prior(sum(task.counted(torch.from_numpy(y[rows])) for rows in parts(50, 1, draw)), task.initial_prior())
    found = task.fit(sum(summed[1:], summed[0]), shrinkage, prior)
    alpha = shrinkage / (1 - shrinkage) * np.square(z - z.mean(0)).sum() / width
    fitted = Ridge(alpha=alpha, solver="svd").fit(z, y)
    said = task.answers(torch.from_numpy(z) @ found.weight.T + found.bias, prior).numpy()
    assert np.allclose(said, fitted.predict(z).reshape(50, targets), rtol=1e-8, atol=1e-8 * np.abs(y).max())
    assert np.allclose((found.weight * prior[1][:, None]).numpy(), fitted.coef_.reshape(targets, width), rtol=1e-6, atol=1e-8)


def test_a_class_that_nobody_or_everybody_has_is_told_by_its_frequency_alone() -> None:
    task, draw = MultiLabel(3), torch.Generator().manual_seed(0)
    y = torch.zeros(20, 3, dtype=torch.int64)
    y[:, 1], y[::2, 2] = 1, 1
    found = task.fit(Sums.of(task.sums(torch.randn(20, 4, generator=draw), task.targets(y, 1).values)), 0.1, ONES)
    assert not bool(found.weight[:2].any())
    assert not bool(found.bias[:2].any())
    assert bool(found.weight[2].any())
    assert bool(found.weight.isfinite().all())


def test_features_that_are_all_the_same_give_finite_classifiers() -> None:
    y = torch.tensor([[1, 0], [0, 1], [1, 1]])
    labels = MultiLabel(2)
    found = labels.fit(Sums.of(labels.sums(torch.full((3, 4), 0.7), labels.targets(y, 1).values)), 0.01, ONES)
    assert bool(found.weight.isfinite().all() & found.bias.isfinite().all())
    numbers = Regression(2, ("image",))
    found = numbers.fit(
        Sums.of(numbers.sums(torch.full((3, 4), 0.7), numbers.targets(y.double(), 1).values)), 0.01, numbers.initial_prior()
    )
    assert torch.allclose(found.weight, torch.zeros(2, 4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found.bias, torch.tensor([2 / 3, 2 / 3], dtype=torch.float64))


# --- who is held back ---------------------------------------------------------------------------------------------------------------


def test_sums_over_few_are_held_back_by_hand() -> None:
    """Class 0: two have it, class 1: one, class 2: all but one. Without row 3 (the only one of class 1) class 0 has one left, row 0, which
    goes as well; row 4, the only one that lacks class 2, goes first of all."""
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    task = MultiLabel(3)
    assert task.targets(labels, 1).taken.tolist() == [True] * 5
    assert task.targets(labels, 2).taken.tolist() == [False, True, True, False, False]
    numbers = Regression(1, ("image",))
    some = torch.tensor([[1.0], [float("nan")], [2.0]])
    assert numbers.targets(some, 2).taken.tolist() == [True, False, True]
    assert numbers.targets(some, 3).taken.tolist() == [False] * 3
    single = SingleLabel(3)
    assert single.targets(torch.tensor([0, 0, 1, -1]), 2).taken.tolist() == [True, True, False, False]
    assert single.enough(
        Targets(torch.eye(3)[[0, 0, 1]].double(), torch.ones(3).bool()), torch.tensor([True, False, True]), 1
    ).tolist() == [
        True,
        False,
        True,
    ]


# --- opinions -----------------------------------------------------------------------------------------------------------------------


def test_independent_witnesses_of_a_coin() -> None:
    """Two signals that are independent given whether a class is there: the sum of log-odds less the prior's is Bayes' rule."""
    there, first, second = 0.3, {1: 0.8, 0: 0.4}, {1: 0.9, 0: 0.2}  # P(class), P(signal | class)

    def posterior(*likelihoods: dict[int, float]) -> float:
        having, lacking = (p * math.prod(one[k] for one in likelihoods) for p, k in ((there, 1), (1 - there, 0)))
        return having / (having + lacking)

    def odds(p: float) -> torch.Tensor:
        return torch.tensor([[math.log(p / (1 - p))]])

    unimodal = {"a": odds(posterior(first)), "b": odds(posterior(second))}
    rows, entering = {"a": torch.tensor([0]), "b": torch.tensor([0])}, torch.ones(1, 2, dtype=torch.bool)
    s = MultiLabel(1).fused(torch.zeros(1, 1), unimodal, rows, entering, odds(there)[0])
    assert torch.sigmoid(s).item() == pytest.approx(posterior(first, second), rel=1e-6)


def test_independent_witnesses_of_a_number() -> None:
    """y of mean 7 and deviation 2, seen twice in noise: the fused opinion is the mean of the Gaussian given both, by linear algebra."""
    variance, noise, seen = 4.0, (1.0, 9.0), (9.5, 4.0)
    task = Regression(1, ("a", "b"))
    left = [one / (variance + one) for one in noise]  # the part of the variance that stays when one is seen
    prior = torch.tensor([[7.0], [2.0], [left[0]], [left[1]]], dtype=torch.float64)
    alone = [(variance / (variance + e)) * (x - 7) / 2 for e, x in zip(noise, seen, strict=True)]
    unimodal = {name: torch.tensor([[value]], dtype=torch.float64) for name, value in zip("ab", alone, strict=True)}
    rows, entering = {"a": torch.tensor([0]), "b": torch.tensor([0])}, torch.ones(1, 2, dtype=torch.bool)
    s = task.fused(torch.zeros(1, 1, dtype=torch.float64), unimodal, rows, entering, prior)
    covariance = variance * np.ones((2, 2)) + np.diag(noise)
    gain = variance * np.ones(2) @ np.linalg.inv(covariance)
    assert task.answers(s, prior).item() == pytest.approx(7 + gain @ (np.array(seen) - 7))
    told = task.variances(prior, entering, ("a", "b"))["fused"].item()
    assert told == pytest.approx((variance - gain @ np.ones(2) * variance) / variance)


def test_one_prior_in_the_place_of_another() -> None:
    """A number seen in noise where labels are global, and where a client has others: the second posterior from the first."""
    task = Regression(1, ("a",))
    noise, x, (mean, variance) = 0.5, 1.7, (-0.6, 0.3)
    e = noise / (1 + noise)
    everywhere = torch.tensor([[x / (1 + noise)]])
    here = (x / noise + mean / variance) / (1 / noise + 1 / variance)
    found = task.adjusted(everywhere, torch.tensor([[mean], [variance]]), torch.tensor([e]))
    assert found.item() == pytest.approx(here, rel=1e-6)
    assert task.adjusted(everywhere, task.no_adjustment(torch.zeros(3, 1)), torch.tensor([e])).item() == pytest.approx(everywhere.item())


def test_what_a_client_has_is_learned_from_its_teacher() -> None:
    """Two thousand samples without a label, of labels around 1.5 with deviation 0.4, through a teacher that leaves a fifth: the estimate
    finds them, and the plain mean of the teacher's values, pulled to the global mean, does not."""
    draw = torch.Generator().manual_seed(0)
    e, y = 0.2, 1.5 + 0.4 * torch.randn(2000, 1, generator=draw)
    noise = e / (1 - e)
    teacher = (y + math.sqrt(noise) * torch.randn(2000, 1, generator=draw)) / (1 + noise)
    task = Regression(1, ("a",))
    prior = torch.tensor([[0.0], [1.0], [e]])
    mean, variance = task.taught_adjustment(teacher, torch.tensor([e]), task.counted(torch.zeros(0, 1)), prior)
    assert mean.item() == pytest.approx(1.5, abs=0.04)
    assert variance.sqrt().item() == pytest.approx(0.4, abs=0.06)
    assert abs(teacher.mean().item() - 1.5) > 0.2
    coins = MultiLabel(1)
    there = torch.rand(2000, 1, generator=draw) < 0.9
    signal = torch.where(there, 1.0, -1.0) * (2 * (torch.rand(2000, 1, generator=draw) < 0.8) - 1)
    odds = signal * math.log(4)  # of a signal that is right in four of five, where half have the class
    found = coins.taught_adjustment(odds, None, coins.counted(torch.zeros(0, 1, dtype=torch.int64)), torch.zeros(1))
    assert torch.sigmoid(found).item() == pytest.approx(0.9, abs=0.04)


def test_losses_by_hand() -> None:
    """Bernoulli: -log ½ for a logit of 0, twice that for a class of weight 2 that is there. Numbers: half the mean square."""
    coins = MultiLabel(2).losses(torch.zeros(2, 2), torch.tensor([[1, 0], [-1, -1]]), torch.tensor([2.0, 5.0]))
    assert coins[0].item() == pytest.approx(1.5 * math.log(2))
    assert coins.isfinite().all()
    task = Regression(2, ("a",))
    prior = torch.tensor([[10.0, 0.0], [2.0, 1.0], [0.5, 0.5]])
    inner = task.inner(torch.tensor([[14.0, 1.0], [float("nan"), float("nan")]]), prior)
    assert inner[0].tolist() == [2.0, 1.0]
    logits = torch.tensor([[1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    losses = task.losses(logits, inner, torch.ones(2))
    assert losses[0].item() == pytest.approx(0.25)
    torch.where(torch.tensor([True, False]), losses, 0.0).sum().backward()
    assert logits.grad.isfinite().all()
    p, q = 0.9, 0.6
    teacher, student = (torch.tensor([[math.log(one / (1 - one))]]) for one in (p, q))
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert MultiLabel(1).divergence(teacher, student).item() == pytest.approx(wanted, rel=1e-5)


def test_weights_that_make_classes_count_alike() -> None:
    """Of 90 and 10 samples: five ninths and five, the same in total. Of a class that one in ten has: nine."""
    task = SingleLabel(2)
    prior = task.prior(torch.tensor([89.5, 9.5], dtype=torch.float64), ONES)
    weights, even = task.balanced(prior)
    assert weights.tolist() == pytest.approx([0.5 / 0.9, 0.5 / 0.1])
    assert even.exp().tolist() == [0.5, 0.5]
    weights, even = MultiLabel(1).balanced(MultiLabel(1).prior(torch.tensor([[9.5], [99.0]], dtype=torch.float64), ONES))
    assert weights.tolist() == pytest.approx([9.0])
    assert even.tolist() == [0.0]


# --- how sure a teacher is ----------------------------------------------------------------------------------------------------------


def test_temperature_and_confidence_by_hand() -> None:
    """Two classes at odds of 3 to 1, at temperature 2 of √3 to 1; of several classes each for itself; numbers have neither."""
    odds = torch.tensor([[math.log(3.0), 0.0]])
    assert SingleLabel(2).confidence(odds).item() == pytest.approx(0.75)
    assert SingleLabel(2).confidence(SingleLabel(2).tempered(odds, 2.0)).item() == pytest.approx(3**0.5 / (1 + 3**0.5))
    assert MultiLabel(2).confidence(torch.tensor([[math.log(3.0), -math.log(4.0)]])).item() == pytest.approx((0.75 + 0.8) / 2)
    assert MultiLabel(2).tempered(odds, 2.0).tolist() == (odds / 2).tolist()
    numbers = torch.tensor([[1.5], [-2.0]])
    assert Regression(1, ("a",)).tempered(numbers, 2.0).tolist() == numbers.tolist()
    assert Regression(1, ("a",)).confidence(numbers).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("power", [0.5, 50.0, 1e4])
def test_no_power_makes_all_samples_count_for_nothing(power: float) -> None:
    """Weights are relative to the surest sample, whatever the others are, and what nobody teaches does not matter."""
    teacher = Teacher.made(
        {"fused": torch.tensor([[0.2, 0.0], [0.1, 0.0], [9.0, 0.0]]).index_fill(0, torch.tensor([2]), float("nan"))},
        SingleLabel(2),
        InMemorySamples.whole({"a": {}, "b": {}}, [-1, -1, 0]),
        torch.tensor([0.5, 0.5]).log(),
        Transfer(confidence=power),
    )
    weights = teacher.weights["fused"]
    assert weights[0] == 1
    assert 0 < weights[1] <= 1
