"""What the fed server makes of clients' answers: real ones pass, of every kind of task; others are failures that say what is wrong."""

import re
from dataclasses import replace

import pytest
import torch
from tests import worlds

from m2fedsa.messages import EvaluateResult, Failure, SumsResult, SumsTask, Traffic, TrainResult
from m2fedsa.reporting.progress import Silent
from m2fedsa.training import Training

WHO = "bob"
NAN = float("nan")


def made(kind="single_label", **settings):
    """A task of each kind, and its right answer."""
    who = worlds.parties(worlds.config(transfer__start=1, data__task=f'"{kind}"', **settings), worlds.federated(unlabelled=0.3, kind=kind))
    server = who.fed_server
    plan, tasks = server.begin_round()
    who.coordination.begin(plan)
    given = {
        "train": next(task for task in tasks if task.client == WHO),
        "sums": SumsTask(WHO, server.view(WHO)),
        "test": server.evaluation("test")[0],
    }
    return server, {name: (task, next(iter(who.federation.run([task])))) for name, task in given.items()}


@pytest.fixture(scope="module")
def classes():
    return made()


def said(found, name, change):
    """What is said of an answer that was changed; the right one passes."""
    server, answers = found
    task, right = answers[name]
    assert server.checked(task, right) is right
    failure = server.checked(task, change(right))
    assert isinstance(failure, Failure)
    assert (failure.client, failure.kind) == (task.client, "ProtocolError")
    assert failure.message.startswith(f"client {task.client}: ")
    return failure.message


def first(tensors, change):
    """With another first tensor."""
    name = next(iter(tensors))
    return {**tensors, name: change(tensors[name])}


def tensors(change):
    return lambda right: replace(right, tensors=change(right.tensors))


def samples(**numbers):
    return lambda right: replace(right, samples={**right.samples, **{f"{name}.": number for name, number in numbers.items()}})


TRAINED = {
    "nan": (tensors(lambda of: first(of, lambda one: one * NAN)), r"has \d+ of \d+ values that are not finite"),
    "inf": (tensors(lambda of: first(of, lambda one: one + float("inf"))), "not finite"),
    "shape": (tensors(lambda of: first(of, lambda one: one[:1])), r"is \(1,.*\) float32; \(.*\) float32 is needed"),
    "integers": (tensors(lambda of: first(of, lambda one: one.long())), r"int64; .* float32 is needed"),
    "unknown": (tensors(lambda of: {**of, "smell.ma.up.weight": torch.zeros(2)}), "tensor smell.ma.up.weight has no place"),
    "missing": (tensors(lambda of: dict(list(of.items())[1:])), r"tensor \S+ is missing"),
    "negative samples": (samples(image=-1), r"`samples` of image\. is -1; 0 … \d+ is needed"),
    "too many samples": (samples(image=10**6), r"`samples` of image\. is 1e\+06"),
    "samples of others": (samples(smell=1), r"`samples` names 'smell\.'"),
    "a loss": (lambda right: replace(right, losses={"fused": (NAN, 3)}), "the loss fused is nan"),
    "samples of a loss": (lambda right: replace(right, losses={"fused": (1.0, 10**9)}), "samples of the loss fused is 1e"),
    "visits": (lambda right: replace(right, visits={"image": -2}), "`visits` of image is -2"),
    "traffic": (lambda right: replace(right, traffic=Traffic(-1, 0)), "`traffic` is -1 bytes up"),
    "local": (lambda right: replace(right, local="x" * 64), "`local` is 'x.*64 hexadecimal digits"),
    "a short local": (lambda right: replace(right, local="ab"), "`local` is 'ab'"),
    "another answer": (lambda right: EvaluateResult(right.client, {}, Traffic()), "a EvaluateResult answers its TrainTask"),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_round(classes, case):
    change, expected = TRAINED[case]
    message = said(classes, "train", change)
    assert re.search(expected, message), message


def moments(kind, change):
    """With another first moment of a kind."""

    def changed(right):
        name = next(name for name in right.moments if name.startswith(kind))
        return replace(right, moments={**right.moments, name: change(right.moments[name])})

    return changed


MOMENTS = {
    "nan": (moments("first", lambda one: one * NAN), r"first/\S+ has \d+ of \d+ values that are not finite"),
    "a negative square": (moments("second", lambda one: -1 - one), r"second/\S+ has a value of -1"),
    "shape": (moments("second", lambda one: one[:1]), r"second/\S+ is \(1,.*\) float32; \(.*\) float32 is needed"),
    "steps": (moments("steps", lambda one: one - 100), r"steps/\S+ has a value of -"),
    "steps of a kind": (moments("steps", lambda one: one.double()), r"steps/\S+ is \(\) float64; \(\) float32 is needed"),
    "unknown": (lambda right: replace(right, moments={**right.moments, "first/x": torch.zeros(1)}), "moment first/x has no place"),
    "missing": (lambda right: replace(right, moments={}), r"moment first/\S+ is missing"),
}


@pytest.fixture(scope="module")
def carried():
    return made(optimizer__moments="averaged")


@pytest.mark.parametrize("case", MOMENTS)
def test_moments(carried, case):
    change, expected = MOMENTS[case]
    message = said(carried, "train", change)
    assert re.search(expected, message), message


def test_moments_that_nobody_wants(classes):
    assert "moment first/x has no place" in said(classes, "train", lambda right: replace(right, moments={"first/x": torch.zeros(1)}))


def half(**changes):
    def changed(right):
        name, one = next(iter(right.even.items()))
        return replace(
            right, even={**right.even, name: replace(one, **{field: new(getattr(one, field)) for field, new in changes.items()})}
        )

    return changed


SUMMED = {
    "nan": (half(factor=lambda one: one * NAN), "factor in the even sums of image has"),
    "cut short": (half(factor=lambda one: one[:-1]), r"factor in the even sums of image is \(\d+,\) float64; \(\d+,\) floating"),
    "of more samples": (half(factor=lambda _: torch.ones(10_000)), r"factor in the even sums of image is \(10000,\)"),
    "shape": (half(sums=lambda one: one[:, :3]), r"sums in the even sums of image is \(4, 3\)"),
    "negative": (half(counts=lambda one: one - 100), "counts in the even sums of image has a value of -"),
    "too many": (half(counts=lambda one: one + 1e6), r"samples in the even sums of image is \d.*; 0 … \d+ is needed"),
    "unknown": (lambda right: replace(right, even={"smell": right.even["image"]}), "sums of 'smell' are unknown"),
    "a half": (lambda right: replace(right, odd={}), "odd sums image is missing"),
    "counted": (lambda right: replace(right, counts=right.counts + 1e6), "samples in counts is 4"),
    "integers": (lambda right: replace(right, counts=right.counts.long()), "counts is .*int64; .* floating is needed"),
}


@pytest.mark.parametrize("case", SUMMED)
def test_the_warm_start(classes, case):
    change, expected = SUMMED[case]
    message = said(classes, "sums", change)
    assert re.search(expected, message), message


def tally(field, change):
    def changed(right):
        fused = right.tallies["fused"]
        return replace(right, tallies={**right.tallies, "fused": {**fused, field: change(fused[field])}})

    return changed


@pytest.mark.parametrize(
    ("kind", "field", "change", "expected"),
    [
        ("single_label", "loss", lambda one: one * NAN, "loss in the tally of fused has"),
        ("single_label", "confusion", lambda one: one[:2], r"confusion in the tally of fused is \(2, 4\)"),
        ("single_label", "confusion", lambda one: one * 100, "samples in the tally of fused is"),
        ("single_label", "confusion", torch.zeros_like, r"is of \[0\.0\] samples"),
        ("multi_label", "confusion", lambda one: one * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None, None], "one number of at least 1"),
        ("regression", "shift", lambda one: one + 1, "shift in the tally of fused is not the mean"),
        ("regression", "number", lambda one: -one, "number in the tally of fused has a value of -"),
    ],
)  # fmt: skip
def test_an_evaluation(kind, field, change, expected):
    message = said(made(kind), "test", tally(field, change))
    assert re.search(expected, message), message


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"warm_start__form": '"joint"'}, {"warm_start__fused": True}, {"warm_start__calibrate": True}],
    ids=["apart", "joint", "fused", "calibrated"],
)
def test_no_right_answer_is_refused(kind, settings):
    """Through a run with a warm start, soft labels and transfer."""
    if kind == "regression" and settings.keys() & {"warm_start__form", "warm_start__calibrate"}:
        pytest.skip("the settings refuse this")
    config = worlds.config(
        transfer__start=2, data__task=f'"{kind}"', federation__warm_start=True, evaluation__every=1, federation__local_epochs=2, **settings
    )
    training = Training(worlds.parties(config, worlds.federated(unlabelled=0.3, kind=kind)), Silent(), None)
    training.through(resume=False)
    assert training.warm["failures"] == []
    assert [record.get("failures", []) for record in training.history] == [[], []]


def test_types():
    _, answers = made()
    assert [type(answer) for _, answer in answers.values()] == [TrainResult, SumsResult, EvaluateResult]
