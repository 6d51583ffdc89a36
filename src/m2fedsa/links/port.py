"""The port from a client to the main server.

A step is `forward`, then `backward`: two messages up, two down. The client keeps inputs, labels, logits and losses. An implementation
moves the messages of `m2fedsa.messages` unchanged: what arrives has the dtype, shape, memory layout and bits of what was sent (unless a
narrower wire format was asked for), and the main server's errors reach the client as the same class with the same text.
"""

from types import TracebackType
from typing import Protocol, Self

from m2fedsa.messages import ActivationGradients, Activations, EvaluationReply, EvaluationRequest, Features, Gradients


class Session(Protocol):
    """One client's part in one round: its own copies of the task adapters and of fusion, on the main server."""

    def forward(self, activations: Activations) -> Features:
        """Encode the rest and fuse. `DivergedError` if a feature is not finite; `ProtocolError` if a backward is due, for a client or
        modality that is not on the round's roster, or once the session was opened anew or its round has ended."""

    def backward(self, gradients: Gradients) -> ActivationGradients:
        """Finish the step that the last `forward` began: step the copies, return the gradients at the cut. `DivergedError` if a
        gradient is not finite (the copies are not stepped)."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close. A session that is left by an error does not count, whatever the fed server accepts."""


class Link(Protocol):
    """A client's way to the main server."""

    def session(self, client: str, round_number: int) -> Session:
        """Open the client's part in a round. `ProtocolError` unless the fed server has begun that round with this client."""

    def evaluate(self, client: str, request: EvaluationRequest) -> EvaluationReply:
        """Features in evaluation mode from the global tensors after round `request.at`; changes nothing. `ProtocolError` if the main
        server no longer has, or does not yet have, the tensors of that round."""
