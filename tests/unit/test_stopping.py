"""When a run stops by itself, and which round counts."""

import pytest

from m2fedsa.config import Config
from m2fedsa.errors import ConfigError
from m2fedsa.stopping import best_round, check_stopping, metric_of, out_of_patience


def history(*values):
    """Rounds 1, 2, … with this fused accuracy; `None`: not evaluated."""
    return [
        {"round": number, "metrics": None if value is None else {"fused": {"accuracy": value, "loss": -value}}}
        for number, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("values", "best"),
    [((0.1, 0.3, 0.2), 2), ((0.3, 0.3, 0.2), 1), ((None, 0.1, None, 0.4), 4), ((None, None), None), ((), None)],
)
def test_the_best_round(values, best):
    assert best_round(history(*values), "accuracy") == best
    assert best_round(history(*values), "loss") == best
    assert best_round(history(*values), "uar") is None


@pytest.mark.parametrize(
    ("values", "patience", "over"),
    [
        ((0.3, 0.2, 0.1), 2, True),
        ((0.3, 0.2), 2, False),
        ((0.3, 0.2, 0.4), 2, False),
        ((0.3, None, None, 0.2), 2, False),
        ((0.3, None, 0.2, None, 0.2), 2, True),
        ((0.3, 0.2, 0.1), None, False),
        ((None, None), 1, False),
    ],
)
def test_patience_counts_evaluations_without_a_new_best(values, patience, over):
    assert out_of_patience(history(*values), "accuracy", patience) == over


def test_the_warm_start_can_be_the_best_round():
    start = {"fused": {"accuracy": 0.3}}
    assert best_round(history(0.2, 0.1), "accuracy", start) == 0
    assert best_round(history(0.3, 0.1), "accuracy", start) == 0  # the first of several
    assert best_round(history(0.2, 0.4), "accuracy", start) == 2
    assert best_round([], "accuracy", start) == 0
    assert out_of_patience(history(0.2, 0.1), "accuracy", 2, start)
    assert not out_of_patience(history(0.2), "accuracy", 2, start)


def settings(**tables):
    return Config.from_mapping({"modalities": {"image": {"encoder": "x"}}, **tables})


def test_each_task_has_a_metric_of_its_own():
    assert metric_of(settings()) == "accuracy"
    assert metric_of(settings(data={"task": "multi_label"})) == "macro_f1"
    assert metric_of(settings(data={"task": "regression"})) == "r2"
    assert metric_of(settings(evaluation={"metric": "uar"})) == "uar"
    assert metric_of(settings(loss={"balance": "sampling"})) == "uar", "all classes count alike"
    assert metric_of(settings(loss={"balance": "sampling"}, evaluation={"metric": "accuracy"})) == "accuracy"
    with pytest.raises(ConfigError, match=r'evaluation.metric = "uar", but data.task = "regression" has r2, pearson, mae, rmse, loss'):
        settings(data={"task": "regression"}, evaluation={"metric": "uar"})


def test_without_validation_samples_nothing_can_be_compared():
    check_stopping(settings(), validated=False)
    with pytest.raises(ConfigError, match=r"evaluation.patience compares rounds on validation samples, but no client has any"):
        check_stopping(settings(evaluation={"patience": 3}), validated=False)
    with pytest.raises(ConfigError, match=r"evaluation.keep_best"):
        check_stopping(settings(evaluation={"keep_best": True}), validated=False)
