"""Encoders of records and of series."""

import torch
from tests.unit.models.zoo import Inputs, Specimen, generator, row


def series() -> Inputs:
    """3 samples, 24 steps, 2 channels."""
    return {"past_values": torch.randn(3, 24, 2, generator=generator())}


def records() -> Inputs:
    """3 samples, 5 columns: numbers (code 1), categories and an empty cell (code 0)."""
    codes = torch.tensor([[1, 1, 2, 4, 1], [1, 0, 3, 5, 1], [1, 1, 2, 5, 0]])
    return {"codes": codes, "values": torch.randn(3, 5, generator=generator()) * (codes == 1)}


RECORDS = {
    "PatchTST": Specimen(
        "PatchTST",
        {"num_input_channels": 2, "context_length": 24, "patch_length": 4, "patch_stride": 4, "d_model": 32, "ffn_dim": 64,
         "num_hidden_layers": 4, "num_attention_heads": 4},
        series, row("encoder.layers", 4), ("ff.0", "ff.3"), "channels",
    ),
    "TabularModel": Specimen(
        "Tabular",
        {"num_columns": 5, "num_codes": 7, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4},
        records, row("layers", 4), ("mlp", "mlp"),
    ),
}  # fmt: skip
