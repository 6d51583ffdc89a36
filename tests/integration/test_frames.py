"""What crosses the line: nothing but the four messages, none of a client's inputs, labels or logits; and what a main server does with
frames that nobody of ours would send."""

import itertools
import json
import math
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
import torch
from tests import worlds
from tests.conformance import over_grpc as net
from tests.conformance.test_ports import ROSTER, accept, activations, gradients, plan, step
from tests.integration.apart import Apart, main_server
from torch import Tensor

import m2fedsa.client.local_round
import m2fedsa.client.sweep
from m2fedsa.client import Client
from m2fedsa.client.batch import unimodal_logits
from m2fedsa.coordination.grpc_client import GrpcCoordination
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.links.frames import HEADER, Incoming, Outgoing
from m2fedsa.links.grpc_client import channel
from m2fedsa.links.port import Session
from m2fedsa.links.talk import SERVICE, STREAM, TOKEN, Close, Closed, Greeting, Open, Refusal, Waiting
from m2fedsa.links.wire import decode, encode
from m2fedsa.messages import (
    ALL,
    ActivationGradients,
    EvaluationReply,
    EvaluationRequest,
    Failure,
    Features,
    SumsTask,
)
from m2fedsa.state import raw_bytes

SETTINGS = {"transfer__start": 2, "transfer__closed_form": False, "federation__local_steps": 2}


# --- what crosses the line ----------------------------------------------------------------------------------------------------------

CANARY = (0.7316821, -1.4142913)
WORDS = (29, 7, 28, 13, 29, 7)
FIELDS = {
    "modalities", "entering", "hidden", "rows", "mask", "inputs", "shape", "dtype", "pooled", "fused",  # the four messages
    "activations", "subsets", "at",  # evaluation
    "version", "client", "round", "session", "frame", "message", "up", "down", "before", "in_order",  # opening, waiting, closing
}  # fmt: skip
"""Every name of a field that may stand in a frame, written down by hand."""


def marked(data: FederatedData) -> FederatedData:
    """Every picture and recording begins with the canary, every text has its words."""

    def mark(samples: InMemorySamples | None) -> InMemorySamples | None:
        if samples is None:
            return None
        columns = {name: {column: written(column, values) for column, values in one.items()} for name, one in samples.columns.items()}
        return replace(samples, columns=columns)

    def written(column: str, values: Tensor) -> Tensor:
        values = values.clone()
        if values.is_floating_point():
            values.flatten(1)[:, :2] = torch.tensor(CANARY)
        else:
            values[:, : len(WORDS)] = torch.tensor(WORDS) if column == "input_ids" else 1
        return values

    splits = ("train", "validation", "test")
    clients = {
        name: ClientData(one.modalities, **{split: mark(one.split(split)) for split in splits}) for name, one in data.clients.items()
    }
    return FederatedData(data.classes, data.modalities, clients)


@dataclass
class Line:
    """What went over it, both ways, as clients see it."""

    frames: list[bytes] = field(default_factory=list)

    def tap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sending, hearing = Outgoing.frames, Incoming.add

        def frames(self_: Outgoing, message: object) -> Iterator[bytes]:
            for frame in sending(self_, message):
                self.frames.append(frame)
                yield frame

        def add(self_: Incoming, frame: bytes) -> Tensor | None:
            self.frames.append(frame)
            return hearing(self_, frame)

        monkeypatch.setattr(Outgoing, "frames", frames)
        monkeypatch.setattr(Incoming, "add", add)


def remembering(what: Callable[..., object], secrets: dict[str, bytes], open_: list[bytes]) -> Callable[..., object]:
    """Remembers every tensor of logits that a function gives; `open_`: the features that it made them of, which had crossed the line."""

    def asked(*args: object, **kwargs: object) -> object:
        answer = what(*args, **kwargs)
        if what is unimodal_logits:
            open_.extend(raw_bytes(pooled.detach()) for pooled in args[1].values())
        for logits in answer.values() if isinstance(answer, dict) else [answer]:
            if len(logits.unique()) > 8:
                secrets[f"logits {len(secrets)}"] = raw_bytes(logits)
        return answer

    return asked


def test_inputs_labels_and_logits_never_reach_the_main_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds, one of each phase, with warm-start sums and an evaluation; then all frames and the main server's memory are searched."""
    data = marked(worlds.federated(unlabelled=0.3))
    who = worlds.parties(worlds.config(**SETTINGS), data)
    line, secrets, open_ = Line(), dict[str, bytes](), list[bytes]()
    secrets["pictures and recordings"] = struct.pack("<ff", *CANARY)
    secrets["words"] = torch.tensor(WORDS).numpy().tobytes()
    for name, client in data.clients.items():
        for split in ("train", "validation", "test"):
            samples = client.split(split)
            if samples is not None and len(samples.labels.unique()) > 2:  # five times the same number is found anywhere
                secrets[f"labels of {name}, {split}"] = raw_bytes(samples.labels)
                secrets[f"labels of {name}, {split}, in 32 bits"] = raw_bytes(samples.labels.int())
    for module in (m2fedsa.client.local_round, m2fedsa.client.sweep):
        for function in ("unimodal_logits", "join"):
            monkeypatch.setattr(module, function, remembering(getattr(module, function), secrets, open_))
    line.tap(monkeypatch)
    with main_server(tmp_path, SETTINGS) as server:
        links = net.Links(f"localhost:{server.port}")
        federation = InProcessFederation([Client(name, one, who.shared, links) for name, one in data.clients.items()])
        fed = GrpcCoordination(f"localhost:{server.coordination_port}", net.party(net.FED, net.FED, net.HERE), net.RUN)
        asked = [SumsTask(name, who.fed_server.view(name)) for name in ("ann", "dee")]
        for _ in range(2):
            round_plan, tasks = who.fed_server.begin_round()
            fed.begin(round_plan)
            results = list(federation.run([*asked, *tasks]))
            assert not [answer for answer in results if isinstance(answer, Failure)]
            results = results[len(asked) :]
            fed.end(who.fed_server.accept(round_plan, results))
            who.fed_server.end_round(round_plan, results)
            fed.commit(round_plan.number)
            asked = []
        assert round_plan.phase == "transfer"
        assert not [one for one in federation.run(who.fed_server.evaluation("test")) if isinstance(one, Failure)]
        assert len(secrets) > 30
        # The search finds what is there.
        sent = b"".join(frame[HEADER:] for frame in line.frames)
        assert open_
        assert [features for features in open_ if features not in sent] == []
        assert server.holds({"there": net.RUN.encode(), "not there": b"nor anywhere " * 2 + bytes(range(40))}) == ["there"]
        assert [name for name, secret in secrets.items() if secret in sent] == []
        assert server.holds(secrets) == []
        links.close()
        fed.close()
    check_schema(line.frames)


def check_schema(frames: list[bytes]) -> None:
    """Every message on the line is one of those that there are, and has no field beyond."""
    kinds = set[str]()
    for frame in frames:
        place = struct.unpack_from("<Q", frame, 32)[0]
        assert place == 0, "the messages of this test fit into a frame each"
        named, _, plain, _ = struct.unpack_from("<IIQQ", frame, HEADER)
        start = HEADER + 24 + named
        kinds.add(frame[HEADER + 24 : start].decode())
        assert keys(json.loads(frame[start : start + plain])) <= FIELDS
    four = {"Activations", "Features", "Gradients", "ActivationGradients"}
    assert four | {"EvaluationRequest", "EvaluationReply", "Open", "Greeting", "Close", "Closed"} == kinds - {"Waiting"}


def keys(value: object) -> set[str]:
    """The names of all fields within; modalities are keys of pairs and no fields."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


# --- frames of nobody of ours -------------------------------------------------------------------------------------------------------


def mutated(frame: bytes, draw: random.Random) -> bytes:
    """A frame with some of its bytes, or its length, changed; mostly near the front, where its structure is."""
    changed = bytearray(frame)
    kind = draw.random()
    if kind < 0.05:
        return bytes(changed[: draw.randrange(len(changed))])
    if kind < 0.08:
        return bytes(changed) + draw.randbytes(draw.randrange(1, 50))
    if kind < 0.1:
        return draw.randbytes(draw.randrange(200))
    for _ in range(draw.choice((1, 1, 2, 5))):
        end = len(changed) if draw.random() < 0.3 else min(len(changed), draw.choice((HEADER, HEADER + 60, HEADER + 700)))
        place = draw.randrange(end)
        size = draw.choice((1, 1, 1, 4, 8))
        changed[place : place + size] = draw.choice(
            (draw.randbytes(size), bytes(size), b"\xff" * size, bytes([draw.choice(b'[]{},:"09-')]))
        )
    return bytes(changed)


WAITS = 3.0
"""Seconds for which a stranger waits for a server that waits for the rest of a message, because a frame announced a longer one."""


class Stranger:
    """A client with a good certificate and a good token that sends bad frames."""

    def __init__(self, server: Apart, name: str, seed: int) -> None:
        self.way = channel(f"localhost:{server.port}", net.party(name))
        self.name, self.draw, self.sent, self.heard = name, random.Random(seed), 0, Counter[str]()
        self._call = self.way.stream_stream(f"/{SERVICE}/{STREAM}")
        self._tokens = {1: net.token(name, "train", 1, expires=2e10), None: net.token(name, "evaluate", 0, expires=2e10)}

    def send(self, number: int) -> None:
        """Streams, until it has sent so many mutated frames in all."""
        while self.sent < number:
            self.attempt()

    def attempt(self) -> None:
        """One stream, in which every frame may be mutated, until it ends."""
        wanted = self.draw.choice((1, 1, None))
        out, into = Outgoing(), Incoming()
        frames: list[bytes] = []
        answers = self._call(iter_from(frames), metadata=((TOKEN, self._tokens[wanted]),), timeout=WAITS)
        try:
            answer = self._exchange(answers, out, into, frames, Open("0", self.name, wanted))
            if isinstance(answer, Greeting):
                out.session = into.session = answer.session
            features: object = None
            while answer is not None and not (isinstance(answer, Refusal) and answer.final) and not isinstance(answer, Closed):
                message: object = activations(worlds.MODALITIES, rows=self.draw.choice((1, 3)))
                if wanted is None:
                    message = EvaluationRequest(message, (ALL, ("image",)), 0)
                elif isinstance(answer, Features):
                    features, message = None, gradients(answer)
                elif self.draw.random() < 0.05:
                    message = Close(in_order=True)
                answer = self._exchange(answers, out, into, frames, message)
            del features
        except grpc.RpcError as error:
            self.heard[f"grpc {error.code().name}"] += 1
        finally:
            frames.append(None)
            answers.cancel()

    def _exchange(self, answers: Iterator[bytes], out: Outgoing, into: Incoming, frames: list[bytes], message: object) -> object:
        for frame in out.frames(encode(message)):
            if self.draw.random() < 0.6:
                frame = mutated(frame, self.draw)
                self.sent += 1
            frames.append(frame)
        kinds = (Greeting, Features, ActivationGradients, EvaluationReply, Refusal, Closed, Waiting)
        while True:
            body = next((body for body in map(into.add, answers) if body is not None), None)
            answer = None if body is None else decode(body, *kinds)
            if isinstance(answer, Refusal):
                self.heard[answer.kind] += 1
            if not isinstance(answer, Waiting):
                return answer


def iter_from(frames: list[bytes | None]) -> Iterator[bytes]:
    """What is put into a list, as it is put there."""
    at = 0
    while True:
        while len(frames) <= at:
            time.sleep(0.0005)
        if frames[at] is None:
            return
        yield frames[at]
        at += 1


STRANGERS = 6
"""at once, of two clients"""


def abused(server: Apart, number: int) -> tuple[Counter[str], list[int]]:
    """Mutated frames, so many; what was answered, and the memory that the server held, tenth by tenth. Beside them a client of ours takes
    its steps, and is answered as in process."""
    apart = worlds.parties(worlds.config(), worlds.federated(seed=99)).coordination
    strangers = [Stranger(server, ("ann", "eve")[seed % 2], seed) for seed in range(STRANGERS)]
    links = net.Links(f"localhost:{server.port}")
    fed = GrpcCoordination(f"localhost:{server.coordination_port}", net.party(net.FED, net.FED, net.HERE), net.RUN)
    fed.begin(plan())
    apart.begin(plan())
    memory, steps = [], itertools.count()
    with links.session("cyd", 1) as ours, apart.session("cyd", 1) as theirs, ThreadPoolExecutor(STRANGERS) as crowd:
        for tenth in range(10):
            share = math.ceil(number * (tenth + 1) / 10 / STRANGERS)
            sending = [crowd.submit(stranger.send, share) for stranger in strangers]
            while wait(sending, timeout=1.0).not_done:
                check_step(ours, theirs, next(steps))
            for one in sending:
                one.result()
            check_step(ours, theirs, next(steps))
            memory.append(server.memory())
    assert fed.end(accept(cyd=1)).prints == apart.end(accept(cyd=1)).prints
    links.close()
    fed.close()
    for stranger in strangers:
        stranger.way.close()
    assert sum(stranger.sent for stranger in strangers) >= number
    return sum((stranger.heard for stranger in strangers), Counter()), memory


def check_step(ours: Session, theirs: Session, seed: int) -> None:
    """One session says to the bit what the other says."""
    (features, answer), (expected, back) = (step(session, ROSTER["cyd"], seed) for session in (ours, theirs))
    assert all(map(torch.equal, [*features.pooled.values(), features.fused], [*expected.pooled.values(), expected.fused]))
    assert all(map(torch.equal, answer.hidden.values(), back.hidden.values()))


def check_abuse(folder: Path, number: int) -> None:
    """No crash, no growth, no effect on another session; every refusal has a name."""
    with main_server(folder, {}) as server:
        heard, memory = abused(server, number)
        assert server.process.poll() is None
    print(dict(heard), "MiB:", [round(one / 2**20) for one in memory])
    assert set(heard) <= {"ProtocolError", "RefusedError", "DivergedError", "grpc DEADLINE_EXCEEDED"}, heard
    assert heard["ProtocolError"] > number / 10
    assert max(memory[5:]) - memory[2] < 16 * 2**20, memory


def test_mutated_frames(tmp_path: Path) -> None:
    check_abuse(tmp_path, 500)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_frames(tmp_path: Path) -> None:
    check_abuse(tmp_path, 100_000)
