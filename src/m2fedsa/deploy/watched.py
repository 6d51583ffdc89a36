"""A link and samples that say whenever a task has got on by a step. What is heard while an answer is awaited, the link itself says."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from m2fedsa.data.samples import Samples
from m2fedsa.links.around import AroundSession
from m2fedsa.links.port import Link, Session
from m2fedsa.messages import ActivationGradients, Activations, EvaluationReply, EvaluationRequest, Features, Gradients

Tick = Callable[[], None]


@dataclass(frozen=True)
class WatchedSession(AroundSession):
    """See `links.port.Session`."""

    tick: Tick

    def forward(self, activations: Activations) -> Features:
        """See `links.port.Session.forward`."""
        self.tick()
        return self.inner.forward(activations)

    def backward(self, gradients: Gradients) -> ActivationGradients:
        """See `links.port.Session.backward`."""
        self.tick()
        return self.inner.backward(gradients)


@dataclass(frozen=True)
class WatchedLink:
    """See `links.port.Link`."""

    inner: Link
    tick: Tick

    def session(self, client: str, round_number: int) -> Session:
        """See `links.port.Link.session`."""
        self.tick()
        return WatchedSession(self.inner.session(client, round_number), self.tick)

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        """See `links.port.Link.evaluate`."""
        self.tick()
        return self.inner.evaluate(client, request)


@dataclass(frozen=True)
class WatchedSamples:
    """See `data.samples.Samples`."""

    inner: Samples
    tick: Tick

    @property
    def modalities(self) -> tuple[str, ...]:
        """See `Samples.modalities`."""
        return self.inner.modalities

    @property
    def labels(self) -> Tensor:
        """See `Samples.labels`."""
        return self.inner.labels

    @property
    def presence(self) -> Tensor:
        """See `Samples.presence`."""
        return self.inner.presence

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        self.tick()
        return self.inner.inputs(modality, rows)
