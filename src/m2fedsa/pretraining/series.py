"""An encoder of series: PatchTST of transformers for a manifest's length and channels, which guesses hidden patches.

R rows, T readings, C channels, P patches of L readings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from m2fedsa.data.columns.tables import SeriesColumn
from m2fedsa.data.processors.series import KIND, SeriesProcessor
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.pretraining import Made, Recipe, write_encoder
from m2fedsa.pretraining.steps import Guess, pretrain
from m2fedsa.seeding import derive_seed

if TYPE_CHECKING:
    from transformers import PatchTSTModel

PATCHES = 16
"""That a series is cut into, as nearly as its length divides."""
_HEADS, _WIDER = 4, 2
_ADDED = ("input_embedding.", "position_enc", ".out_proj.", ".ff.3.")
"""What is added to the state that goes from block to block."""
_LEAST = 1e-3
"""Features that spread by less are those of series that are all alike."""


def make_series(column: SeriesColumn, used: Sequence[int], length: int, recipe: Recipe, folder: Path) -> Made:
    """Make an encoder of the series in `column` from the rows `used`, and write it to `folder`.

    length: readings that it takes; 0 for as many as the longest has. Errors: DataError for a series that cannot be read, or of other
    channels than the first; ConfigError for a width that the heads do not divide.
    """
    from transformers import PatchTSTConfig, PatchTSTModel

    if recipe.width % _HEADS:
        raise ConfigError(f"--width {recipe.width}: the width is divided among {_HEADS} heads; choose a multiple of {_HEADS}")
    series = [_read(column, row) for row in used]
    channels = series[0].shape[1]
    for row, one in zip(used, series, strict=True):
        if one.shape[1] != channels:
            raise DataError(f"row {row + 1}, {column.name}: the series has {one.shape[1]} channels, but the first one {channels}.")
    length = length or max(map(len, series))
    mean, deviation = _scale(series)
    patch = max(1, length // PATCHES)
    config = PatchTSTConfig(
        num_input_channels=channels,
        context_length=length,
        patch_length=patch,
        patch_stride=patch,
        d_model=recipe.width,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=_HEADS,
        ffn_dim=_WIDER * recipe.width,
        norm_type="layernorm",
        scaling=None,  # its processor scales: the height of a series tells something
        do_mask_input=False,
        use_cls_token=False,
        attention_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "encoder", "series"))
        model, guess = PatchTSTModel(config), _Patches(recipe.width, patch)
    inputs = SeriesProcessor(length, channels, mean, deviation)(series)
    first, last = pretrain(model, guess, inputs, recipe)
    rescale(model, 1 / max(_spread(model, inputs, recipe), _LEAST))
    facts = {"processor_class": KIND, "mean": list(mean), "deviation": list(deviation)}
    write_encoder(model, facts, folder, {"rows": len(used), **asdict(recipe), "error_before": first, "error_after": last})
    return Made(
        folder, sum(one.numel() for one in model.parameters()), len(used), {**facts, "length": length, "channels": channels}, first, last
    )


@torch.no_grad()
def _spread(model: "PatchTSTModel", inputs: Mapping[str, Tensor], recipe: Recipe) -> float:
    """Standard deviation of the features of these series, the mean over patches, over all of their dimensions."""
    number = len(inputs["past_values"])
    chunks = [slice(start, start + recipe.batch_size) for start in range(0, number, recipe.batch_size)]
    found = [model(**{name: value[rows] for name, value in inputs.items()}).last_hidden_state.mean(2) for rows in chunks]
    return float(torch.cat(found).double().var(0, correction=0).mean().sqrt())


@torch.no_grad()
def rescale(model: "PatchTSTModel", factor: float) -> None:
    """Multiply what an encoder says, and change nothing else: each block looks at its input through a norm and adds to it, so everything
    that is added is multiplied. Features of which a classifier of tiny ones would need huge weights, which no step of training is small
    enough for, then spread by 1."""
    for name, tensor in model.named_parameters():
        if any(part in name for part in _ADDED):
            tensor.mul_(factor)


def _read(column: SeriesColumn, row: int) -> np.ndarray:
    try:
        return column.read(row)
    except DataError as error:
        raise DataError(f"row {row + 1}, {column.name}: {error}") from error


def _scale(series: Sequence[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over all readings that were made."""
    whole_RC = np.concatenate(series).astype(np.float64)
    with np.errstate(all="ignore"):
        mean, deviation = np.nanmean(whole_RC, 0), np.nanstd(whole_RC, 0)
    return tuple(np.nan_to_num(mean).tolist()), tuple(np.where(deviation > 0, np.nan_to_num(deviation), 1.0).tolist())


class _Patches(Guess):
    """Hidden patches: their readings."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.readings = nn.Linear(width, patch)

    def error(self, model: nn.Module, inputs: dict[str, Tensor], share: float, generator: torch.Generator) -> Tensor:
        """Squared error of the readings that were made, the mean over the hidden patches."""
        values_BTC, seen_BTC = inputs["past_values"], inputs["past_observed_mask"]
        patches_BCPL = values_BTC.transpose(1, 2).unfold(-1, self.patch, self.patch)
        # PatchTST leaves out what does not fill a patch at the beginning.
        spare = values_BTC.shape[1] - patches_BCPL.shape[2] * self.patch
        patches_BCPL = values_BTC[:, spare:].transpose(1, 2).unfold(-1, self.patch, self.patch)
        seen_BCPL = seen_BTC[:, spare:].transpose(1, 2).unfold(-1, self.patch, self.patch)
        hidden_BCP = torch.rand(patches_BCPL.shape[:3], generator=generator) < share
        covered = hidden_BCP.repeat_interleave(self.patch, -1).transpose(1, 2)
        shown_BTC = values_BTC.clone()
        shown_BTC[:, spare:] = values_BTC[:, spare:].masked_fill(covered, 0.0)
        state_BCPD = model(past_values=shown_BTC, past_observed_mask=seen_BTC).last_hidden_state
        wrong = (self.readings(state_BCPD) - patches_BCPL).square()
        counted = hidden_BCP[..., None] & seen_BCPL
        return torch.where(counted, wrong, 0.0).sum() / counted.sum().clamp(min=1)
