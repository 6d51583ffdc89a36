"""When transfer starts, who takes part in which phase, and for how long a teacher stays the same."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds
from torch import Tensor

from m2fedsa import running
from m2fedsa.assembly import Parties
from m2fedsa.client.batches import drawn, teachable
from m2fedsa.fed_server.phases import plateau, transfer_since
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.losses import Losses, Predictions, step_loss
from m2fedsa.messages import RoundPlan, TrainResult

FALLING = [0.9**n for n in range(30)]
"""A tenth less every round."""


# --- the rule -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], False),
        ([1.0] * 10, False),  # nothing lies before the last ten
        ([1.0] * 11, True),
        ([1.0] + [0.951] * 10, True),  # less than 5 % below
        ([1.0] + [0.95] * 10, False),  # exactly 5 % below is progress
        ([1.0] + [0.96] * 9 + [0.94], False),  # one of the ten suffices
        ([1.0] + [0.94] + [0.99] * 10, True),  # 0.94 has left the last ten: 0.99 is not below it
        ([1.0] * 5 + [2.0] * 10, True),  # a rise is no progress
        ([2.0, 1.0, 3.0] + [0.96] * 10, True),  # the lowest before them counts, not the last
        (FALLING, False),
        ([*FALLING, *[FALLING[-1]] * 9], False),
        ([*FALLING, *[FALLING[-1]] * 10], True),
    ],
)
def test_a_plateau(losses: list[float], expected: bool) -> None:
    assert plateau(losses) is expected


@given(st.lists(st.floats(0.5, 0.99), min_size=11, max_size=40), st.floats(1e-3, 1e3))
def test_what_falls_steadily_is_no_plateau_and_what_never_falls_is_one(factors: list[float], first: float) -> None:
    """Ten rounds of at least 1 % each are more than 5 %."""
    losses = [first]
    for factor in factors:
        losses.append(losses[-1] * factor)
    assert not plateau(losses)
    assert plateau(losses[::-1])


def test_a_fixed_round_never_and_once_begun_for_good() -> None:
    assert [transfer_since(3, number, [], None) for number in (1, 2, 3, 7)] == [None, None, 3, 7]
    assert transfer_since("never", 99, [1.0] * 99, None) is None
    assert transfer_since("plateau", 12, [1.0] * 11, None) == 12
    # Begun in round 12, whatever the loss did since.
    assert transfer_since("plateau", 20, FALLING, 12) == 12
    assert transfer_since(3, 20, FALLING, 12) == 12


def phases_of(who: Parties, losses: list[float | None]) -> list[str]:
    """The phases of a run whose fused loss goes like this; None in a round without a sample of several modalities."""
    found = []
    for loss in [*losses, 0.0]:
        plan, _ = who.fed_server.begin_round()
        found.append(plan.phase)
        reported = {"fused": (5.0, 5)} if loss is None else {"fused_multimodal": (3 * loss, 3), "fused": (100 * loss, 10)}
        who.fed_server.end_round(plan, [TrainResult("ann", {}, {}, reported, 1, worlds.NO_TRAFFIC)])
    return found


def test_the_plateau_looks_at_samples_of_several_modalities_alone() -> None:
    who = worlds.parties(worlds.config(transfer__start="plateau"), worlds.federated())
    assert phases_of(who, [1.0] * 11) == ["fusion"] * 11 + ["transfer"]


def test_a_round_without_such_samples_counts_as_one_without_progress() -> None:
    who = worlds.parties(worlds.config(transfer__start="plateau"), worlds.federated())
    assert phases_of(who, [None, None, 1.0, None, *[1.0] * 5, *[None] * 4]) == ["fusion"] * 13 + ["transfer"]


def test_the_loss_of_a_round_is_weighted_by_samples() -> None:
    """1 sample of loss 2 and 3 of loss 6: 5, whatever the client's number of steps."""
    who = worlds.parties(worlds.config(transfer__start="plateau"), worlds.federated())
    plan, _ = who.fed_server.begin_round()
    results = [
        TrainResult(name, {}, {}, {"fused_multimodal": (total, number)}, 7, worlds.NO_TRAFFIC)
        for name, total, number in (("ann", 2.0, 1), ("bob", 18.0, 3))
    ]
    who.fed_server.end_round(plan, results)
    assert who.fed_server.state.losses == (5.0,)


def test_fusion_rests_in_transfer_and_learns_before() -> None:
    settings = worlds.config(federation__rounds=2, transfer__start=2)
    who = worlds.parties(settings, worlds.federated())
    worlds.unsettle(who)
    for phase in ("fusion", "transfer"):
        before = {**who.fed_server.state.tensors, **worlds.server_tensors(who)}
        plan, tasks = who.fed_server.begin_round()
        assert (plan.phase, plan.transfer_since) == (phase, None if phase == "fusion" else 2)
        worlds.play(who, tasks, plan)
        after = {**who.fed_server.state.tensors, **worlds.server_tensors(who)}
        still = {name for name in after if torch.equal(after[name], before[name])}
        resting = {name for name in after if name.startswith(("fusion.", "fused.")) or ".token." in name or ".bilinear." in name}
        assert still == (resting if phase == "transfer" else set())


# --- who takes part -----------------------------------------------------------------------------------------------------------------


def test_unlabelled_samples_are_drawn_in_transfer_alone_and_only_if_they_have_several_modalities() -> None:
    table, labels = worlds.columns(5)
    presence = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1]], dtype=torch.bool)
    labels = torch.tensor([2, -1, -1, 0, -1])
    samples = worlds.samples(table, labels, torch.arange(5), presence=presence)
    assert drawn(samples, "fusion", unlabelled=True).tolist() == [0, 3]
    assert drawn(samples, "transfer", unlabelled=True).tolist() == [0, 1, 3, 4]
    assert drawn(samples, "transfer", unlabelled=False).tolist() == [0, 3]
    assert teachable(samples).tolist() == [False, True, False, False, True]


class Watcher:
    """The loss of the specification, and a note of every sample that it was given."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"fusion": [], "transfer": []}
        self.teachers: list[dict[str, Tensor]] = []

    def __call__(self, predictions: Predictions, phase, weights) -> Losses:
        self.seen[phase] += predictions.labels.tolist()
        self.teachers.append({name: one.clone() for name, one in predictions.teachers.items()})
        return step_loss(predictions, phase, weights)


def test_a_run_draws_unlabelled_samples_only_in_transfer() -> None:
    watcher = Watcher()
    data = worlds.federated(unlabelled=0.5)
    data.clients["bob"].train.labels[:] = -1
    data.clients["eve"].train.labels[:] = -1
    settings = worlds.config(federation__rounds=4, transfer__start=3)
    result = running.run(settings, data=data, encoders=worlds.encoders(), loss=watcher)
    # bob has nothing but unlabelled samples, eve none that could be taught besides.
    assert [record["clients"] for record in result.history] == [["ann", "cyd", "dee"]] * 2 + [["ann", "bob", "cyd", "dee"]] * 2
    trains = [client.train for name, client in data.clients.items() if client.train is not None]
    labelled = sum(int((samples.labels >= 0).sum()) for samples in trains)
    taught = sum(int(((samples.labels < 0) & (samples.presence.sum(1) > 1)).sum()) for samples in trains)
    assert (len(watcher.seen["fusion"]), watcher.seen["fusion"].count(-1)) == (2 * labelled, 0)
    assert (len(watcher.seen["transfer"]), watcher.seen["transfer"].count(-1)) == (2 * (labelled + taught), 2 * taught)
    assert taught > 0


def test_without_transfer_of_unlabelled_samples_such_clients_never_take_part() -> None:
    data = worlds.federated(unlabelled=0.5)
    data.clients["bob"].train.labels[:] = -1
    who = worlds.parties(worlds.config(transfer__start=1, transfer__unlabelled=False), data)
    plan, tasks = who.fed_server.begin_round()
    assert plan.phase == "transfer"
    assert "bob" not in plan.roster
    assert [task.client for task in tasks] == list(plan.roster)


# --- teachers -----------------------------------------------------------------------------------------------------------------------


def teacher_by_round(who: Parties, client: str, rounds: range) -> list[dict[str, bytes]]:
    """A client's teacher logits after each round."""
    found = []
    for _ in rounds:
        plan, tasks = who.fed_server.begin_round()
        worlds.play(who, tasks, plan)
        local = next(one for one in who.federation._clients.values() if one.name == client).local
        found.append({name: tensor.numpy().tobytes() for name, tensor in local.items() if name.startswith("teacher/")})
    return found


def test_a_teacher_stays_for_its_window_and_is_new_in_the_next() -> None:
    """Transfer from round 2, windows of 3 rounds: 2 3 4, 5 6 7, 8."""
    who = worlds.parties(worlds.config(federation__rounds=8, transfer__start=2, transfer__refresh=3), worlds.federated(unlabelled=0.5))
    worlds.unsettle(who)
    found = teacher_by_round(who, "ann", range(1, 9))
    assert found[0] == {}
    assert found[1] == found[2] == found[3] != found[4]
    assert found[4] == found[5] == found[6] != found[7]


def test_a_teacher_is_that_of_the_clients_first_part_in_a_window() -> None:
    """ann sits out the first round of the window: her teacher is that of the tensors she is given in the second."""
    data = worlds.federated(unlabelled=0.5)

    def after(rounds: list[tuple[str, ...]]) -> dict[str, bytes]:
        who = worlds.parties(worlds.config(transfer__start=1, transfer__refresh=2), data)
        worlds.unsettle(who)
        for names in rounds:
            plan, tasks = who.fed_server.begin_round()
            plan = replace(plan, roster={name: plan.roster[name] for name in names})
            worlds.play(who, [replace(task, plan=plan) for task in tasks if task.client in names], plan)
        local = who.federation._clients["ann"].local
        return {name: tensor.numpy().tobytes() for name, tensor in local.items()}

    early, late, later = after([("ann",)]), after([("bob", "dee"), ("ann",)]), after([("bob", "dee"), ("ann", "bob")])
    assert set(early) == {"teacher/fused", "teacher window"}
    assert early["teacher window"] == late["teacher window"]
    assert early["teacher/fused"] != late["teacher/fused"]
    assert late == later


def test_a_teacher_of_a_round_that_did_not_commit_does_not_count() -> None:
    who = worlds.parties(worlds.config(transfer__start=1), worlds.federated(unlabelled=0.5))
    worlds.unsettle(who)
    plan, tasks = who.fed_server.begin_round()
    who.coordination.begin(plan)
    list(who.federation.run(tasks))
    who.coordination.abort(plan.number)
    assert who.federation._clients["ann"].local == {}
    worlds.play(who, tasks, plan)
    assert set(who.federation._clients["ann"].local) == {"teacher/fused", "teacher window"}


def test_what_a_loss_is_given_as_teachers() -> None:
    """NaN for samples that are not taught, for labelled ones and for those of one modality; the same in every step of a window."""
    watcher = Watcher()
    data = worlds.federated(unlabelled=0.6)
    who = worlds.parties(worlds.config(transfer__start=1, federation__batch_size=100), data, loss=watcher)
    worlds.unsettle(who)
    for _ in range(2):
        plan, tasks = who.fed_server.begin_round()
        (task,) = [task for task in tasks if task.client == "bob"]
        plan = replace(plan, roster={"bob": plan.roster["bob"]})
        worlds.play(who, [replace(task, plan=plan)], plan)
    taught = teachable(data.clients["bob"].train)
    assert bool(taught.any())
    for step in watcher.teachers:
        for one in step.values():
            assert int((~one.isnan().any(1)).sum()) == int(taught.sum())
    first, second = ({name: one[~one.isnan()].sort().values for name, one in step.items()} for step in watcher.teachers)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_client_without_a_sample_of_the_phase_says_so() -> None:
    data = worlds.federated()
    data.clients["eve"].train.labels[:] = -1
    who = worlds.parties(worlds.config(), data)
    plan, _ = who.fed_server.begin_round()
    assert "eve" not in plan.roster
    plan = RoundPlan(plan.number, "fusion", plan.seed, {"eve": ("text",)}, 0.01, plan.weights)
    who.coordination.begin(plan)
    (answer,) = InProcessFederation(list(who.federation._clients.values())).run([worlds.TrainTask("eve", plan, who.fed_server.view("eve"))])
    assert answer.client == "eve"
    assert answer.kind == "DataError"
    assert "eve has no sample to train on in the fusion phase" in answer.message
