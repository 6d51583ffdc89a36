"""A whole run equals federated averaging of the unsplit network, tensor by tensor."""

import pytest
import torch
from tests import worlds
from tests.equivalence.unsplit_ridge import RidgeRun
from tests.equivalence.unsplit_run import Run

from m2fedsa import running
from m2fedsa.assembly import Parties, assemble
from m2fedsa.blueprint import initial_client_tensors, initial_server_tensors
from m2fedsa.config import Config
from m2fedsa.data.samples import FederatedData

NO_DROPOUT = {f"modalities__{name}__adapter_dropout": 0.0 for name in worlds.MODALITIES}


def both(
    monkeypatch: pytest.MonkeyPatch, config: Config, data: FederatedData, reference_of: type[Run] = Run
) -> tuple[Parties, Run, dict[str, torch.Tensor]]:
    """The run of the code, and that of the reference."""
    kept: list[Parties] = []

    def keeping(*arguments: object) -> Parties:
        kept.append(assemble(*arguments))
        return kept[-1]

    monkeypatch.setattr(running, "assemble", keeping)
    running.run(config, data=data, encoders=worlds.encoders())
    (who,) = kept
    start = {**initial_client_tensors(who.blueprint), **initial_server_tensors(who.blueprint)}
    reference = reference_of(config, data, worlds.encoders(), start)
    reference.play()
    ours = {**who.fed_server.state.tensors, **worlds.server_tensors(who)}
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float64, name
    return who, reference, ours


RUNS = {
    "fusion, then transfer": {"federation__rounds": 4},
    "without dropout": NO_DROPOUT,
    "texts cut to the length of their batch": {"compute__shorten": True, **NO_DROPOUT},
    "two epochs, dropout everywhere": {"federation__local_epochs": 2, "loss__classifier_dropout": 0.2},
    "server momentum and cosine": {"federation__server_momentum": 0.6, "optimizer__schedule": "cosine"},
    "two clients of five, seven steps": {"federation__clients_per_round": 2, "federation__local_steps": 7},
    "modality dropout": {"fusion__modality_dropout": 0.4, "transfer__start": "never"},
    "the paper's logits, plain losses": {
        "fusion__late": False,
        "loss__prior_adjusted": False,
        "fusion__gradient_to_encoders": False,
        "fusion__bilinear": False,
    },
    "in turn": {"federation__server_update": "in_turn", **NO_DROPOUT},
    "in turn, with momentum": {"federation__server_update": "in_turn", "federation__server_momentum": 0.6, **NO_DROPOUT},
    "moments of all clients carried on": {"optimizer__moments": "averaged", "federation__clients_per_round": 4, **NO_DROPOUT},
    "in turn, moments carried on": {"optimizer__moments": "averaged", "federation__server_update": "in_turn", **NO_DROPOUT},
    "personal task adapters, moments carried on": {
        "optimizer__moments": "averaged",
        "averaging__rules": '[{pattern="*.ta.*", over="nothing"}]',
        "federation__rounds": 4,
    },
    "personal classifiers and task adapters": {
        "averaging__rules": '[{pattern="*.classifier.*", over="nothing"}, {pattern="*.ta.*", over="nothing"}, '
        '{pattern="*.ma.update.*", over="modalities"}]',
    },
}


@pytest.mark.parametrize("which", RUNS)
def test_a_whole_run(float64, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    config = worlds.config(**{"federation__rounds": 3, "transfer__start": 3, **RUNS[which]})
    who, reference, ours = both(monkeypatch, config, worlds.federated(unlabelled=0.0))
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-9)
    start = {**initial_client_tensors(who.blueprint), **initial_server_tensors(who.blueprint)}
    assert who.shared.shortens == ({"text"} if config.compute.shorten else set())
    personal = {name for name in start if reference.over(name) == "nothing"}
    assert all(torch.equal(ours[name], start[name]) == (name in personal) for name in ours)


@pytest.mark.parametrize(("teacher", "start", "refresh"), [("fused", 1, 2), ("self", 2, 1)])
def test_a_run_with_unlabelled_samples(float64, monkeypatch: pytest.MonkeyPatch, teacher: str, start: int, refresh: int) -> None:
    """Transfer with a new teacher in round 3; a client without any label takes part by that alone.

    Three rounds, and no modality that teaches itself while its adapters still are at zero, when pupil and teacher are one: the first
    step of AdamW divides a gradient by its own size, and so rounding by rounding.
    """
    config = worlds.config(
        seed=4,  # a world in which no gradient is as small as that
        federation__rounds=3,
        federation__warm_start=True,
        warm_start__shrinkages="[0.7]",
        warm_start__scales="[0.1]",
        transfer__closed_form=False,
        transfer__start=start,
        transfer__refresh=refresh,
        transfer__teacher=teacher,
    )
    data = worlds.federated(unlabelled=0.5, seed=2)
    data.clients["bob"].train.labels[:] = -1
    _, reference, ours = both(monkeypatch, config, data)
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-9)
    assert set(reference.teachers) == {"ann", "bob", "cyd"}
    assert {window for window, _ in reference.teachers.values()} == {1}


@pytest.mark.parametrize("unlabelled", [0.0, 0.4])
def test_a_run_from_its_warm_start(float64, monkeypatch: pytest.MonkeyPatch, unlabelled: float) -> None:
    clients = {name: (owned, 3 * number) for name, (owned, number) in worlds.CLIENTS.items()}
    config = worlds.config(federation__rounds=2, transfer__start=2, federation__warm_start=True, warm_start__min_count=2)
    data = worlds.federated(clients, unlabelled=unlabelled)
    who, reference, ours = both(monkeypatch, config, data)
    assert torch.allclose(who.fed_server.state.log_prior, reference.log_prior, rtol=1e-12)
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-9)


# --- other tasks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_a_run_of_other_tasks(float64, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Two epochs of fusion, then transfer, without a warm start."""
    config = worlds.config(data__task=kind, federation__rounds=3, transfer__start=3, federation__local_epochs=2)
    _, reference, ours = both(monkeypatch, config, worlds.federated(kind=kind))
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-9)


@pytest.mark.parametrize("unlabelled", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_a_run_of_other_tasks_from_its_warm_start(float64, monkeypatch: pytest.MonkeyPatch, kind: str, unlabelled: float) -> None:
    """Classifiers by ridge regression of the pooled data, soft labels among it, and transfer with and without labels from round 2."""
    clients = {name: (owned, 3 * number) for name, (owned, number) in worlds.CLIENTS.items()}
    config = worlds.config(data__task=kind, federation__rounds=2, transfer__start=2, federation__warm_start=True)
    data = worlds.federated(clients, unlabelled=unlabelled, kind=kind)
    who, reference, ours = both(monkeypatch, config, data, RidgeRun)
    assert torch.allclose(who.fed_server.state.log_prior, reference.log_prior, rtol=1e-9)
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-8)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_a_run_whose_classes_count_alike(float64, monkeypatch: pytest.MonkeyPatch, balance: str) -> None:
    config = worlds.config(
        federation__rounds=2,
        transfer__start=2,
        federation__warm_start=True,
        loss__balance=balance,
        warm_start__shrinkages="[0.4]",
        warm_start__scales="[0.5]",
    )
    who, reference, ours = both(monkeypatch, config, worlds.federated())
    uniform = torch.full((4,), 0.25).log()
    assert torch.equal(who.fed_server.state.log_prior, uniform)
    worlds.assert_close(worlds.settled(ours), worlds.settled(reference.tensors), 1e-9)
