"""Encoders of series: what they say, and on which scale."""

import copy

import numpy as np
import pytest
import torch
import transformers

from m2fedsa.data.columns.tables import SeriesColumn
from m2fedsa.data.processors.series import SeriesProcessor
from m2fedsa.pretraining import Recipe
from m2fedsa.pretraining.series import make_series, rescale


def curves(number=30, length=24):
    """Waves of several frequencies, two channels."""
    draw, time = np.random.default_rng(0), np.arange(length) / length
    waves = draw.uniform(1, 4, (number, 1, 2)) * time[None, :, None] * 2 * np.pi
    return np.sin(waves) + 0.1 * draw.normal(size=(number, length, 2))


@pytest.mark.parametrize("epochs", [0, 2])
def test_features_spread_by_one(tmp_path, epochs):
    """Whatever the weights were drawn as: classifiers on them need no huge weights."""
    series = curves()
    column = SeriesColumn("curve", list(range(len(series))), lambda row: series[row], SeriesProcessor(1, 1))
    made = make_series(column, list(range(len(series))), 0, Recipe(epochs=epochs, width=16), tmp_path / "curve")
    model = transformers.AutoModel.from_pretrained(tmp_path / "curve").eval()
    inputs = SeriesProcessor(24, 2, made.facts["mean"], made.facts["deviation"])(list(series))
    with torch.no_grad():
        features = model(**inputs).last_hidden_state.mean(2).flatten(1)
    assert float(features.var(0, correction=0).mean().sqrt()) == pytest.approx(1, abs=0.05)


def test_rescaling_multiplies_what_an_encoder_says_and_changes_nothing_else():
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=24, patch_length=4, patch_stride=4, d_model=16, num_hidden_layers=2, num_attention_heads=4,
        ffn_dim=32, norm_type="layernorm", norm_eps=0.0, scaling=None, do_mask_input=False, use_cls_token=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.PatchTSTModel(config).double().eval()
    larger, inputs = copy.deepcopy(model), torch.from_numpy(curves(3))
    rescale(larger, 40.0)
    with torch.no_grad():
        found, expected = (one(past_values=inputs).last_hidden_state for one in (larger, model))
    assert torch.allclose(found, 40 * expected, rtol=1e-9)
