"""`m2fedsa deploy explain`: every kind of message that leaves a client's site, made from its own folder, with its content and size.

A client, the main server and the fed server's tasks are put together in this process from their folders, and every message is encoded as
it would travel. Nothing is sent, and nothing in the folders changes.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from m2fedsa.assembly import cpu_threads
from m2fedsa.client import Client
from m2fedsa.config import Width
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.places import CLIENT_TOML, FED_SERVER, MAIN_SERVER, client_folders
from m2fedsa.deploy.programs import ClientProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.deploy.site import client_of
from m2fedsa.deploy.trunk import main_server_of
from m2fedsa.errors import ConfigError, M2FedSAError
from m2fedsa.fed_server import FedServer
from m2fedsa.fed_server.warm import warm_start
from m2fedsa.links import wire
from m2fedsa.links.around import AroundSession
from m2fedsa.links.narrowing import narrowing
from m2fedsa.links.port import Link, Session
from m2fedsa.links.talk import Close, Open
from m2fedsa.main_server import MainServer
from m2fedsa.messages import (
    ActivationGradients,
    Activations,
    EvaluationReply,
    EvaluationRequest,
    Failure,
    Features,
    Gradients,
    KeepResult,
    Result,
    Task,
)

_SHOWN = 3
"""Values of a tensor that are told."""
PURPOSES: Mapping[str, tuple[str, str]] = {
    "Open": ("main server", "begins a stream: who, and for which round; a token goes with it"),
    "Close": ("main server", "ends a stream"),
    "EvaluationRequest": ("main server", "features without training: warm start, validation, test, predictions"),
    "Activations": ("main server", "first message of a step: what the tails go on from"),
    "Gradients": ("main server", "third message of a step: how the loss depends on the features"),
    "SumsResult": ("fed server", "warm start: sums from which classifiers come in closed form"),
    "JudgeResult": ("fed server", "warm start: losses of candidate classifiers"),
    "TrainResult": ("fed server", "result of a round: trained tensors, losses, numbers of samples"),
    "EvaluateResult": ("fed server", "confusion matrices and counted scores"),
    "Failure": ("fed server", "in place of a result: an error and its text, which can name files of the site"),
    "KeepResult": ("fed server", "end of the run: the client has what it predicts with"),
}
"""message -> to whom, and what for"""


@dataclass(frozen=True)
class Example:
    """A message that was made here."""

    name: str
    to: str
    purpose: str
    client: str
    nbytes: int
    content: tuple[tuple[str, str], ...]
    """field -> what stands in it"""


@dataclass
class Recording:
    """The first message of each kind."""

    up: Width
    """how numbers travel to the main server"""
    found: dict[str, Example] = field(default_factory=dict)

    def add(self, client: str, message: object) -> None:
        """Keep it, if it is the first of its kind."""
        name = type(message).__name__
        if name not in self.found:
            to, purpose = PURPOSES[name]
            sent = wire.encode(message, self.up if to == "main server" else "float32")
            arrived = wire.decode(sent.whole(), type(message))
            self.found[name] = Example(name, to, purpose, client, sent.nbytes, tuple(content_of(arrived)))


@dataclass(frozen=True)
class _Session(AroundSession):
    client: str
    recording: Recording

    def forward(self, activations: Activations) -> Features:
        self.recording.add(self.client, activations)
        return self.inner.forward(activations)

    def backward(self, gradients: Gradients) -> ActivationGradients:
        self.recording.add(self.client, gradients)
        return self.inner.backward(gradients)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        super().__exit__(kind, error, traceback)
        self.recording.add(self.client, Close(in_order=kind is None))


@dataclass(frozen=True)
class _Link:
    inner: Link
    recording: Recording

    def session(self, client: str, round_number: int) -> Session:
        self.recording.add(client, Open(version("m2fedsa"), client, round_number))
        return _Session(self.inner.session(client, round_number), client, self.recording)

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        self.recording.add(client, request)
        return self.inner.evaluate(client, request)


def explain(directory: Path) -> list[Example]:
    """An example of each message that leaves a site. `ConfigError` if the directory lacks a party's folder."""
    folders = client_folders(directory)
    if not folders or not (directory / MAIN_SERVER).is_dir() or not (directory / FED_SERVER).is_dir():
        raise ConfigError(f"{directory}: all parties' folders are needed to make messages. Name what `m2fedsa deploy init` wrote.")
    drawing = Drawing.read(directory / FED_SERVER)
    with cpu_threads(drawing.blueprint.config.compute.threads):
        return _examples(directory, drawing, folders)


def _examples(directory: Path, drawing: Drawing, folders: Mapping[str, Path]) -> list[Example]:
    widths = drawing.blueprint.config.wire
    recording = Recording(widths.up)
    main_server = main_server_of(directory / MAIN_SERVER, drawing)
    main_server.store = None
    fed_server = FedServer(drawing.blueprint, Registry.read(directory / FED_SERVER).clients())
    clients: dict[str, Client] = {}

    def ask(tasks: Sequence[Task]) -> list[Any]:
        answers: list[Result] = []
        for task in tasks:
            if task.client not in folders:
                continue
            if task.client not in clients:
                program = read_program(folders[task.client] / CLIENT_TOML, ClientProgram)
                link = _Link(narrowing(main_server, widths), recording)
                clients[task.client] = client_of(folders[task.client], program.name, tuple(program.modalities), link)
                clients[task.client].shared.checkpoint = None
            answers.append(clients[task.client].perform(task))
            recording.add(task.client, answers[-1])
        return answers

    if drawing.blueprint.config.federation.warm_start:
        warm_start(fed_server, ask)
    _train(fed_server, main_server, ask, recording)
    ask([*fed_server.evaluation("validation"), *fed_server.evaluation("test")][:1])
    name = next(iter(folders))
    recording.add(name, KeepResult(name))
    return [recording.found[name] for name in PURPOSES if name in recording.found]


def _train(fed_server: FedServer, main_server: MainServer, ask: Any, recording: Recording) -> None:
    """One client's part in a round; and the same once more when the round is over, which fails."""
    plan, tasks = fed_server.begin_round()
    main_server.begin(plan)
    widest = max(tasks, key=lambda task: len(plan.roster[task.client]))
    ask([widest])
    main_server.abort(plan.number)
    try:
        ask([widest])
    except M2FedSAError as error:
        recording.add(widest.client, Failure(widest.client, type(error).__name__, str(error)))


def content_of(message: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Each field of a message and what stands in it: of tensors type, shape and first values."""
    if isinstance(message, Tensor):
        yield place, _tensor(message)
    elif isinstance(message, Mapping):
        for key, value in message.items():
            yield from content_of(value, f"{place}[{'+'.join(key) or 'all' if isinstance(key, tuple) else key}]")
    elif dataclasses.is_dataclass(message) and not isinstance(message, type):
        for one in dataclasses.fields(message):
            yield from content_of(getattr(message, one.name), f"{place}.{one.name}" if place else one.name)
    else:
        text = str(message)
        yield place, text if len(text) < 80 else f"{text[:77]}..."


def _tensor(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    values = tensor.detach().flatten()[:_SHOWN]
    told = ", ".join(f"{value:.4g}" if torch.is_floating_point(tensor) else str(value) for value in values.tolist())
    return f"{kind} {tuple(tensor.shape)}: {told}{', …' if tensor.numel() > _SHOWN else ''}"
