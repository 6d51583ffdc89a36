"""What trains beside the frozen encoders: the bottleneck adapter in both of its uses, and the classifiers.

B batch, T tokens, D width, R bottleneck, K classes; `...` stands for (B, T) or for whatever surrounds the channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive


class Dropout(nn.Module):
    """Dropout whose mask comes from `generator`: equal generators, equal masks.

    It is active when a generator is set and at no other time; `train()` and `eval()` mean nothing to it, because the encoders around
    it are in evaluation mode always. The mask is drawn in float32 on the generator's device, so it does not depend on the precision.
    """

    def __init__(self, probability: float = 0.1) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ConfigError(f"dropout = {probability}, but a probability of at least 0 and below 1 is needed")
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x with each entry zero with probability p, else divided by 1 - p; x itself where no generator is set."""
        if self.generator is None or self.probability == 0:
            return x
        drawn = torch.rand(x.shape, generator=self.generator, device=self.generator.device, dtype=torch.float32)
        scale = (drawn >= self.probability).to(x.device, x.dtype) / (1 - self.probability)
        return x * scale


class Adapter(nn.Module):
    """The bottleneck of both adapters: up(dropout(GELU(update(dropout(GELU(down(x))))))).

    Whoever calls it adds the result: MA is `h + MA(h)` at the end of the head, TA runs in parallel to a feed-forward part. `up` starts
    at zero, so an adapted encoder is the pretrained one until the first step, exactly. `axis` is the dimension that holds the
    channels: -1 for tokens (..., D), 1 for maps (B, D, H, W), where this is a chain of 1x1 convolutions.
    """

    def __init__(self, width_in: int, width_out: int, bottleneck: int, dropout: float = 0.1, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        # Made on meta first: the default start of a linear layer would draw from the global generator.
        with torch.device("meta"):
            self.down = nn.Linear(width_in, bottleneck)
            self.update = nn.Linear(bottleneck, bottleneck)
            self.up = nn.Linear(bottleneck, width_out)
        self.to_empty(device="cpu")
        self.dropout = Dropout(dropout)
        initialise(self, seed=0, modality="", kind="")

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) -> (..., D_out), or the same on dimension `axis`; the bottleneck's output alone, without the residual."""
        given = x.dtype
        # What trains stays in its own precision, whatever that of the frozen encoder around it.
        x = x.to(self.down.weight.dtype) if self.axis == -1 else x.to(self.down.weight.dtype).movedim(self.axis, -1)
        x = self.dropout(functional.gelu(self.down(x)))
        x = self.dropout(functional.gelu(self.update(x)))
        x = self.up(x).to(given)
        return x if self.axis == -1 else x.movedim(-1, self.axis)


@torch.no_grad()
def initialise(adapter: Adapter, seed: int, modality: str, kind: str) -> None:
    """Set the start of an adapter of `kind` ("ma" or "ta"), drawn from `seed` and names alone.

    `down` differs between modalities and kinds. `update` is drawn without the modality's name: it is averaged over modalities, and an
    average of unrelated starts would undo itself. Both have variance 2 / inputs (He et al. 2015: GELU passes about half); biases and
    `up` are zero.
    """
    nn.init.kaiming_normal_(adapter.down.weight, nonlinearity="relu", generator=derive(seed, "adapter", kind, "down", modality))
    nn.init.kaiming_normal_(adapter.update.weight, nonlinearity="relu", generator=derive(seed, "adapter", kind, "update"))
    for tensor in (adapter.down.bias, adapter.update.bias, adapter.up.weight, adapter.up.bias):
        nn.init.zeros_(tensor)


class Classifier(nn.Module):
    """C_m and C_f: dropout, then a linear map with bias. Starts at zero: uniform logits, and late fusion untouched by C_f."""

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.dropout = Dropout(dropout)

    def forward(self, features_BD: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, K)."""
        return functional.linear(self.dropout(features_BD), self.weight, self.bias)
