"""Encoders of well-known shapes with random weights: what storage, compute and traffic are measured on where no checkpoint is at hand.

Each is the published configuration under its usual name; the weights are drawn once and for all from the name.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from m2fedsa.errors import WeightsError
from m2fedsa.seeding import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANDOM = "random:"


def drawn(name: str) -> "PreTrainedModel":
    """The encoder of this shape in float32, as its own family initialises it, without the pooler that text does not use.

    The same weights in every process; global randomness stays as it was. Raises `WeightsError` for a shape that is not known.
    """
    if name not in SHAPES:
        raise WeightsError(f"{RANDOM}{name} is not known; there are {', '.join(f'{RANDOM}{known}' for known in SHAPES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "shapes", name))
        return SHAPES[name]()


def _swin_tiny() -> "PreTrainedModel":
    """microsoft/swin-tiny-patch4-window7-224."""
    from transformers import SwinConfig, SwinModel

    return SwinModel(SwinConfig(image_size=224, patch_size=4, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7))


def _roberta_base() -> "PreTrainedModel":
    """FacebookAI/roberta-base."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    return RobertaModel(config, add_pooling_layer=False)


def _ast_base() -> "PreTrainedModel":
    """MIT/ast-finetuned-speech-commands-v2: clips of 128 frames (1.3 s)."""
    from transformers import ASTConfig, ASTModel

    return ASTModel(ASTConfig(max_length=128, num_mel_bins=128, frequency_stride=10, time_stride=10))


SHAPES: Mapping[str, Callable[[], "PreTrainedModel"]] = {
    "swin-tiny": _swin_tiny,
    "roberta-base": _roberta_base,
    "ast-base": _ast_base,
}
