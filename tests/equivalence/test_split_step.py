"""One split step equals autograd on the unsplit network, for every trainable tensor; and one step of AdamW with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests import worlds
from tests.equivalence import unsplit
from tests.equivalence.unsplit_tasks import OneLabel, has_label
from torch import Tensor

from m2fedsa.assembly import Parties
from m2fedsa.blueprint import client_parts
from m2fedsa.client.batch import Branches
from m2fedsa.client.kept import KeptOutputs
from m2fedsa.client.local_round import LocalRound, finished
from m2fedsa.client.teacher import Teacher
from m2fedsa.config import Config
from m2fedsa.data.samples import InMemorySamples, Kind
from m2fedsa.losses import step_loss
from m2fedsa.messages import Phase, RoundPlan
from m2fedsa.seeding import derive

CLIENT = "bob"
SEED = 77
WEIGHTS = (0.6, 0.2, 0.3)
NO_LIMIT = 1e9
"""Clipping that changes nothing: what is left on the tensors after a step is the gradient itself."""


@dataclass(frozen=True)
class Stage:
    """Everyone in place, with perturbed tensors in force."""

    who: Parties
    tensors: Mapping[str, Tensor]
    log_prior: Tensor

    @property
    def config(self) -> Config:
        return self.who.blueprint.config


def stage(kind: Kind = "single_label", **settings: object) -> Stage:
    made = worlds.config(**{"optimizer__clip_norm": NO_LIMIT, "federation__local_steps": 1, "data__task": kind, **settings})
    who = worlds.parties(made, worlds.federated(kind=kind))
    client_side, server_side = worlds.unsettle(who)
    return Stage(who, {**client_side, **server_side}, who.fed_server.state.log_prior)


def batch_of(
    presence: list[list[int]],
    labels: list[int] | None = None,
    modalities: tuple[str, ...] = worlds.MODALITIES,
    kind: Kind = "single_label",
) -> InMemorySamples:
    """Samples of which some lack modalities or, with label -1, their label."""
    table, classes = worlds.columns(len(presence), seed=11)
    held = torch.tensor(presence, dtype=torch.bool)
    told = worlds.told(classes if labels is None else torch.tensor(labels), kind)
    return worlds.samples(table, told, torch.arange(len(presence)), modalities, held)


def split(at: Stage, samples: InMemorySamples, phase: Phase, teachers: Mapping[str, Tensor] | None, weights: tuple[float, float, float]):
    """One step of a client's round through the main server: gradients of both parties and their tensors after it."""
    blueprint, server = at.who.blueprint, at.who.coordination
    plan = RoundPlan(1, phase, SEED, {CLIENT: samples.modalities}, 0.01, weights, 1 if phase == "transfer" else None)
    parts = client_parts(blueprint, samples.modalities)
    parts.load(at.tensors)
    branches = Branches(samples, "train", at.who.shared.heads, KeptOutputs(), parts)
    teacher = None if teachers is None else Teacher.made(teachers, blueprint.task, samples, at.log_prior, blueprint.config.transfer)
    server.begin(plan)
    with server.session(CLIENT, 1) as session:
        finished(LocalRound(blueprint, CLIENT, branches, plan, at.who.fed_server.view(CLIENT), teacher, step_loss).steps(session))
        theirs = session.copies.parts.tensors
        gradients = {name: p.grad for name, p in theirs.items()}  # forgotten when the session closes
    server.abort(1)
    own = ("fusion", "fused", *samples.modalities)
    tensors = {name: p for name, p in {**parts.tensors, **theirs}.items() if name.split(".")[0] in own}
    untouched = {name: gradients[name] is None and torch.equal(p, at.tensors[name]) for name, p in theirs.items()}
    foreign = [name for name, same in untouched.items() if name not in tensors and not same]
    assert not foreign, f"modalities that the client does not hold were touched: {foreign}"
    found = {name: gradients.get(name, p.grad) for name, p in tensors.items() if p.requires_grad}
    return found, {name: p.detach() for name, p in tensors.items()}


def entering_of(at: Stage, samples: InMemorySamples, rows: Tensor, phase: Phase) -> list[set[str]]:
    """Modality dropout as the specification has it: each modality out with this probability, never all of a sample's."""
    held = samples.presence[rows]
    chance = at.config.fusion.modality_dropout
    if phase == "transfer" or chance == 0:
        return unsplit.Batch.complete(samples, rows).entering
    draws = torch.rand(held.shape, generator=derive(SEED, CLIENT, "modality dropout"))
    entering = []
    for has, drawn in zip(held.tolist(), draws.tolist(), strict=True):
        luck = {name: value for name, there, value in zip(samples.modalities, has, drawn, strict=True) if there}
        kept = {name for name, value in luck.items() if value >= chance}
        entering.append(kept or {max(luck, key=luck.__getitem__)})
    return entering


def whole(at: Stage, samples: InMemorySamples, phase: Phase, teachers: Mapping[str, Tensor] | None, weights: tuple[float, float, float]):
    """The same by autograd on the unsplit network."""
    taking_part = [
        row
        for row, known in enumerate(has_label(samples.labels).tolist())
        if known or (phase == "transfer" and samples.presence[row].sum() > 1)
    ]
    order = torch.randperm(len(taking_part), generator=derive(SEED, CLIENT, "batches"))
    rows = torch.tensor(taking_part)[order][: at.config.federation.batch_size]
    network = unsplit.Network(at.config, worlds.encoders(), at.log_prior, at.who.fed_server.state.weights)
    spread = None
    if teachers is not None:
        spread = {name: teachers.get(name, teachers.get("fused")) for name in samples.modalities}
    objective = unsplit.Objective(network, phase, weights, spread, teachers is not None and "fused" not in teachers)
    leaves = unsplit.leaves_of(at.tensors, phase, samples.modalities)
    batch = unsplit.Batch(samples, rows, entering_of(at, samples, rows, phase))
    found = unsplit.gradients(leaves, network, objective, batch, unsplit.Masks(SEED, CLIENT))
    raw = {name: None if gradient is None else gradient.clone() for name, gradient in found.items()}
    unsplit.step(leaves, found, unsplit.optimizers(leaves, at.config, 0.01), at.config)
    return raw, {name: tensor.detach() for name, tensor in leaves.items()}


def check(at: Stage, samples: InMemorySamples, phase: Phase, teachers: Mapping[str, Tensor] | None = None, weights=WEIGHTS, tolerance=1e-9):
    ours, theirs = split(at, samples, phase, teachers, weights), whole(at, samples, phase, teachers, weights)
    limit = at.config.optimizer.clip_norm
    if limit >= NO_LIMIT:  # or what is left on the tensors was clipped
        worlds.assert_close(ours[0], theirs[0], tolerance)
    else:
        for side in (True, False):
            norms = [g.square().sum() for name, g in theirs[0].items() if g is not None and unsplit.of_client(name) == side]
            assert float(torch.stack(norms).sum().sqrt()) > 2 * limit
    if tolerance <= 1e-9:  # the first step of AdamW is a sign: where a gradient is rounding alone, in single precision so is the step
        worlds.assert_close(worlds.settled(ours[1]), worlds.settled(theirs[1]), tolerance)
    return ours, theirs


def teachers_for(samples: InMemorySamples, *names: str) -> dict[str, Tensor]:
    """Fixed logits for the unlabelled samples of several modalities."""
    taught = ~has_label(samples.labels) & (samples.presence.sum(1) > 1)
    made = {}
    for name in names:
        width = len(worlds.CLASSES) if samples.labels.ndim == 1 else samples.labels.shape[1]
        drawn = 2 * torch.randn(len(taught), width, generator=derive(4, name), dtype=torch.float32)
        made[name] = drawn.to(torch.get_default_dtype()).masked_fill(~taught[:, None], float("nan"))
    return made


# --- the cases ----------------------------------------------------------------------------------------------------------------------

FULL = [[1, 1, 1]] * 3
RAGGED = [[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]
PAIRED = [[1, 1], [1, 0], [0, 1], [1, 1]]
HALF_LABELLED = [0, -1, 1, -1, 2, 3]
"""Rows 1 and 3 of `RAGGED`, which have two modalities, are taught."""

SAMPLES = {
    "three modalities": (FULL,),
    "three modalities, samples that lack some": (RAGGED,),
    "two modalities": ([[1, 1]] * 3, None, ("audio", "text")),
    "two modalities, samples that lack one": (PAIRED, None, ("image", "text")),
    "one modality: image": ([[1]] * 3, None, ("image",)),
    "one modality: audio": ([[1]] * 3, None, ("audio",)),
    "one modality: text": ([[1]] * 3, None, ("text",)),
    "a modality held that no sample has": ([[1, 0, 1], [1, 0, 1], [1, 0, 0]],),
    "no sample of several modalities": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]],),
    "batch of one with all": ([[1, 1, 1]],),
    "batch of one with two": ([[0, 1, 1]],),
    "batch of one with one": ([[0, 1, 0]],),
}
SETTINGS = {
    "as it comes": {},
    "dropout everywhere": {"loss__classifier_dropout": 0.3, **{f"modalities__{name}__adapter_dropout": 0.4 for name in worlds.MODALITIES}},
    "no dropout": {f"modalities__{name}__adapter_dropout": 0.0 for name in worlds.MODALITIES},
    "the paper's logits": {"fusion__late": False},
    "fusion keeps its gradient": {"fusion__gradient_to_encoders": False},
    "plain cross-entropy": {"loss__prior_adjusted": False},
    "no bilinear part": {"fusion__bilinear": False},
    "no feed-forward part": {"fusion__feed_forward": 0},
    "attention alone": {"fusion__feed_forward": 0, "fusion__bilinear": False, "fusion__late": False},
    "no block at all": {"fusion__blocks": 0},
    "two blocks of one head": {"fusion__blocks": 2, "fusion__heads": 1},
    "other cuts": {"modalities__image__block": 2, "modalities__audio__block": 1, "modalities__text__block": 2},
    "no adapters on images": {"modalities__image__modality_adapter": False, "modalities__image__task_adapter": False},
    "no adapters at all": {f"modalities__{name}__{kind}_adapter": False for name in worlds.MODALITIES for kind in ("modality", "task")},
    "a head that is everything": {"modalities__text__block": worlds.DEPTH, "modalities__text__task_adapter": False},
    "clipped": {"optimizer__clip_norm": 0.02},
}


@pytest.fixture(scope="module")
def stages():
    """Stages by settings and precision: setting one up costs more than a step."""
    made: dict[object, Stage] = {}

    def get(**settings: object) -> Stage:
        key = (torch.get_default_dtype(), *sorted(settings.items()))
        if key not in made:
            made[key] = stage(federation__batch_size=6, **settings)
        return made[key]

    return get


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("which", SAMPLES)
def test_a_step_equals_autograd_on_the_unsplit_network(float64, stages, which: str, phase: Phase) -> None:
    check(stages(), batch_of(*SAMPLES[which]), phase)


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("which", SETTINGS)
def test_under_every_setting(float64, stages, which: str, phase: Phase) -> None:
    check(stages(**SETTINGS[which]), batch_of(RAGGED), phase)


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("which", SAMPLES)
def test_a_step_in_single_precision(stages, which: str, phase: Phase) -> None:
    check(stages(), batch_of(*SAMPLES[which]), phase, tolerance=1e-5)


@pytest.mark.parametrize("chance", [0.3, 0.9])
@pytest.mark.parametrize("bilinear", [True, False])
def test_modality_dropout_trains_fusion_on_subsets(float64, stages, chance: float, bilinear: bool) -> None:
    at = stages(fusion__modality_dropout=chance, fusion__bilinear=bilinear)
    samples = batch_of(RAGGED)
    entering = entering_of(at, samples, torch.arange(6), "fusion")
    assert [len(names) for names in entering] != [sum(row) for row in RAGGED]
    check(at, samples, "fusion")


# --- transfer -----------------------------------------------------------------------------------------------------------------------

TAUGHT = {
    "half of them labelled": (RAGGED, HALF_LABELLED),
    "none labelled": (FULL, [-1, -1, -1]),
    "one alone": ([[1, 0, 1]], [-1]),
    "labels on single modalities, none on pairs": (RAGGED, [-1, -1, 1, -1, 2, 3]),
    "labels on the complete ones alone": (RAGGED, [0, -1, -1, -1, -1, -1]),
}


@pytest.mark.parametrize("teachers", [("fused",), worlds.MODALITIES], ids=["fused", "self"])
@pytest.mark.parametrize("which", TAUGHT)
def test_unlabelled_samples_learn_from_fixed_teachers(float64, stages, which: str, teachers: tuple[str, ...]) -> None:
    samples = batch_of(*TAUGHT[which])
    check(stages(), samples, "transfer", teachers_for(samples, *teachers))


@pytest.mark.parametrize(
    "settings",
    [
        {"fusion__late": False},
        {"loss__prior_adjusted": False},
        {"fusion__bilinear": False},
        {"transfer__temperature": 2.0},
        {"transfer__temperature": 0.5, "transfer__confidence": 1.5},
    ],
)
def test_transfer_under_other_settings(float64, stages, settings: dict[str, object]) -> None:
    samples = batch_of(*TAUGHT["half of them labelled"])
    check(stages(**settings), samples, "transfer", teachers_for(samples, "fused"))


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.3, 5.0, 2.0)])
def test_every_term_of_the_transfer_loss_by_itself(float64, stages, weights: tuple[float, float, float]) -> None:
    samples = batch_of(RAGGED)
    check(stages(), samples, "transfer", weights=weights)


@pytest.mark.parametrize("form", ["floored", "paper"])
def test_the_decision_term_is_divided_by_the_loss_only_above_one(float64, form: str) -> None:
    """Classifiers that lean to class 1, with labels that agree and labels that do not: both sides of the floor, if any."""
    at = stage(federation__batch_size=6, loss__prior_adjusted=False, transfer__form=form, **SETTINGS["no dropout"])
    lean = torch.tensor([0.0, 6.0, 0.0, 0.0])
    at = Stage(
        at.who, {name: value + lean if name.endswith("classifier.bias") else value for name, value in at.tensors.items()}, at.log_prior
    )
    network = unsplit.Network(at.config, worlds.encoders(), at.log_prior)
    for label, well_fitted in ((1, True), (0, False)):
        samples = batch_of(FULL, [label] * 3)
        out = network.forward(at.tensors, unsplit.Batch.complete(samples, torch.arange(3)), unsplit.Masks())
        ce_s = unsplit.mean([unsplit.cross_entropy(one, label) for one in out.fused])
        for name in worlds.MODALITIES:
            ce_m = unsplit.mean([unsplit.cross_entropy(one[name], label) for one in out.logits])
            assert (float(ce_m + ce_s) < 1) == well_fitted
        check(at, samples, "transfer", weights=(0.5, 0.5, 0.0))


@pytest.mark.parametrize("which", ["all labelled", "half of them labelled"])
@pytest.mark.parametrize("phase", ["fusion", "transfer"])
def test_the_losses_that_a_round_reports(float64, stages, phase: Phase, which: str) -> None:
    """Sums of plain cross-entropies under the adjusted prior, and of how many samples: labelled ones alone, in either phase."""
    at = stages(**SETTINGS["no dropout"])
    samples = batch_of(RAGGED, None if which == "all labelled" else HALF_LABELLED)
    plan = RoundPlan(1, phase, SEED, {CLIENT: samples.modalities}, 0.01, WEIGHTS)
    parts = client_parts(at.who.blueprint, samples.modalities)
    parts.load(at.tensors)
    branches = Branches(samples, "train", at.who.shared.heads, KeptOutputs(), parts)
    at.who.coordination.begin(plan)
    with at.who.coordination.session(CLIENT, 1) as session:
        losses = finished(
            LocalRound(at.who.blueprint, CLIENT, branches, plan, at.who.fed_server.view(CLIENT), None, step_loss).steps(session)
        ).losses
    network = unsplit.Network(at.config, worlds.encoders(), at.log_prior)
    out = network.forward(at.tensors, unsplit.Batch.complete(samples, torch.arange(6)), unsplit.Masks())
    labels = samples.labels.tolist()
    shift = OneLabel.own(labels, at.log_prior, torch.ones(4)).log() - at.log_prior
    expected: dict[str, list[Tensor]] = {}
    for row, label in enumerate(labels):
        if label < 0:
            continue
        names = ["fused", "fused_multimodal"] if sum(RAGGED[row]) > 1 else ["fused"]
        for name in (*names, *out.logits[row]):
            logits = out.logits[row][name] if name in out.logits[row] else out.fused[row]
            expected.setdefault(name, []).append(unsplit.cross_entropy(logits + shift, label).detach())
    assert {name: number for name, (_, number) in losses.items()} == {name: len(values) for name, values in expected.items()}
    for name, values in expected.items():
        assert losses[name][0] == pytest.approx(float(sum(values)), rel=1e-9), name


# --- other tasks --------------------------------------------------------------------------------------------------------------------

KINDS: tuple[Kind, ...] = ("multi_label", "regression")
OTHERWISE = {
    "as it comes": {},
    "the paper's logits": {"fusion__late": False},
    "plain losses": {"loss__prior_adjusted": False},
    "modality dropout": {"fusion__modality_dropout": 0.4},
}


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("which", OTHERWISE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_other_tasks(float64, stages, kind: Kind, which: str, phase: Phase) -> None:
    check(stages(kind=kind, **OTHERWISE[which]), batch_of(RAGGED, kind=kind), phase)


@pytest.mark.parametrize("teachers", [("fused",), worlds.MODALITIES], ids=["fused", "self"])
@pytest.mark.parametrize("which", ["half of them labelled", "none labelled"])
@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_samples_of_other_tasks(float64, stages, kind: Kind, which: str, teachers: tuple[str, ...]) -> None:
    samples = batch_of(*TAUGHT[which], kind=kind)
    check(stages(kind=kind), samples, "transfer", teachers_for(samples, *teachers))
    if kind == "multi_label":
        check(stages(kind=kind, transfer__temperature=2.0, transfer__confidence=1.5), samples, "transfer", teachers_for(samples, *teachers))


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_classes_that_count_alike(float64, kind: Kind, phase: Phase) -> None:
    """By weights: the rarer a class, the more a sample of it counts; and the client's own frequencies with them."""
    at = stage(kind, federation__batch_size=6, federation__warm_start=True, loss__balance="weights")
    state = at.who.fed_server.state
    at.who.fed_server.restore(replace(state, weights=torch.tensor([0.5, 3.0, 1.0, 2.0])))
    check(at, batch_of(RAGGED, HALF_LABELLED, kind=kind), phase)


# --- that the cases prove something -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["fusion", "transfer"])
def test_with_all_modalities_every_trainable_tensor_has_a_gradient(float64, stages, phase: Phase) -> None:
    at = stages()
    (raw, after), _ = check(at, batch_of(FULL), phase)
    frozen = {name for name in at.tensors if unsplit.frozen_in(phase, name)}
    assert set(raw) == set(at.tensors) - frozen
    assert bool(frozen) == (phase == "transfer")
    for name, gradient in raw.items():
        assert gradient is not None, name
        assert float(gradient.abs().max()) > 0, name
        assert not torch.equal(after[name], at.tensors[name]), name
    for name in frozen:
        assert torch.equal(after[name], at.tensors[name]), name


def test_who_is_absent_gets_no_gradient_and_does_not_move(float64, stages) -> None:
    at = stages()
    assert at.config.optimizer.weight_decay > 0
    (raw, after), _ = check(at, batch_of([[0, 1, 0], [0, 1, 0]]), "fusion")
    silent = {name for name, gradient in raw.items() if gradient is None}
    several = {name for name in raw if ".bilinear." in name or name.startswith("fusion.bilinear")}
    assert silent == several | {name for name in raw if name.startswith(("image.", "text."))}
    assert all(torch.equal(after[name], at.tensors[name]) for name in silent)


PRESENCE = st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=6)


@given(PRESENCE, st.data())
@hypothesis_settings(max_examples=30)
def test_any_mixture_of_presence_and_labels(stages, presence: list[list[bool]], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(-1, 3), min_size=len(presence), max_size=len(presence)), label="labels")
    phase = data.draw(st.sampled_from(["fusion", "transfer"]), label="phase")
    if not any(label >= 0 or (phase == "transfer" and sum(row) > 1) for label, row in zip(labels, presence, strict=True)):
        labels[0] = 1
    with worlds.doubles():
        samples = batch_of(presence, labels)
        taught = phase == "transfer" and any(label < 0 and sum(row) > 1 for label, row in zip(labels, presence, strict=True))
        check(stages(), samples, phase, teachers_for(samples, "fused") if taught else None)
