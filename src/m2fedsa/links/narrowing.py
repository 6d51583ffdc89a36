"""A link of one process on which numbers are rounded as over a network with narrow widths (`[wire]`)."""

from dataclasses import dataclass
from typing import TypeVar

from m2fedsa.config import Width, Wire
from m2fedsa.links.around import AroundSession
from m2fedsa.links.port import Link, Session
from m2fedsa.links.wire import decode, encode
from m2fedsa.messages import ActivationGradients, Activations, EvaluationReply, EvaluationRequest, Features, Gradients

Message = TypeVar("Message")


def narrowing(link: Link, wire: Wire) -> Link:
    """The link itself where nothing is narrow."""
    return link if wire == Wire() else _Link(link, wire)


@dataclass(frozen=True)
class _Session(AroundSession):
    wire: Wire

    def forward(self, activations: Activations) -> Features:
        return _passed(self.inner.forward(_passed(activations, self.wire.up)), self.wire.down)

    def backward(self, gradients: Gradients) -> ActivationGradients:
        return _passed(self.inner.backward(_passed(gradients, self.wire.up)), self.wire.down)


@dataclass(frozen=True)
class _Link:
    inner: Link
    wire: Wire

    def session(self, client: str, round_number: int) -> Session:
        return _Session(self.inner.session(client, round_number), self.wire)

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        return _passed(self.inner.evaluate(client, _passed(request, self.wire.up)), self.wire.down)


def _passed(message: Message, width: Width) -> Message:
    """As it arrives."""
    return decode(encode(message, width).whole(), type(message))
