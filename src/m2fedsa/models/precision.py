"""Where and how exactly an encoder computes: its device, the type of its frozen weights, its kind of attention.

What was measured (docs/benchmarks.md): in bfloat16 on a CPU the backward pass of the fused attention is slow, plain products are not; in
float32, and on a GPU, the fused one is the faster.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from m2fedsa.config import Compute
from m2fedsa.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def device_of(settings: Compute) -> torch.device:
    """The device that the settings mean. `ConfigError` for a GPU that is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('compute.device = "cuda", but there is no GPU that PyTorch can use here. Set "auto" or "cpu".')
    wanted = settings.device
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)


def attention_of(settings: Compute, device: torch.device) -> Literal["sdpa", "eager"] | None:
    """The kind of attention that the settings mean; None leaves an encoder its own."""
    if settings.attention != "auto":
        return settings.attention
    return "eager" if settings.precision == "bfloat16" and device.type == "cpu" else None


def prepared(model: "PreTrainedModel", settings: Compute) -> "PreTrainedModel":
    """The encoder on its device, in its precision, with its attention. A caller's own model stays what it was where nothing is asked.

    `ConfigError` for a kind of attention that the encoder does not have.
    """
    attend(model, settings)
    placed: nn.Module = model
    placed.to(**place_and_type(settings))
    return model


def place_and_type(settings: Compute) -> dict[str, Any]:
    """What `to` is told of an encoder, or of a side of one. `ConfigError` for a type in which the device does not compute."""
    device, half = device_of(settings), settings.precision == "bfloat16"
    if half and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f'compute.precision = "bfloat16", in which {torch.cuda.get_device_name(device)} does not compute. Set "float32", or '
            'device = "cpu".'
        )
    return {"device": device, "dtype": torch.bfloat16 if half else None}


def attend(model: Any, settings: Compute) -> None:
    """Let an encoder attend as the settings mean. `ConfigError` if they name a kind that it does not have."""
    kind = attention_of(settings, device_of(settings))
    if kind is not None:
        try:
            model.set_attn_implementation(kind)
        except (ValueError, ImportError, AttributeError) as error:
            if settings.attention != "auto":
                raise ConfigError(f'compute.attention = "{kind}", which {type(model).__name__} does not have. Set "auto".') from error


def fed(model: "PreTrainedModel", inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder inputs where the model is, and of its type where they are no whole numbers."""
    return {name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype) for name, value in inputs.items()}
