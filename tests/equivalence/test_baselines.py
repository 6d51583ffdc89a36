"""Each baseline on a case whose answer is known: by plain PyTorch on the whole encoder, by hand, or because two methods are one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from tests import worlds
from torch import Tensor, nn

from m2fedsa import running
from m2fedsa.assembly import Parties, assemble
from m2fedsa.averaging import Averager, Contribution
from m2fedsa.baselines.methods import ABLATIONS, METHODS
from m2fedsa.config import Averaging, Config
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.models.cut import whole
from m2fedsa.optimizers import attract
from m2fedsa.result import Result
from m2fedsa.seeding import derive, derive_seed

FREE = {"optimizer__clip_norm": 1e9, **{f"modalities__{name}__adapter_dropout": 0.0 for name in worlds.MODALITIES}}
"""Nothing couples what is computed in different places: no norm over several tensors, no dropout."""
PICTURES: Mapping[str, tuple[tuple[str, ...], int]] = {"ann": (("image",), 9), "bob": (("image",), 10)}


def config(modalities: Sequence[str] = worlds.MODALITIES, **settings: object) -> Config:
    free = {name: value for name, value in FREE.items() if not name.startswith("modalities__") or name.split("__")[1] in modalities}
    return worlds.config(modalities, **{**free, **settings})


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Config, FederatedData], tuple[dict[str, Tensor], Result, Parties]]:
    """A whole run: all tensors that it ends with, its result, its parties."""

    def run(settings: Config, data: FederatedData) -> tuple[dict[str, Tensor], Result, Parties]:
        kept: list[Parties] = []

        def keeping(*arguments: object) -> Parties:
            kept.append(assemble(*arguments))
            return kept[-1]

        monkeypatch.setattr(running, "assemble", keeping)
        result = running.run(settings, data=data, encoders=worlds.encoders(data.modalities))
        return {**kept[0].fed_server.state.tensors, **worlds.server_tensors(kept[0])}, result, kept[0]

    return run


# --- FedPEFT: the split computes what the unsplit does, and costs other bytes ----------------------------------------------------------


def test_fedpeft_is_the_method_without_its_own_parts_at_other_costs(play) -> None:
    base, data = worlds.config(federation__rounds=2), worlds.federated()
    ours, split, _ = play(base.override(['averaging.rules=[{pattern="*", over="clients"}]']), data)
    theirs, unsplit, who = play(METHODS["fedpeft"].of(base), data)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert unsplit.digest == split.digest
    for here, there in zip(split.history, unsplit.history, strict=True):
        assert here["bytes"]["up"] > 0
        assert there["bytes"] == {"up": 0, "down": 0}
        assert here["visits"] == there["visits"] == {name: _visits(data, name) for name in worlds.MODALITIES}
    # Down: every client its modalities' tensors, the fused classifier, fusion, and π.
    owned = {name: client.modalities for name, client in data.clients.items() if client.train is not None}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in theirs.items()}
    prior = 4 * len(worlds.CLASSES)
    down = sum(
        prior + sum(size for name, size in sizes.items() if name.split(".")[0] in (*own, "fused", "fusion")) for own in owned.values()
    )
    assert unsplit.history[0]["tensors"]["down"] == down
    assert split.history[0]["tensors"]["down"] == down - sum(
        size
        for own in owned.values()
        for name, size in sizes.items()
        if name in worlds.server_tensors(who) and name.split(".")[0] in (*own, "fusion")
    )
    here, there = split.ledger["image"], unsplit.ledger["image"]
    for way in ("forward", "backward"):
        assert there["client"]["flops"][way] == here["client"]["flops"][way] + here["server"]["flops"][way]
    assert there["client"]["frozen"]["parameters"] == sum(here[side]["frozen"]["parameters"] for side in ("client", "server"))


def _visits(data: FederatedData, modality: str) -> int:
    held = [client.train for client in data.clients.values() if client.train is not None and modality in client.modalities]
    return sum(int(samples.presence[:, samples.modalities.index(modality)].sum()) for samples in held)


# --- whole encoders: against plain PyTorch ------------------------------------------------------------------------------------------


class Plain:
    """An image encoder and a linear classifier, trained as anybody would."""

    def __init__(self) -> None:
        self.model = worlds.encoders(("image",))["image"].requires_grad_(True)
        self.classifier = nn.Linear(16, len(worlds.CLASSES))
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def tensors(self) -> dict[str, Tensor]:
        named = {f"encoder.{name}": value for name, value in self.model.named_parameters()}
        return named | {f"classifier.{name}": value for name, value in self.classifier.named_parameters()}

    def load(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(values[name])

    def optimizers(self, settings: Config, tail: torch.optim.Optimizer | None = None) -> list[torch.optim.Optimizer]:
        """One for the embeddings, the first block and the classifier; one for the rest, which may live longer."""
        own, decay = settings.optimizer, settings.optimizer.weight_decay
        client = [value for name, value in self.tensors().items() if _in_head(name)]
        server = [value for name, value in self.tensors().items() if name.startswith("encoder.") and not _in_head(name)]
        groups = [
            {"params": client, "lr": own.learning_rate},
            {"params": list(self.classifier.parameters()), "lr": own.learning_rate * settings.classifier_factor},
        ]
        return [torch.optim.AdamW(groups, weight_decay=decay), tail or torch.optim.AdamW(server, lr=own.learning_rate, weight_decay=decay)]

    def train(self, settings: Config, name: str, samples: InMemorySamples, number: int, steppers: Sequence[torch.optim.Optimizer]) -> None:
        """A client's part in a round: its batches in the run's order."""
        anchors = {key: value.detach().clone() for key, value in self.tensors().items()}
        order = torch.randperm(len(samples.labels), generator=derive(derive_seed(settings.seed, "round", number), name, "batches"))
        for rows in torch.split(order, settings.federation.batch_size):
            logits = self.classifier(whole(self.model, samples.inputs("image", rows)))
            loss = nn.functional.cross_entropy(logits, samples.labels[rows])
            pull = sum(((value - anchors[key]) ** 2).sum() for key, value in self.tensors().items())
            for stepper in steppers:
                stepper.zero_grad()
            (loss + settings.federation.proximal / 2 * pull).backward()
            for stepper in steppers:
                stepper.step()


def _in_head(name: str) -> bool:
    return "embeddings" in name or name.startswith(("encoder.layers.0.", "encoder.encoder.layer.0."))


def averaged(parts: Sequence[tuple[Mapping[str, Tensor], int]]) -> dict[str, Tensor]:
    total = sum(number for _, number in parts)
    return {name: sum(values[name].detach() * (number / total) for values, number in parts) for name in parts[0][0]}


def of_run(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A run's tensors under the names of `Plain`."""
    named = {f"encoder.{name.split('.', 2)[2]}": value for name, value in tensors.items() if name.split(".")[1] in ("head", "tail")}
    return named | {name.removeprefix("image."): value for name, value in tensors.items() if name.startswith("image.classifier.")}


ONE_MODALITY = {"loss__prior_adjusted": False, "fusion__learned": False, "federation__rounds": 2}
"""The fused loss aside, the network is an encoder with its classifier."""


@pytest.mark.parametrize("proximal", [0.0, 0.7])
def test_fedavg_is_plain_training_of_the_whole_encoder_and_a_mean(float64, play, proximal: float) -> None:
    base, data = config(("image",), **ONE_MODALITY), worlds.federated(PICTURES, modalities=("image",))
    settings = METHODS["fedavg"].of(base).override([f"federation.proximal={proximal}"])
    found, _, _ = play(settings, data)
    plain = Plain()
    for number in (1, 2):
        start = {name: value.detach().clone() for name, value in plain.tensors().items()}
        parts = []
        for name in ("bob", "ann"):
            plain.load(start)
            samples = data.clients[name].train
            plain.train(settings, name, samples, number, plain.optimizers(settings))
            parts.append(({key: value.detach().clone() for key, value in plain.tensors().items()}, len(samples.labels)))
        plain.load(averaged(parts))
    worlds.assert_close(of_run(found), {name: value.detach() for name, value in plain.tensors().items()}, 1e-9)
    assert not torch.equal(found["image.head.embeddings.cls_token"], worlds.encoders(("image",))["image"].embeddings.cls_token)


def test_splitfed_v1_is_fedavg(play) -> None:
    base, data = worlds.config(federation__rounds=2), worlds.federated()
    ours, _, _ = play(METHODS["fedavg"].of(base), data)
    theirs, result, _ = play(METHODS["splitfed_v1"].of(base), data)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert result.history[0]["bytes"]["up"] > 0
    assert "head" not in result.ledger["image"]["client"]["flops"]  # it is computed in every step
    assert result.ledger["image"]["client"]["frozen"]["parameters"] == 0


def test_split_learning_passes_the_weights_on(float64, play) -> None:
    """ann, then bob: the client's side goes from one to the other under a fresh optimiser, the server's side keeps its own."""
    base, data = config(("image",), **{**ONE_MODALITY, "federation__rounds": 1}), worlds.federated(PICTURES, modalities=("image",))
    settings = METHODS["split_learning"].of(base)
    found, _, _ = play(settings, data)
    plain = Plain()
    tail: torch.optim.Optimizer | None = None
    for name in ("ann", "bob"):
        head, tail = plain.optimizers(settings, tail)
        plain.train(settings, name, data.clients[name].train, 1, (head, tail))
    worlds.assert_close(of_run(found), {name: value.detach() for name, value in plain.tensors().items()}, 1e-9)


def test_splitfed_v2_averages_the_clients_sides_of_a_relay_over_one_server_side(float64, play) -> None:
    base, data = config(("image",), **{**ONE_MODALITY, "federation__rounds": 1}), worlds.federated(PICTURES, modalities=("image",))
    settings = METHODS["splitfed_v2"].of(base)
    found, _, _ = play(settings, data)
    plain = Plain()
    start = {name: value.detach().clone() for name, value in plain.tensors().items()}
    tail: torch.optim.Optimizer | None = None
    parts = []
    for name in ("ann", "bob"):
        plain.load({key: start[key] if _in_head(key) or key.startswith("classifier.") else value for key, value in plain.tensors().items()})
        head, tail = plain.optimizers(settings, tail)
        samples = data.clients[name].train
        plain.train(settings, name, samples, 1, (head, tail))
        parts.append(({key: value.detach().clone() for key, value in plain.tensors().items()}, len(samples.labels)))
    mean = averaged(parts)
    last = {key: mean[key] if _in_head(key) or key.startswith("classifier.") else value for key, value in parts[-1][0].items()}
    worlds.assert_close(of_run(found), last, 1e-9)


# --- synchronous steps --------------------------------------------------------------------------------------------------------------


def test_synchronous_steps_are_those_of_one_great_batch(float64, play) -> None:
    """Two clients of four samples each, and one client with all eight: the main server makes the same step."""
    table, labels = worlds.columns(8)
    every = worlds.samples(table, labels, torch.arange(8))
    halves = {name: worlds.samples(table, labels[rows], rows) for name, rows in (("ann", torch.arange(4)), ("bob", torch.arange(4, 8)))}
    test = worlds.federated().clients["tst"]

    def data(clients: Mapping[str, InMemorySamples]) -> FederatedData:
        held = {name: ClientData(worlds.MODALITIES, train=samples) for name, samples in clients.items()}
        return FederatedData(worlds.CLASSES, worlds.MODALITIES, {**held, "tst": test})

    def stepped(clients: Mapping[str, InMemorySamples], *settings: str) -> dict[str, Tensor]:
        who = worlds.parties(config(loss__prior_adjusted=False).override(settings), data(clients))
        worlds.unsettle(who)
        plan, tasks = who.fed_server.begin_round()
        worlds.play(who, tasks, plan)
        return worlds.settled(worlds.server_tensors(who))

    great = stepped({"all": every}, "federation.batch_size=8")
    worlds.assert_close(stepped(halves, "federation.batch_size=4", "federation.server_update=synchronous"), great, 1e-7)
    apart = stepped(halves, "federation.batch_size=4")
    assert not torch.allclose(apart["image.ta.up.weight"], great["image.ta.up.weight"], rtol=1e-3)


def test_clients_side_by_side_need_not_have_equally_many_steps() -> None:
    """And one that fails leaves the round to the others."""
    who = worlds.parties(worlds.config(federation__server_update="synchronous", federation__batch_size=3), worlds.federated())
    plan, tasks = who.fed_server.begin_round()
    poisoned = [
        replace(task, view=replace(task.view, tensors={name: value * torch.nan for name, value in task.view.tensors.items()}))
        if task.client == "cyd"
        else task
        for task in tasks
    ]
    results, _ = worlds.play(who, poisoned, plan)
    assert {result.client: result.steps for result in results} == {"ann": 3, "bob": 4, "dee": 2, "eve": 2}
    assert all(bool(tensor.isfinite().all()) for tensor in worlds.server_tensors(who).values())


# --- server optimisers, the pull of FedProx -------------------------------------------------------------------------------------------


def test_fedadam_by_hand() -> None:
    """Two rounds of one number: Δ = 2, then -1, with β = (.9, .99), τ = 1e-3, v₀ = τ²."""
    averager = Averager(Averaging(), ("image",), adam=0.5)
    value, moments = {"fusion.x": torch.tensor([1.0], dtype=torch.float64)}, {}
    m, v, x = 0.0, 1e-6, 1.0
    for target in (lambda at: at + 2, lambda at: at - 1):
        said = Contribution("ann", {"fusion.x": target(value["fusion.x"])}, {"fusion.": 3})
        delta = float(target(x) - x)
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        x += 0.5 * m / (v**0.5 + 1e-3)
        value, moments = averager.apply(value, [said], moments)
        assert float(value["fusion.x"]) == pytest.approx(x, rel=1e-12)


def test_the_pull_is_the_gradient_of_half_the_squared_distance() -> None:
    g = torch.Generator().manual_seed(0)
    w, anchor, c = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(3))
    ours, theirs = w.clone().requires_grad_(), w.clone().requires_grad_()
    (ours * c).sum().backward()
    attract({"w": ours}, {"w": anchor}, 0.3)
    ((theirs * c).sum() + 0.15 * ((theirs - anchor) ** 2).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


# --- modalities apart -----------------------------------------------------------------------------------------------------------------


def test_late_fusion_is_a_federation_of_each_modality_and_their_sum(float64, play) -> None:
    settings = METHODS["late_fusion"].of(config(federation__rounds=2))
    clients = {"ann": (worlds.MODALITIES, 9), "dee": (("audio",), 6), "eve": (("text",), 5)}
    data = worlds.federated(clients)
    together, _, _ = play(settings, data)
    assert not bool(together["fused.classifier.weight"].any())
    for name in worlds.MODALITIES:
        only = {who: _restricted(client, name) for who, client in data.clients.items() if name in client.modalities}
        alone, _, _ = play(
            METHODS["late_fusion"].of(config((name,), federation__rounds=2)), replace(data, modalities=(name,), clients=only)
        )
        own = [key for key in alone if key.startswith((f"{name}.ma", f"{name}.ta", f"{name}.classifier"))]
        worlds.assert_close({key: together[key] for key in own}, {key: alone[key] for key in own}, 1e-9)


def _restricted(client: ClientData, modality: str) -> ClientData:
    def of(samples: InMemorySamples | None) -> InMemorySamples | None:
        if samples is None:
            return None
        column = samples.modalities.index(modality)
        return replace(
            samples, columns={modality: samples.columns[modality]}, presence=samples.presence[:, [column]], modalities=(modality,)
        )

    return ClientData((modality,), of(client.train), of(client.validation), of(client.test))


# --- samples held by others -----------------------------------------------------------------------------------------------------------


def test_local_is_a_federation_of_each_client_alone(play) -> None:
    base, data = worlds.config(federation__rounds=2), worlds.federated()
    _, result, who = play(METHODS["local"].of(base), data)
    assert result.history[0]["tensors"]["up"] == 0
    for name, client in data.clients.items():
        if client.train is None:
            continue
        alone = replace(data, clients={name: client, "tst": data.clients["tst"], "val": data.clients["val"]})
        averaged_over_one, _, _ = play(METHODS["fedpeft"].of(base), alone)
        kept = {**who.federation._clients[name].local, **who.coordination._in_force.local[name]}
        for key, value in kept.items():
            torch.testing.assert_close(value, averaged_over_one[key], rtol=0, atol=0)
        assert {key.split(".")[0] for key in kept} == {*client.modalities, "fused", "fusion"}
    # Twelve test samples and eight for validation, each looked at by one client that has a modality of them: all have.
    assert result.metrics["fused"]["samples"] == 12
    assert result.validation["fused"]["samples"] == 8


def test_centralised_is_one_client_with_everybodys_samples(play) -> None:
    base, data = worlds.config(federation__rounds=2), worlds.federated()
    _, result, who = play(METHODS["centralised"].of(base), data)
    (central,) = [client for client in who.data.clients.values() if client.train is not None]
    place = 0
    for name in worlds.CLIENTS:
        samples = data.clients[name].train
        for row in range(len(samples.labels)):
            assert central.train.labels[place] == samples.labels[row]
            for modality in worlds.MODALITIES:
                present = modality in samples.modalities and bool(samples.presence[row, samples.modalities.index(modality)])
                assert bool(central.train.presence[place, worlds.MODALITIES.index(modality)]) == present
                if present:
                    ours, theirs = (one.inputs(modality, torch.tensor([at])) for one, at in ((central.train, place), (samples, row)))
                    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
            place += 1
    assert place == len(central.train.labels) == sum(number for _, number in worlds.CLIENTS.values())
    assert result.history[0]["visits"] == {name: _visits(data, name) for name in worlds.MODALITIES}


def test_zero_filled_is_what_lacks_filled_with_zeros(play) -> None:
    """Against samples that were filled by hand before the run."""
    base, data = worlds.config(federation__rounds=1), worlds.federated()
    ours, result, who = play(METHODS["zero_filled"].of(base), data)
    assert result.history[0]["visits"] == dict.fromkeys(worlds.MODALITIES, sum(number for _, number in worlds.CLIENTS.values()))
    by_hand = {}
    for name, client in data.clients.items():
        if client.train is None:
            by_hand[name] = client
            continue
        filled: dict[str, dict[str, Tensor]] = {}
        for modality in worlds.MODALITIES:
            samples = client.train
            table = {key: value[samples.indices].clone() for key, value in _table(data)[modality].items()}
            present = torch.zeros(len(samples.labels), dtype=torch.bool)
            if modality in samples.modalities:
                present = samples.presence[:, samples.modalities.index(modality)]
            for key, value in table.items():
                value[~present] = 0
                if key == "attention_mask":
                    value[~present, 0] = 1
            filled[modality] = table
        by_hand[name] = ClientData(worlds.MODALITIES, train=InMemorySamples.whole(filled, client.train.labels))
    theirs, _, _ = play(METHODS["fedpeft"].of(base), replace(data, clients=by_hand))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert who.data.clients["tst"] is data.clients["tst"]


def _table(data: FederatedData) -> Mapping[str, Mapping[str, Tensor]]:
    return data.clients["tst"].test.columns


def test_the_closed_form_is_the_warm_start(play) -> None:
    base, data = worlds.config(), worlds.federated(unlabelled=0.3)
    _, result, _ = play(METHODS["closed_form"].of(base), data)
    assert result.history == ()
    assert result.metrics == result.closed_form


def test_mpsl_has_no_adapter_on_the_client_and_one_server_side(play) -> None:
    found, result, _ = play(METHODS["mpsl"].of(worlds.config(federation__rounds=1)), worlds.federated())
    assert {name.split(".")[1] for name in found if name.split(".")[0] in worlds.MODALITIES} == {"classifier", "ta", "token", "bilinear"}
    assert result.history[0]["bytes"]["up"] > 0


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "whole_ta"])
def test_every_ablation_is_reached_by_settings_and_runs(play, name: str) -> None:
    base = worlds.config(federation__rounds=1, federation__warm_start=True, transfer__start=2)
    data = worlds.federated({"ann": (worlds.MODALITIES, 9), "eve": (("text",), 5)}, unlabelled=0.3)
    settings = ABLATIONS[name].of(base)
    assert settings != base
    _, result, _ = play(settings, data)
    assert result.rounds == settings.federation.rounds == (0 if name == "no_rounds" else 1)
