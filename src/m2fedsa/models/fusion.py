"""Fusion of the modalities of one sample: attention over one token per modality, and all pairwise products.

B batch, M modalities, F fusion width, D_m width of the pooled features of modality m, B_m samples of the batch that have m. Inside the
network tokens lie as (M, B, F), the order that PyTorch's attention works in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2fedsa.errors import ConfigError, ProtocolError
from m2fedsa.seeding import derive


@dataclass(frozen=True, eq=False)
class FusionOutput:
    """What fusion makes of a batch."""

    fused: Tensor
    """f (B, F) = f_att + bilinear part; zero in rows where no modality enters"""
    attention: Tensor
    """f_att (B, F), in the space of the tokens: the teacher of the feature-level transfer"""
    tokens: dict[str, Tensor]
    """t_m (B_m, F) of every row in `rows[m]`, entering or not"""


class FusionBlock(nn.Module):
    """A pre-norm transformer block over the modalities: x + A(LN(x)), then x + W₂ GELU(W₁ LN(x)) unless `feed_forward` is 0.

    Attention is PyTorch's, called as a function: the module of the same name computes other bits in evaluation than in training.
    """

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads)
        self.feed_forward = feed_forward
        if feed_forward:
            self.norm2 = nn.LayerNorm(width)
            self.linear1 = nn.Linear(width, feed_forward)
            self.linear2 = nn.Linear(feed_forward, width)

    def forward(self, tokens_MBF: Tensor, absent_BM: Tensor) -> Tensor:
        """The residual stream after this block; tokens of absent modalities are seen by no other."""
        tokens_MBF = tokens_MBF + self._attend(self.norm1(tokens_MBF), absent_BM)
        if self.feed_forward:
            tokens_MBF = tokens_MBF + self.linear2(functional.gelu(self.linear1(self.norm2(tokens_MBF))))
        return tokens_MBF

    def _attend(self, x_MBF: Tensor, absent_BM: Tensor) -> Tensor:
        part = self.attention
        attended_MBF, _ = functional.multi_head_attention_forward(
            x_MBF, x_MBF, x_MBF, part.embed_dim, part.num_heads, part.in_proj_weight, part.in_proj_bias,
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
            out_proj_weight=part.out_proj.weight, out_proj_bias=part.out_proj.bias,
            training=False, key_padding_mask=absent_BM, need_weights=False,
        )  # fmt: skip
        return attended_MBF


class Fusion(nn.Module):
    """f = f_att + LN(½[(Σ_m b_m)² - Σ_m b_m²]) from pooled features z_m, t_m = W_m z_m + e_m and b_m = B_m z_m.

    f_att is the mean, over the modalities that enter, of the residual stream of pre-norm blocks over the t_m. The bilinear part is the
    sum of all pairwise products (Kim et al. 2017, as a factorisation machine), zero for samples of one modality. Computes the same in
    training and evaluation. A tensor that no sample of the batch needs gets no gradient: None, not zero.
    """

    def __init__(
        self, widths: Mapping[str, int], width: int, blocks: int = 1, heads: int = 4, feed_forward: int = 512, bilinear: bool = True
    ) -> None:
        """widths: D_m by modality, in the run's order. width: F. feed_forward: hidden width of that part of a block, 0 for none."""
        super().__init__()
        _check_settings(widths, width, heads)
        self.modalities = tuple(widths)
        self.width = width
        # Made on meta first: PyTorch's own starts would draw from the global generator.
        with torch.device("meta"):
            self.token = nn.ModuleDict({name: nn.Linear(features, width) for name, features in widths.items()})
            self.blocks = nn.ModuleList(FusionBlock(width, heads, feed_forward) for _ in range(blocks))
            self.bilinear = nn.ModuleDict({n: nn.Linear(features, width, bias=False) for n, features in widths.items() if bilinear})
            self.bilinear_norm = nn.LayerNorm(width) if bilinear else None
        self.to_empty(device="cpu")
        self.initialise(0)

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """The parameters by their names in the run's flat mapping.

        W_m is `<m>.token.weight`, e_m `<m>.token.bias`, B_m `<m>.bilinear.weight`; the rest `fusion.blocks.0.attention.in_proj_weight`,
        `fusion.bilinear_norm.weight` and so on.
        """
        names: dict[str, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            part, modality, *rest = name.split(".")
            per_modality = part in ("token", "bilinear")
            names[".".join([modality, part, *rest]) if per_modality else f"fusion.{name}"] = parameter
        return names

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Set every tensor to its start, drawn from the seed and its own name: no modality's start depends on the others."""
        for name, parameter in self.named_tensors().items():
            generator = derive(seed, "fusion", name)
            if name.endswith(".token.bias"):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif not name.startswith("fusion."):
                # z of unit scale gives t and b of unit scale.
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
            elif parameter.dim() == 1:
                nn.init.constant_(parameter, float("norm" in name and name.endswith(".weight")))
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)

    def forward(self, pooled: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering_BM: Tensor) -> FusionOutput:
        """Fuse a batch.

        pooled: z_m (B_m, D_m) of the modalities present. rows: (B_m,) int64, the row of the batch that each row of z_m belongs to.
        entering_BM: bool, columns in the order of `widths`: which modalities take part; one that has features and does not enter has no
        influence. Raises `ProtocolError` where these do not fit each other.
        """
        self._check(pooled, rows, entering_BM)
        tokens = {name: self.token[name](z_BD) for name, z_BD in pooled.items()}
        attention_BF = self._attention(tokens, rows, entering_BM)
        several_B1 = entering_BM.sum(1, keepdim=True) >= 2
        if self.bilinear_norm is None or not several_B1.any():
            return FusionOutput(attention_BF, attention_BF, tokens)
        return FusionOutput(attention_BF + self._bilinear(pooled, rows, entering_BM & several_B1), attention_BF, tokens)

    def _attention(self, tokens: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering_BM: Tensor) -> Tensor:
        """f_att (B, F): the mean over the entering tokens of the residual stream after the last block."""
        places = _columns(entering_BM)
        if not places:
            return entering_BM.new_zeros(len(entering_BM), self.width, dtype=next(self.parameters()).dtype)
        entering_BM = entering_BM[:, places]
        columns = [self._column(tokens, rows, self.modalities[place], entering_BM[:, i]) for i, place in enumerate(places)]
        stream_MBF = torch.stack(columns)
        # Where nothing enters, attention over nothing would be NaN; over zeros it is finite and then left out.
        absent_BM = ~entering_BM & entering_BM.any(1, keepdim=True)
        for block in self.blocks:
            stream_MBF = block(stream_MBF, absent_BM)
        present_MB1 = entering_BM.T.unsqueeze(-1).to(stream_MBF.dtype)
        return (stream_MBF * present_MB1).sum(0) / present_MB1.sum(0).clamp(min=1)

    def _bilinear(self, pooled: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering_BM: Tensor) -> Tensor:
        """LN(½[(Σ_m b_m)² - Σ_m b_m²]) (B, F), zero in rows where none enters: those of a single modality."""
        assert self.bilinear_norm is not None
        places = _columns(entering_BM)
        factors = {name: self.bilinear[name](pooled[name]) for name in (self.modalities[place] for place in places)}
        b_MBF = torch.stack([self._column(factors, rows, self.modalities[place], entering_BM[:, place]) for place in places])
        products_BF = self.bilinear_norm((b_MBF.sum(0).square() - b_MBF.square().sum(0)) / 2)
        return torch.where(entering_BM.any(1, keepdim=True), products_BF, 0.0)

    def _column(self, values: Mapping[str, Tensor], rows: Mapping[str, Tensor], name: str, entering_B: Tensor) -> Tensor:
        """What one modality brings to each row of the batch (B, F), zero where it does not enter."""
        empty_BF = values[name].new_zeros(len(entering_B), self.width)
        return torch.where(entering_B.unsqueeze(1), empty_BF.index_copy(0, rows[name], values[name]), 0.0)

    def _check(self, pooled: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering_BM: Tensor) -> None:
        unknown = sorted(set(pooled) - set(self.modalities))
        if unknown:
            raise ProtocolError(f"fusion was given features of {unknown}, but it knows {list(self.modalities)}")
        if entering_BM.dim() != 2 or entering_BM.shape[1] != len(self.modalities) or entering_BM.dtype != torch.bool:
            found = f"{tuple(entering_BM.shape)} of {entering_BM.dtype}"
            raise ProtocolError(f"which modalities enter fusion is bool of (rows, {len(self.modalities)}), but {found} was given")
        held_BM = torch.zeros_like(entering_BM)
        for name in pooled:
            held_BM[rows[name], self.modalities.index(name)] = True
        for place in (entering_BM & ~held_BM).nonzero().tolist():
            raise ProtocolError(f"row {place[0]} enters fusion with {self.modalities[place[1]]!r}, but no features of it were given")


def _columns(entering_BM: Tensor) -> list[int]:
    """The modalities that enter in some row of the batch."""
    places: list[int] = entering_BM.any(0).nonzero().flatten().tolist()
    return places


def _check_settings(widths: Mapping[str, int], width: int, heads: int) -> None:
    if not widths:
        raise ConfigError("fusion was given no modality, but it needs one at least")
    if width % heads:
        raise ConfigError(f"fusion has width {width} and {heads} heads, but the heads must divide the width")
    for name in widths:
        # Modules are kept by name, and a name of PyTorch's own would hide it.
        if "." in name or name == "fusion" or hasattr(nn.ModuleDict, name):
            raise ConfigError(f"a modality cannot be called {name!r}: a dot, `fusion` and the names of PyTorch's own methods are taken")
