"""An encoder of records: a small transformer over columns (Gorishniy et al. 2021, 2022), as `m2fedsa encoder tabular` makes it.

Every column is a token: what its cell is (a number, a category, nothing) and, of a number, its value in sines and cosines of several
frequencies. Its weights lie in a folder as those of any encoder of transformers, and it is cut like those.

B batch, C columns, D width, F frequencies, H heads.
"""

import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

NUMBER = 1
"""The code of a cell that holds a number."""


class TabularConfig(transformers.PretrainedConfig):
    """Sizes of a `TabularModel`."""

    model_type = "m2fedsa_tabular"

    def __init__(
        self,
        num_columns: int = 1,
        num_codes: int = 4,
        hidden_size: int = 64,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        intermediate_size: int = 128,
        frequencies: int = 16,
        sigma: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """num_codes: of all cells, see `data.processors.tabular`, and one for cells that pretraining hides. sigma: of the frequencies that
        numbers begin with, in periods per standard deviation."""
        self.num_columns, self.num_codes = num_columns, num_codes
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.frequencies, self.sigma = frequencies, sigma
        super().__init__(**kwargs)


class Numbers(nn.Module):
    """Values (B, C) -> (B, C, D): of each column the value itself, and sines and cosines of it, through weights of its own."""

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.frequency = nn.Parameter(config.sigma * torch.randn(config.num_columns, config.frequencies))
        features = 2 * config.frequencies + 1
        self.weight = nn.Parameter(torch.randn(config.num_columns, features, config.hidden_size) / math.sqrt(features))

    def forward(self, values_BC: Tensor) -> Tensor:
        """See the class."""
        angle_BCF = 2 * math.pi * values_BC[..., None] * self.frequency
        features_BCF = torch.cat([values_BC[..., None], angle_BCF.sin(), angle_BCF.cos()], -1)
        return torch.einsum("bcf,cfd->bcd", features_BCF, self.weight)


class Attention(nn.Module):
    """Between the columns of a record."""

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.into = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BCD: Tensor) -> Tensor:
        """(B, C, D)."""
        query, key, value = self.into(hidden_BCD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed_BHCd = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed_BHCd.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention, then a feed-forward part, both beside the residual stream."""

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, config.hidden_size)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, D)."""
        hidden_states = hidden_states + self.attention(self.norm_attention(hidden_states))
        out: Tensor = hidden_states + self.mlp(self.norm_mlp(hidden_states))
        return out


class TabularModel(transformers.PreTrainedModel):
    """Codes and values (B, C) -> `last_hidden_state` (B, C, D)."""

    config_class = TabularConfig
    main_input_name = "codes"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.code_embedding = nn.Embedding(config.num_codes, config.hidden_size)
        self.column_embedding = nn.Parameter(torch.randn(config.num_columns, config.hidden_size))
        self.numbers = Numbers(config)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]  # a method of transformers'

    def _init_weights(self, module: nn.Module) -> None:
        """As torch draws them: an encoder that nobody pretrained has random features of its columns, and those are of use."""

    def forward(self, codes: Tensor, values: Tensor) -> BaseModelOutput:
        """See the class. codes: int64, what each cell is. values: float, read where the code says that it is a number."""
        hidden_BCD = self.code_embedding(codes) + self.column_embedding
        hidden_BCD = hidden_BCD + self.numbers(values) * (codes == NUMBER)[..., None]
        for layer in self.layers:
            hidden_BCD = layer(hidden_BCD)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_BCD))


transformers.AutoConfig.register(TabularConfig.model_type, TabularConfig)
transformers.AutoModel.register(TabularConfig, TabularModel)
