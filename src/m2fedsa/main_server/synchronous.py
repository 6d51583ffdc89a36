"""One shared copy that is stepped by the mean of all clients' gradients: of their first steps, then of their second ones, and so on.

The clients go side by side. A backward adds to the sums of its step; whoever is first to begin the next one steps what was summed.
"""

from dataclasses import dataclass, field

from torch import Tensor

from m2fedsa.main_server.copies import Copies, Pass
from m2fedsa.messages import Activations, RoundPlan


@dataclass
class Synchronous(Copies):
    """A tensor's gradient is the mean over the batches that have one for it, weighted by their samples: as one great batch has it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    at: int = 1
    """the step that is being summed"""

    def forward(self, activations: Activations, plan: RoundPlan, number: int) -> Pass:
        """See `Copies.forward`."""
        if number > self.at:
            self.advance(plan)
            self.at = number
        return super().forward(activations, plan, number)

    def _learn(self, samples: int, plan: RoundPlan) -> None:  # noqa: ARG002  (the plan counts when the step is done)
        for name, parameter in self.parts.trained().items():
            assert parameter.grad is not None
            gradient = samples * parameter.grad
            self.sums[name] = self.sums[name] + gradient if name in self.sums else gradient
            self.weights[name] = self.weights.get(name, 0) + samples
        self.parts.clear()

    def advance(self, plan: RoundPlan) -> None:
        """Step by what was summed, if anything was."""
        for name, total in self.sums.items():
            self.parts.tensors[name].grad = total / self.weights[name]
        self.sums, self.weights = {}, {}
        self._update(plan)
        self.parts.clear()
