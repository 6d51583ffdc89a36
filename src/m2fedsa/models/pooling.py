"""From an encoder's output to one vector per sample.

B batch, T tokens, D width, H W height and width of a map.
"""

from typing import Any

import torch
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.architectures import Pooling, architecture


def pool(encoder: nn.Module, output: Any, pooling: Pooling, mask: Tensor | None) -> Tensor:
    """z (B, D_z) from the output of `encoder` and the mask that it was given.

    "pooler" is the model's own, "cls" its first token, "mean" the mean over tokens (over those with mask 1; of a series those of each
    channel) or over a map, "last" the last token (the last with mask 1). Raises `CutError` where the model offers no such thing.
    """
    if pooling == "pooler":
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            raise CutError(f"pooling = 'pooler', but {type(encoder).__name__} has no pooler: use 'mean' or 'cls'")
        return pooled.flatten(1)
    hidden: Tensor | None = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise CutError(f"{type(encoder).__name__} puts out no last_hidden_state to pool. Choose the plain encoder of its family.")
    if pooling == "cls":
        return _tokens(hidden, pooling)[:, 0]
    if pooling == "last":
        return _last(_tokens(hidden, pooling), _token_mask(encoder, mask, hidden.shape[1]))
    if pooling != "mean":
        raise CutError(f"pooling = {pooling!r}, but it is one of 'pooler', 'mean', 'cls', 'last'")
    if hidden.dim() == 4 and architecture(str(getattr(getattr(encoder, "config", None), "model_type", ""))).channels:
        return hidden.mean(2).flatten(1)
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    mask_BT = _token_mask(encoder, mask, hidden.shape[1])
    return hidden.mean(1) if mask_BT is None else _masked_mean(hidden, mask_BT)


def token_of(pooling: Pooling, mask: Tensor | None, rows: int) -> Tensor:
    """(B,) int64: the place of the token that is read, where one is; -1 is the last. A pooler is taken to read the first."""
    if pooling != "last":
        return torch.zeros(rows, dtype=torch.int64)
    return torch.full((rows,), -1) if mask is None else _last_place(mask)


def at_token(hidden_BTD: Tensor, places_B: Tensor) -> Tensor:
    """(B, 1, D): one token of each sample."""
    return hidden_BTD[torch.arange(len(places_B), device=places_B.device), places_B].unsqueeze(1)


def _last_place(mask_BT: Tensor) -> Tensor:
    return (mask_BT * torch.arange(mask_BT.shape[1], device=mask_BT.device)).argmax(1)


def _tokens(hidden: Tensor, pooling: Pooling) -> Tensor:
    if hidden.dim() != 3:
        raise CutError(f"pooling = {pooling!r} needs tokens (B, T, D), but this encoder puts out {tuple(hidden.shape)}: use 'mean'")
    return hidden


def _last(hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    if mask_BT is None:
        return hidden_BTD[:, -1]
    return at_token(hidden_BTD, _last_place(mask_BT)).squeeze(1)


def _masked_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)


def _token_mask(encoder: nn.Module, mask: Tensor | None, tokens: int) -> Tensor | None:
    """The mask (B, T) over the tokens that a model puts out, from the one it was given.

    Text has one entry per token in both. Audio encoders on waveforms are given one per audio sample and know how long their frames are.
    """
    if mask is None or mask.shape[1] == tokens:
        return mask
    frames = getattr(encoder, "_get_feature_vector_attention_mask", None)
    if frames is None:
        raise CutError(f"the mask given to {type(encoder).__name__} has {mask.shape[1]} entries a sample, but it puts out {tokens} tokens")
    reduced: Tensor = frames(tokens, mask)
    return reduced
