"""What every link, every federation and every coordination must do.

One suite, run over each way of putting the parties together. A network joins by one more entry in `DEPLOYMENTS`: a function that sets
up all parties, its own kind of ports between them, and takes them down again. No test here looks behind a port.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests import worlds
from tests.conformance import over_flower, over_grpc
from torch import Tensor

from m2fedsa.config import Config
from m2fedsa.coordination.port import Coordination
from m2fedsa.data.samples import UNLABELLED, FederatedData
from m2fedsa.deploy.keepsake import Keepsake
from m2fedsa.errors import DivergedError, ProtocolError, RefusedError, RunDirectoryError, UnfinishedError
from m2fedsa.fed_server import FedServer
from m2fedsa.federation.port import Federation
from m2fedsa.identity import Token
from m2fedsa.links.port import Link, Session
from m2fedsa.messages import (
    ALL,
    Acceptance,
    Activation,
    ActivationGradients,
    Activations,
    EvaluateResult,
    EvaluationRequest,
    Failure,
    Features,
    Gradients,
    InputSpec,
    KeepTask,
    RoundPlan,
    SumsResult,
    SumsTask,
    TrainResult,
)


@dataclass(frozen=True)
class Deployment:
    """A federation in place, as the fed server and a client see it."""

    fed_server: FedServer
    link: Link
    federation: Federation
    coordination: Coordination


Deploy = Callable[[Config, FederatedData, Path], AbstractContextManager[Deployment]]


@contextmanager
def in_process(config: Config, data: FederatedData, folder: Path) -> Iterator[Deployment]:
    """Everyone in this process; checkpoints in a folder."""
    who = worlds.parties(config, data)
    who.keep_in(folder)
    yield Deployment(who.fed_server, who.coordination, who.federation, who.coordination)


@contextmanager
def grpc(config: Config, data: FederatedData, folder: Path) -> Iterator[Deployment]:
    """Clients and fed server reach the main server through gRPC and mTLS, each with its own key."""
    with over_grpc.served(config, data, folder) as (who, links, coordination):
        yield Deployment(who.fed_server, links, over_grpc.federation(who, links), coordination)


@contextmanager
def flower(config: Config, data: FederatedData, folder: Path) -> Iterator[Deployment]:
    """The same, and the fed server reaches resident clients through Flower's messages and ClientApps."""
    with over_grpc.served(config, data, folder) as (who, links, coordination), over_flower.federation(who, links, folder) as federation:
        yield Deployment(who.fed_server, links, federation, coordination)


DEPLOYMENTS: Mapping[str, Deploy] = {"in process": in_process, "gRPC": grpc, "Flower": flower}


@pytest.fixture(params=DEPLOYMENTS)
def deploy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Sets up a deployment; several in one test keep their checkpoints apart, unless they share a `folder`."""
    opened: list[AbstractContextManager[Deployment]] = []

    def make(folder: str | None = None, data: FederatedData | None = None, **settings: object) -> Deployment:
        given = worlds.federated(unlabelled=0.3) if data is None else data
        opened.append(DEPLOYMENTS[request.param](worlds.config(**settings), given, tmp_path / (folder or str(len(opened)))))
        return opened[-1].__enter__()

    yield make
    for one in reversed(opened):
        one.__exit__(None, None, None)


# --- what is said -------------------------------------------------------------------------------------------------------------------

ROSTER = {"ann": worlds.MODALITIES, "cyd": ("image", "text"), "eve": ("text",)}
SHAPES = {"image": (5, 16), "audio": (8, 12), "text": (worlds.TEXT_LENGTH, 20)}


def plan(number: int = 1, phase: str = "fusion") -> RoundPlan:
    return RoundPlan(number, phase, 40 + number, ROSTER, 0.01, (0.6, 0.2, 0.2), 1 if phase == "transfer" else None)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def activations(modalities: Sequence[str], rows: int = 3, seed: int = 0) -> Activations:
    """All rows have all of these modalities; texts of different lengths."""
    specs = {
        "image": {"pixel_values": InputSpec((rows, 1, 8, 8), torch.float32)},
        "audio": {"input_values": InputSpec((rows, 12, 8), torch.float32)},
        "text": {name: InputSpec((rows, worlds.TEXT_LENGTH), torch.int64) for name in ("input_ids", "attention_mask")},
    }
    mask = (torch.arange(worlds.TEXT_LENGTH) < torch.arange(4, 4 + rows)[:, None]).long()
    made = {
        name: Activation(drawn(rows, *SHAPES[name], seed=seed), torch.arange(rows), mask if name == "text" else None, specs[name])
        for name in modalities
    }
    return Activations(made, torch.ones(rows, len(made), dtype=torch.bool))


def gradients(features: Features, seed: int = 0) -> Gradients:
    pooled = {name: drawn(*z.shape, seed=seed) for name, z in features.pooled.items()}
    return Gradients(pooled, drawn(*features.fused.shape, seed=seed + 1))


def step(session: Session, modalities: Sequence[str], seed: int = 0) -> tuple[Features, ActivationGradients]:
    features = session.forward(activations(modalities, seed=seed))
    return features, session.backward(gradients(features, seed))


def take_part(at: Deployment, client: str, number: int = 1, steps: int = 2) -> list[bytes]:
    """A client's part in a round, in order; the bits of all that it was answered."""
    heard: list[bytes] = []
    with at.link.session(client, number) as session:
        for seed in range(steps):
            features, answer = step(session, ROSTER[client], seed)
            heard += bits(features.pooled) + bits({"": features.fused}) + bits(answer.hidden)
    return heard


def give_up(at: Deployment, client: str, seed: int = 0) -> None:
    """A client's part in round 1, left by an error after a step."""
    with at.link.session(client, 1) as session:
        step(session, ROSTER[client], seed)
        raise KeyboardInterrupt


def bits(tensors: Mapping[object, Tensor]) -> list[bytes]:
    return [tensor.contiguous().numpy().tobytes() for tensor in tensors.values()]


def accept(number: int = 1, **samples: int) -> Acceptance:
    """`ann=3`: her copies count, with three samples of everything that she has."""
    prefixes = {client: ("fusion.", *(f"{modality}." for modality in ROSTER[client])) for client in samples}
    return Acceptance(number, {client: dict.fromkeys(prefixes[client], weight) for client, weight in samples.items()})


def seen_at(at: Deployment, number: int) -> list[bytes]:
    """What an evaluation after a round answers."""
    reply = at.link.evaluate("ann", EvaluationRequest(activations(worlds.MODALITIES), (ALL, ("image", "text")), number))
    return bits(reply.pooled) + bits(reply.fused)


def spoilt(name: str, **changes: Callable[[Activation], object]) -> Callable[[Activations], Activations]:
    """Activations of which one modality has other fields."""

    def spoil(right: Activations) -> Activations:
        one = right.modalities[name]
        changed = replace(one, **{field: change(one) for field, change in changes.items()})
        return replace(right, modalities={**right.modalities, name: changed})

    return spoil


MALFORMED: Mapping[str, tuple[Callable[[Activations], Activations], str]] = {
    "nothing": (lambda right: Activations({}, right.entering), "no modality"),
    "a modality of another run": (
        lambda right: replace(right, modalities={**right.modalities, "smell": right.modalities["image"]}),
        "smell",
    ),
    "narrower": (spoilt("image", hidden=lambda one: one.hidden[..., :7]), r"ann, modality image: `hidden` is \(3, 5, 7\).*16 channels"),
    "another type": (spoilt("audio", hidden=lambda one: one.hidden.double()), "audio: `hidden` is .*float64.*float32"),
    "fewer samples": (spoilt("image", hidden=lambda one: one.hidden[:2]), r"image: `hidden` is \(2, .*3 samples"),
    "fewer tokens": (spoilt("text", hidden=lambda one: one.hidden[:, :4]), "client ann: the tail does not take"),
    "a row beyond the batch": (
        spoilt("image", rows=lambda _: torch.tensor([0, 1, 3])),
        "image: 1 of 3 `rows` are wrong, first number 2, which is 3; .*0 … 2",
    ),
    "a negative row": (spoilt("image", rows=lambda _: torch.tensor([-1, 0, 1])), "image: 1 of 3 `rows` are wrong, first number 0"),
    "a row twice": (
        spoilt("audio", rows=lambda _: torch.tensor([0, 1, 1])),
        "audio: 1 of 3 `rows` are wrong, first number 2, which is 1; rising",
    ),
    "rows that are no numbers": (spoilt("audio", rows=lambda _: torch.tensor([0.0, 1.0, 2.0])), "audio: `rows` is .*int64"),
    "no mask": (spoilt("text", mask=lambda _: None), "text: its mask is missing"),
    "a mask of another length": (spoilt("text", mask=lambda one: one.mask[:, :5]), r"text: its mask is \(3, 5\).*\(3, 9\)"),
    "a mask for no input": (spoilt("image", mask=lambda _: torch.ones(3, 5)), "image: its mask is not one"),
    "inputs of more rows": (
        spoilt("image", inputs=lambda _: {"pixel_values": InputSpec((4, 1, 8, 8), torch.float32)}),
        "image: the input pixel_values has shape",
    ),
    "inputs out of all proportion": (
        spoilt("image", inputs=lambda _: {"pixel_values": InputSpec((3, 1, 8192, 8192), torch.float32)}),
        "image: the input pixel_values has shape .*no encoder makes so little",
    ),
    "a column less": (lambda right: replace(right, entering=right.entering[:, :2]), r"`entering` is \(3, 2\).*image, audio, text"),
    "presence that is not yes or no": (lambda right: replace(right, entering=right.entering.float()), "`entering` is .*float32"),
    "a sample that enters without its modality": (
        lambda right: spoilt(
            "image",
            hidden=lambda one: one.hidden[:2],
            rows=lambda _: torch.tensor([0, 2]),
            inputs=lambda _: {"pixel_values": InputSpec((2, 1, 8, 8), torch.float32)},
        )(right),
        "image: sample 1 enters fusion without having",
    ),
}
"""What no client of ours sends: what is wrong, and what the answer says."""


# --- the link -----------------------------------------------------------------------------------------------------------------------


class TestLink:
    def test_a_step_is_two_messages_up_and_two_down(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with at.link.session("cyd", 1) as session:
            for rows in (3, 1):
                said = activations(("image", "text"), rows)
                features = session.forward(said)
                assert list(features.pooled) == ["image", "text"]
                assert {name: tuple(z.shape) for name, z in features.pooled.items()} == {"image": (rows, 16), "text": (rows, 20)}
                assert tuple(features.fused.shape) == (rows, 8)
                answer = session.backward(gradients(features))
                assert {name: g.shape for name, g in answer.hidden.items()} == {n: a.hidden.shape for n, a in said.modalities.items()}
                received = [*features.pooled.values(), features.fused, *answer.hidden.values()]
                assert not any(tensor.requires_grad for tensor in received)
                assert {tensor.dtype for tensor in received} == {torch.float32}
                assert all(float(gradient.abs().max()) > 0 for gradient in answer.hidden.values())

    def test_the_second_step_runs_on_what_the_first_one_made(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with at.link.session("ann", 1) as session:
            (first, _), (second, _) = (step(session, worlds.MODALITIES) for _ in range(2))
        assert not torch.equal(first.fused, second.fused)

    def test_what_was_sent_is_not_changed(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        said, same = (activations(worlds.MODALITIES) for _ in range(2))
        with at.link.session("ann", 1) as session:
            answer = gradients(session.forward(said))
            before = bits(answer.pooled) + bits({"": answer.fused})
            session.backward(answer)
        assert bits(answer.pooled) + bits({"": answer.fused}) == before
        for name, one in said.modalities.items():
            assert torch.equal(one.hidden, same.modalities[name].hidden)
            assert not one.hidden.requires_grad
            assert one.hidden.grad is None

    def test_the_same_words_are_answered_with_the_same_bits_as_in_process(self, deploy, tmp_path: Path) -> None:
        """Evaluations too. Dimensions that lie in another order in memory arrive in that order."""
        at = deploy()
        with in_process(worlds.config(), worlds.federated(unlabelled=0.3), tmp_path / "beside") as beside:
            told = []
            for one in (at, beside):
                one.coordination.begin(plan())
                turned = activations(worlds.MODALITIES)
                for name, activation in turned.modalities.items():
                    memory = activation.hidden.transpose(1, 2).contiguous().transpose(1, 2)
                    turned.modalities[name] = replace(activation, hidden=memory)
                reply = one.link.evaluate("ann", EvaluationRequest(turned, (ALL,), 0))
                told.append([*take_part(one, "ann"), *bits(reply.pooled), *bits(reply.fused)])
        assert told[0] == told[1]

    def test_forward_twice(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with at.link.session("ann", 1) as session:
            session.forward(activations(worlds.MODALITIES))
            with pytest.raises(ProtocolError, match=r"ann.*forward.*due"):
                session.forward(activations(worlds.MODALITIES))

    def test_backward_without_forward(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match=r"eve.*no forward"), at.link.session("eve", 1) as session:
            session.backward(Gradients({"text": drawn(3, 20)}, drawn(3, 8)))

    def test_backward_twice(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with at.link.session("eve", 1) as session:
            features, _ = step(session, ("text",))
            with pytest.raises(ProtocolError, match=r"eve.*no forward"):
                session.backward(gradients(features))

    @pytest.mark.parametrize(("begun", "asked"), [(False, 1), (True, 2), (True, 0)])
    def test_a_round_that_is_not_open(self, deploy, begun: bool, asked: int) -> None:
        at = deploy()
        if begun:
            at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match=f"ann asks for round {asked}"), at.link.session("ann", asked) as session:
            session.forward(activations(worlds.MODALITIES))

    def test_a_round_that_was_aborted_is_not_open(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        at.coordination.abort(1)
        with pytest.raises(ProtocolError, match="ann asks for round 1"), at.link.session("ann", 1) as session:
            session.forward(activations(worlds.MODALITIES))

    def test_a_client_that_is_not_on_the_roster(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="bob is not on the roster of round 1"), at.link.session("bob", 1) as session:
            session.forward(activations(worlds.MODALITIES))

    def test_a_modality_that_a_client_was_not_announced_with(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="cyd sent activations of audio"), at.link.session("cyd", 1) as session:
            session.forward(activations(worlds.MODALITIES))

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda right: replace(right, fused=right.fused[:2]),
            lambda right: replace(right, fused=right.fused[:, :4]),
            lambda right: replace(right, pooled={**right.pooled, "text": right.pooled["text"][:1]}),
            lambda right: replace(right, pooled={"text": right.pooled["text"]}),
            lambda right: replace(right, pooled={**right.pooled, "audio": drawn(3, 12)}),
        ],
        ids=["fewer rows of f", "narrower f", "fewer rows of z", "a modality less", "a modality more"],
    )
    def test_gradients_that_do_not_fit_the_features(self, deploy, wrong: Callable[[Gradients], Gradients]) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="answer"), at.link.session("cyd", 1) as session:
            session.backward(wrong(gradients(session.forward(activations(("image", "text"))))))
        take_part(at, "eve")
        with pytest.raises(ProtocolError, match="cyd"):
            at.coordination.end(accept(cyd=1, eve=1))
        assert at.coordination.end(accept(eve=1)).round == 1

    def test_activations_that_are_not_finite(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        said = activations(worlds.MODALITIES)
        said.modalities["audio"].hidden[1, 2, 3] = float("nan")
        with at.link.session("ann", 1) as session:
            step(session, worlds.MODALITIES)
            with pytest.raises(DivergedError, match=r"round 1, step 2: features of modality audio"):
                session.forward(said)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_gradients_that_are_not_finite(self, deploy, value: float) -> None:
        """The session that they end does not count."""
        at = deploy()
        at.coordination.begin(plan())

        def diverge() -> None:
            with at.link.session("ann", 1) as session:
                answer = gradients(session.forward(activations(worlds.MODALITIES)))
                answer.fused[0, 0] = value
                session.backward(answer)

        with pytest.raises(DivergedError, match=r"round 1, step 1: a gradient of modality audio \(audio\..*\) is not finite"):
            diverge()
        with pytest.raises(ProtocolError, match="ann"):
            at.coordination.end(accept(ann=1))

    def test_copies_are_not_stepped_by_gradients_that_are_not_finite(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with at.link.session("ann", 1) as session:
            features = session.forward(activations(worlds.MODALITIES))
            answer = gradients(features)
            answer.pooled["text"][0, 0] = float("nan")
            with pytest.raises(DivergedError):
                session.backward(answer)
            assert bits(session.forward(activations(worlds.MODALITIES)).pooled) == bits(features.pooled)

    @pytest.mark.parametrize("which", ["forward", "evaluate"])
    @pytest.mark.parametrize("case", MALFORMED)
    def test_activations_that_do_not_fit(self, deploy, case: str, which: str) -> None:
        """They are refused before anything is computed; the session that sends them may go on."""
        at = deploy()
        spoil, said = MALFORMED[case]
        at.coordination.begin(plan())
        wrong = spoil(activations(worlds.MODALITIES))
        if which == "evaluate":
            with pytest.raises(ProtocolError, match=said):
                at.link.evaluate("ann", EvaluationRequest(wrong, (ALL,), 0))
            return
        with at.link.session("ann", 1) as session:
            with pytest.raises(ProtocolError, match=said):
                session.forward(wrong)
            step(session, worlds.MODALITIES)
        assert at.coordination.end(accept(ann=1)).round == 1

    def test_a_session_opened_again_starts_again(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        once = take_part(at, "ann")
        one = at.coordination.end(accept(ann=1)).prints
        at.coordination.begin(plan())
        with pytest.raises(KeyboardInterrupt):
            give_up(at, "ann", seed=9)
        again = take_part(at, "ann")
        assert once == again
        assert at.coordination.end(accept(ann=1)).prints == one

    def test_whoever_has_taken_part_in_order_opens_no_second_session(self, deploy) -> None:
        """What it did counts; when the round is begun anew it may come again."""
        at = deploy()
        at.coordination.begin(plan())
        once = take_part(at, "ann")
        with pytest.raises(RefusedError, match="ann has taken part in round 1 already"), at.link.session("ann", 1) as session:
            session.forward(activations(worlds.MODALITIES))
        one = at.coordination.end(accept(ann=1)).prints
        at.coordination.begin(plan())
        assert take_part(at, "ann") == once
        assert at.coordination.end(accept(ann=1)).prints == one

    def test_a_session_that_was_opened_anew_cannot_be_closed_by_the_old_one(self, deploy) -> None:
        """A client that was cut off comes back before the server notices; then the old session ends, with an error or without."""
        prints = []
        for late in (None, KeyboardInterrupt, "in order"):
            at = deploy()
            at.coordination.begin(plan())
            old = at.link.session("ann", 1)
            if late is not None:
                old.__enter__()
                step(old, worlds.MODALITIES, seed=7)
            take_part(at, "ann")
            if late is not None:
                old.__exit__(*((None, None, None) if late == "in order" else (late, late(), None)))
            prints.append(at.coordination.end(accept(ann=1)).prints)
        assert prints[0] == prints[1] == prints[2]

    def test_an_old_session_does_not_put_the_new_one_in_order(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        old = at.link.session("ann", 1)
        old.__enter__()
        step(old, worlds.MODALITIES)
        with at.link.session("ann", 1) as session:
            step(session, worlds.MODALITIES)
            old.__exit__(None, None, None)
            with pytest.raises(ProtocolError, match="ann"):
                at.coordination.end(accept(ann=1))

    @pytest.mark.parametrize("how", ["opened anew", "aborted", "begun again"])
    def test_an_old_session_cannot_go_on(self, deploy, how: str) -> None:
        at = deploy()
        at.coordination.begin(plan())
        old = at.link.session("ann", 1)
        old.__enter__()
        step(old, worlds.MODALITIES)
        if how == "opened anew":
            take_part(at, "ann")
        else:
            (at.coordination.abort if how == "aborted" else lambda _: at.coordination.begin(plan()))(1)
        with pytest.raises(ProtocolError, match="ann: this session of round 1 is over"):
            old.forward(activations(worlds.MODALITIES))

    def test_sessions_side_by_side_do_not_touch_each_other(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        apart = [take_part(at, "ann", steps=1), take_part(at, "cyd", steps=1)]
        prints = at.coordination.end(accept(ann=1, cyd=2)).prints
        at.coordination.begin(plan())
        with at.link.session("ann", 1) as one, at.link.session("cyd", 1) as two:
            of_one, of_two = one.forward(activations(ROSTER["ann"])), two.forward(activations(ROSTER["cyd"]))
            back_two = two.backward(gradients(of_two))
            back_one = one.backward(gradients(of_one))
        for heard, features, answer in zip(apart, (of_one, of_two), (back_one, back_two), strict=True):
            assert heard == bits(features.pooled) + bits({"": features.fused}) + bits(answer.hidden)
        assert at.coordination.end(accept(ann=1, cyd=2)).prints == prints

    def test_an_evaluation_changes_nothing(self, deploy) -> None:
        at = deploy()
        before = at.coordination.fingerprints()
        first = seen_at(at, 0)
        at.coordination.begin(plan())
        with at.link.session("ann", 1) as session:
            features = session.forward(activations(worlds.MODALITIES))
            assert seen_at(at, 0) == first
            session.backward(gradients(features))
            assert seen_at(at, 0) == first
        assert at.coordination.fingerprints() == before

    def test_an_evaluation_of_samples_that_lack_modalities(self, deploy) -> None:
        """f per subset for the rows that have all of it, in their order; no row for a subset of which a modality is not there."""
        at = deploy()
        said = activations(("image", "text"))
        text = said.modalities["text"]
        said.modalities["text"] = replace(text, hidden=text.hidden[1:], rows=torch.tensor([0, 2]), mask=text.mask[1:], inputs={
            name: InputSpec((2, worlds.TEXT_LENGTH), torch.int64) for name in text.inputs
        })  # fmt: skip
        said.entering[1, 1] = False
        subsets = (ALL, ("image",), ("text",), ("image", "text"), ("image", "audio"))
        reply = at.link.evaluate("ann", EvaluationRequest(said, subsets, 0))
        assert {subset: tuple(f.shape) for subset, f in reply.fused.items()} == {
            ALL: (3, 8), ("image",): (3, 8), ("text",): (2, 8), ("image", "text"): (2, 8), ("image", "audio"): (0, 8),
        }  # fmt: skip
        # Rows 0 and 2 have both, row 1 has the image alone.
        assert torch.allclose(reply.fused[ALL][[0, 2]], reply.fused["image", "text"], atol=1e-5)
        assert torch.allclose(reply.fused[ALL][1], reply.fused["image",][1], atol=1e-5)

    @pytest.mark.parametrize("number", [-1, 1, 7])
    def test_an_evaluation_after_a_round_that_is_not_there(self, deploy, number: int) -> None:
        with pytest.raises(ProtocolError, match=f"tensors after round {number}"):
            seen_at(deploy(), number)


# --- the coordination ---------------------------------------------------------------------------------------------------------------


class TestCoordination:
    def test_a_round_that_commits(self, deploy) -> None:
        at = deploy()
        start, old = at.coordination.fingerprints(), seen_at(at, 0)
        at.coordination.begin(plan())
        take_part(at, "ann")
        averaged = at.coordination.end(accept(ann=3))
        assert averaged.round == 1
        # Prepared: whoever asks by round sees the new ones, everyone else the old ones.
        assert at.coordination.fingerprints() == start != averaged.prints
        assert seen_at(at, 0) == old
        new = seen_at(at, 1)
        assert new != old
        at.coordination.commit(1)
        assert at.coordination.fingerprints() == averaged.prints
        assert seen_at(at, 1) == new
        with pytest.raises(ProtocolError, match="tensors after round 0"):
            seen_at(at, 0)

    def test_a_round_that_aborts(self, deploy) -> None:
        at = deploy()
        start, old = at.coordination.fingerprints(), seen_at(at, 0)
        at.coordination.begin(plan())
        take_part(at, "ann")
        at.coordination.end(accept(ann=3))
        at.coordination.abort(1)
        assert at.coordination.fingerprints() == start
        assert seen_at(at, 0) == old
        with pytest.raises(ProtocolError, match="tensors after round 1"):
            seen_at(at, 1)
        with pytest.raises(ProtocolError, match="round 1 cannot commit"):
            at.coordination.commit(1)
        with pytest.raises(ProtocolError, match="round 1 cannot end"):
            at.coordination.end(accept(ann=3))

    def test_every_call_is_harmless_when_repeated(self, deploy) -> None:
        once, often = deploy(), deploy()
        for at, times in ((once, 1), (often, 3)):
            for number in (1, 2):
                for _ in range(times):
                    at.coordination.begin(plan(number))
                take_part(at, "ann", number)
                take_part(at, "eve", number)
                ended = [at.coordination.end(accept(number, ann=2, eve=5)) for _ in range(times)]
                assert all(one == ended[0] for one in ended)
                for _ in range(times):
                    at.coordination.commit(number)
            for _ in range(times):
                at.coordination.abort(3)
        assert once.coordination.fingerprints() == often.coordination.fingerprints()
        assert seen_at(once, 2) == seen_at(often, 2)

    def test_a_round_that_is_begun_again_forgets_what_was_done(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        take_part(at, "ann")
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="ann"):
            at.coordination.end(accept(ann=1))

    def test_an_evaluation_sees_the_new_tensors_of_a_round_that_was_prepared_twice(self, deploy) -> None:
        """Once with one outcome that was aborted, then with another."""
        at, straight = deploy(), deploy()
        at.coordination.begin(plan())
        take_part(at, "ann", steps=1)
        at.coordination.end(accept(ann=1))
        first = seen_at(at, 1)
        at.coordination.abort(1)
        for one in (at, straight):
            one.coordination.begin(plan())
            take_part(one, "ann", steps=3)
            one.coordination.end(accept(ann=1))
        assert seen_at(at, 1) == seen_at(straight, 1) != first

    def test_in_turn_the_next_client_steps_what_the_last_one_made(self, deploy) -> None:
        """As after a round of the first alone, but for the optimiser and the average over modalities."""
        rules = '[{pattern="*", over="clients"}]'
        settings = {f"modalities__{name}__adapter_dropout": 0.0 for name in worlds.MODALITIES} | {"averaging__rules": rules}
        turns, rounds = deploy(federation__server_update="in_turn", **settings), deploy(**settings)
        for at in (turns, rounds):
            at.coordination.begin(plan())
            take_part(at, "ann")
        before = rounds.coordination.fingerprints()
        rounds.coordination.end(accept(ann=1))
        rounds.coordination.commit(1)
        rounds.coordination.begin(plan(2))
        heard = []
        for at, number in ((turns, 1), (rounds, 2)):
            with at.link.session("cyd", number) as session:
                features, _ = step(session, ROSTER["cyd"])
                heard.append(bits(features.pooled) + bits({"": features.fused}))
        assert heard[0] == heard[1]
        ended = turns.coordination.end(accept(ann=1, cyd=1)).prints
        assert {name for name in ended if ended[name] == before[name]} == set()

    @pytest.mark.parametrize("number", [0, 2, 5])
    def test_a_round_that_is_not_next_cannot_begin(self, deploy, number: int) -> None:
        with pytest.raises(ProtocolError, match=f"round {number} cannot begin: round 0 is in force"):
            deploy().coordination.begin(plan(number))

    def test_a_round_that_was_not_begun_cannot_end(self, deploy) -> None:
        at = deploy()
        with pytest.raises(ProtocolError, match="round 1 cannot end"):
            at.coordination.end(accept(ann=1))
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="round 2 cannot end"):
            at.coordination.end(accept(2, ann=1))

    def test_a_round_that_was_not_prepared_cannot_commit(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="round 1 cannot commit"):
            at.coordination.commit(1)

    def test_sessions_that_did_not_close_in_order_do_not_count(self, deploy) -> None:
        """One never opened, one still open, one left with a gradient due, one left by an error."""
        at = deploy()
        at.coordination.begin(plan())
        with pytest.raises(ProtocolError, match="ann"):
            at.coordination.end(accept(ann=1))
        with at.link.session("ann", 1) as session:
            step(session, worlds.MODALITIES)
            with pytest.raises(ProtocolError, match="ann"):
                at.coordination.end(accept(ann=1))
        with at.link.session("cyd", 1) as session:
            session.forward(activations(ROSTER["cyd"]))
        with pytest.raises(KeyboardInterrupt):
            give_up(at, "eve")
        for _ in range(2):
            with pytest.raises(UnfinishedError, match=r"cyd, eve") as told:
                at.coordination.end(accept(ann=1, cyd=1, eve=1))
            assert told.value.clients == ("cyd", "eve")
        assert at.coordination.end(accept(ann=1)).round == 1

    def test_who_took_part_and_is_not_accepted_leaves_no_trace(self, deploy) -> None:
        prints = []
        for others in ((), ("cyd", "eve")):
            at = deploy()
            at.coordination.begin(plan())
            for client in (*others, "ann"):
                take_part(at, client)
            prints.append(at.coordination.end(accept(ann=4)).prints)
        assert prints[0] == prints[1]

    def test_a_round_of_nobody_changes_nothing(self, deploy) -> None:
        at = deploy()
        start = at.coordination.fingerprints()
        at.coordination.begin(plan())
        assert at.coordination.end(Acceptance(1, {})).prints == start

    def test_in_the_transfer_phase_fusion_rests(self, deploy) -> None:
        at = deploy()
        at.coordination.begin(plan(phase="transfer"))
        take_part(at, "ann")
        start, after = at.coordination.fingerprints(), at.coordination.end(accept(ann=1)).prints
        changed = {name for name in start if start[name] != after[name]}
        assert changed == {name for name in start if ".ta." in name}

    def test_a_checkpoint_brings_a_fresh_main_server_to_its_round(self, deploy) -> None:
        at = deploy("here", averaging__rules='[{pattern="text.ta.*", over="nothing"}]', federation__server_momentum=0.5)
        for number in (1, 2):
            at.coordination.begin(plan(number))
            take_part(at, "ann", number)
            file = at.coordination.end(accept(number, ann=1)).file
            at.coordination.commit(number)
        other = deploy("here", averaging__rules='[{pattern="text.ta.*", over="nothing"}]', federation__server_momentum=0.5)
        other.coordination.restore(2, file)
        other.coordination.restore(2, file)
        assert other.coordination.fingerprints() == at.coordination.fingerprints()
        ends = []
        for one in (at, other):
            # Momentum and personal tensors were kept too: the next round comes out the same.
            one.coordination.begin(plan(3))
            heard = take_part(one, "ann", 3)
            ends.append((heard, one.coordination.end(accept(3, ann=1))))
        assert ends[0] == ends[1]

    def test_back_to_the_tensors_of_the_seed(self, deploy) -> None:
        """As a run does whose warm start was its best round."""
        at = deploy()
        start = at.coordination.fingerprints()
        at.coordination.begin(plan())
        take_part(at, "ann")
        at.coordination.end(accept(ann=1))
        at.coordination.commit(1)
        assert at.coordination.fingerprints() != start
        at.coordination.restore(0, None)
        assert at.coordination.fingerprints() == start

    def test_a_checkpoint_of_a_round_that_did_not_commit(self, deploy) -> None:
        """The manifest decides: prepared and written is enough, whatever died before the commit."""
        at = deploy("here")
        at.coordination.begin(plan())
        take_part(at, "ann")
        averaged = at.coordination.end(accept(ann=1))
        other = deploy("here")
        other.coordination.restore(1, averaged.file)
        assert other.coordination.fingerprints() == averaged.prints

    def test_a_checkpoint_that_is_not_there_or_was_altered(self, deploy, tmp_path: Path) -> None:
        at = deploy("here")
        at.coordination.begin(plan())
        take_part(at, "ann")
        file = at.coordination.end(accept(ann=1)).file
        at.coordination.commit(1)
        other = deploy("here")
        with pytest.raises(RunDirectoryError):
            other.coordination.restore(2, file)
        with pytest.raises(RunDirectoryError, match="altered"):
            other.coordination.restore(1, "0" * 64)
        (written,) = (path for path in (tmp_path / "here").rglob("*1.safetensors") if "main" in path.parent.name)
        content = bytearray(written.read_bytes())
        content[-1] ^= 1
        written.write_bytes(bytes(content))
        with pytest.raises(RunDirectoryError, match="altered"):
            other.coordination.restore(1, file)


# --- the federation -----------------------------------------------------------------------------------------------------------------


def answers(at: Deployment, tasks: Sequence[object]) -> dict[str, object]:
    found = list(at.federation.run(tasks))
    assert len(found) == len(tasks)
    return {answer.client: answer for answer in found}


def signature(answer: object) -> object:
    """All of an answer, tensors by their bits."""
    if isinstance(answer, TrainResult):
        return [
            *answer.tensors,
            *bits(answer.tensors),
            dict(answer.samples),
            dict(answer.losses),
            answer.steps,
            answer.traffic,
            answer.local,
        ]
    if isinstance(answer, EvaluateResult):
        return [[subset, *bits(tally)] for subset, tally in answer.tallies.items()]
    assert isinstance(answer, SumsResult)
    halves = [bits({"n": sums.counts, "s": sums.sums, "p": sums.factor}) for half in (answer.even, answer.odd) for sums in half.values()]
    return [*halves, bits({"": answer.counts}), answer.traffic]


PERSONAL = {"averaging__rules": '[{pattern="*.classifier.*", over="nothing"}]', "federation__local_steps": 2}


class TestFederation:
    def test_who_is_there(self, deploy) -> None:
        """Sorted by name, with what the data says of them."""
        data = worlds.federated(unlabelled=0.3)
        found = deploy(data=data).federation.clients()
        assert [one.name for one in found] == sorted(data.clients)
        for one in found:
            client = data.clients[one.name]
            assert one.modalities == client.modalities
            numbers = [0 if samples is None else len(samples.labels) for samples in (client.train, client.validation, client.test)]
            assert [one.train, one.validation, one.test] == numbers
            labels = torch.tensor([]) if client.train is None else client.train.labels
            assert one.labelled == int((labels != UNLABELLED).sum())

    def test_one_answer_for_each_task_whatever_their_order(self, deploy) -> None:
        told = []
        for turn in (1, -1):
            at = deploy(transfer__start=1)
            round_plan, tasks = at.fed_server.begin_round()
            at.coordination.begin(round_plan)
            found = answers(at, tasks[::turn])
            assert set(found) == set(round_plan.roster)
            told.append({name: signature(answer) for name, answer in found.items()})
        assert told[0] == told[1]

    def test_a_task_done_again_is_answered_the_same(self, deploy) -> None:
        at = deploy(transfer__start=1)
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(round_plan)
        (task,) = [task for task in tasks if task.client == "bob"]
        first = answers(at, [task])["bob"]
        at.coordination.begin(round_plan)
        second = answers(at, [task])["bob"]
        assert signature(first) == signature(second)

    def test_every_kind_of_task(self, deploy) -> None:
        at = deploy()
        sums = answers(at, [SumsTask(name, at.fed_server.view(name)) for name in ("ann", "dee")])
        assert all(isinstance(answer, SumsResult) for answer in sums.values())
        (evaluated,) = answers(at, at.fed_server.evaluation("test")).values()
        assert isinstance(evaluated, EvaluateResult)
        assert [signature(one) for one in answers(at, at.fed_server.evaluation("test")).values()] == [signature(evaluated)]

    def test_a_client_that_cannot_is_a_failure_and_the_others_go_on(self, deploy) -> None:
        """ann is not on the roster that the main server was told; the others are."""
        at = deploy()
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(replace(round_plan, roster={name: of for name, of in round_plan.roster.items() if name != "ann"}))
        found = answers(at, tasks)
        failure = found.pop("ann")
        assert isinstance(failure, Failure)
        assert failure.kind == "ProtocolError"
        assert "ann is not on the roster of round 1" in failure.message
        assert all(isinstance(answer, TrainResult) for answer in found.values())

    def test_no_tasks(self, deploy) -> None:
        assert answers(deploy(), []) == {}

    def test_personal_tensors_are_the_clients_own_from_the_commit_on(self, deploy) -> None:
        at = deploy(**PERSONAL)
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(round_plan)
        first = answers(at, tasks)
        assert not [name for name in first["ann"].tensors if ".classifier." in name]
        assert first["ann"].local is not None
        # Before the commit, and for whom the commit does not name, they are what they were.
        at.federation.commit(1, ["cyd", "dee", "eve"])
        at.federation.commit(1, ["cyd", "dee", "eve"])
        at.coordination.begin(round_plan)
        second = answers(at, tasks)
        same = {name for name in first if signature(first[name]) == signature(second[name])}
        assert same == {"ann", "bob"}

    def test_a_commit_of_another_round_takes_nothing(self, deploy) -> None:
        at = deploy(**PERSONAL)
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(round_plan)
        first = answers(at, tasks)
        at.federation.commit(2, ["ann"])
        at.coordination.begin(round_plan)
        assert signature(answers(at, tasks)["ann"]) == signature(first["ann"])

    def test_a_client_that_a_checkpoint_does_not_name_has_nothing_of_its_own(self, deploy) -> None:
        at = deploy("one", **PERSONAL)
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(round_plan)
        first = answers(at, tasks)
        at.federation.commit(1, list(first))
        at.federation.restore({"ann": (1, first["ann"].local)})
        at.coordination.begin(round_plan)
        again = answers(at, tasks)
        assert {name for name in first if signature(first[name]) == signature(again[name])} == set(first) - {"ann"}

    def test_restored_clients_go_on_as_if_they_had_never_stopped(self, deploy) -> None:
        """Another process over the same files, after round 1 was committed and round 2 was under way."""
        at = deploy("here", **PERSONAL)
        round_plan, tasks = at.fed_server.begin_round()
        at.coordination.begin(round_plan)
        results = list(answers(at, tasks).values())
        averaged = at.coordination.end(at.fed_server.accept(round_plan, results))
        at.fed_server.end_round(round_plan, results)
        at.coordination.commit(1)
        at.federation.commit(1, [one.client for one in results])
        state = at.fed_server.state
        second, tasks = at.fed_server.begin_round()
        at.coordination.begin(second)
        expected = answers(at, tasks)

        other = deploy("here", **PERSONAL)
        other.fed_server.restore(state)
        other.coordination.restore(1, averaged.file)
        other.federation.restore({one.client: (1, one.local) for one in results})
        other.coordination.begin(second)
        assert {name: signature(one) for name, one in answers(other, tasks).items()} == {
            name: signature(one) for name, one in expected.items()
        }


def test_at_the_end_every_client_is_given_what_it_predicts_with(tmp_path):
    """Over Flower alone: in one process there is nobody to give it to."""
    config, data = worlds.config(), worlds.federated()
    with flower(config, data, tmp_path) as place:
        server = place.fed_server
        names = sorted(server.clients)
        assert place.federation.hand_over([KeepTask(name, server.view(name)) for name in names]) == {}
        for name in names:
            kept, view = Keepsake.read(tmp_path / name), server.view(name)
            assert kept.view.round == view.round
            assert kept.view.tensors.keys() == view.tensors.keys()
            assert all(torch.equal(kept.view.tensors[key], value) for key, value in view.tensors.items())
            token = Token.verified(kept.token, over_grpc.party(over_grpc.FED, over_grpc.FED, over_grpc.HERE).key.public_key())
            assert (token.purpose, token.client) == ("predict", name)
            assert (tmp_path / name / "predict.json").stat().st_mode & 0o777 == 0o600
