"""The network of a split step held in one place: plain PyTorch, one graph, one optimiser.

As somebody would write it who never heard of parties: the frozen blocks after the cut are called directly, dropout is PyTorch's own, every
sample has every modality, so nothing is masked but padding. It is the denominator of `benchmarks/step.py`. Of m2fedsa it uses the settings
alone.

B batch, T tokens, D encoder width, F fusion width, K classes, M modalities.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from m2fedsa.config import Config


class Bottleneck(nn.Module):
    """down, GELU, update, GELU, up, with dropout before the last two."""

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.update = nn.Linear(bottleneck, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.dropout(functional.gelu(self.down(x)))
        return self.up(self.dropout(functional.gelu(self.update(x))))


class Beside(nn.Module):
    """A feed-forward part with an adapter in parallel."""

    def __init__(self, part: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.part, self.adapter = part, adapter

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.part(x) + self.adapter(x)


class Network(nn.Module):
    """Adapters, fusion and classifiers around the frozen blocks of encoders of the ViT, AST, BERT and RoBERTa families."""

    def __init__(self, config: Config, encoders: Mapping[str, PreTrainedModel], classes: int) -> None:
        super().__init__()
        self.config = config
        fusion = config.fusion
        widths = {name: model.config.hidden_size for name, model in encoders.items()}
        settings = config.modalities

        def per_modality(kind: type[nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict({n: kind(width, settings[n].adapter_width, settings[n].adapter_dropout) for n, width in widths.items()})

        self.ma, self.ta = per_modality(Bottleneck), per_modality(Bottleneck)
        self.token = nn.ModuleDict({name: nn.Linear(width, fusion.width) for name, width in widths.items()})
        self.bilinear = nn.ModuleDict({name: nn.Linear(width, fusion.width, bias=False) for name, width in widths.items()})
        self.bilinear_norm = nn.LayerNorm(fusion.width)
        self.block = nn.TransformerEncoderLayer(
            fusion.width, fusion.heads, fusion.feed_forward, dropout=0.0, activation="gelu", norm_first=True
        )
        self.classifier = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in {**widths, "fused": fusion.width}.items()})
        self.models = {name: _same_weights(model) for name, model in encoders.items()}
        self.frozen = {name: list(_blocks(model))[settings[name].block :] for name, model in self.models.items()}
        for name, blocks in self.frozen.items():
            _put_beside(blocks[-1], self.ta[name])

    def forward(self, hidden: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> tuple[dict[str, Tensor], Tensor]:
        """Unimodal logits (B, K), and the fused correction C_f(f) (B, K), from head outputs (B, T, D)."""
        z = {name: self.features(name, h_BTD, masks[name]) for name, h_BTD in hidden.items()}
        tokens_MBF = torch.stack([self.token[name](z_BD) for name, z_BD in z.items()])
        b_MBF = torch.stack([self.bilinear[name](z_BD) for name, z_BD in z.items()])
        pairs_BF = (b_MBF.sum(0).square() - b_MBF.square().sum(0)) / 2
        f_BF = self.block(tokens_MBF).mean(0) + self.bilinear_norm(pairs_BF)
        return {name: self.classifier[name](z_BD) for name, z_BD in z.items()}, self.classifier["fused"](f_BF)

    def features(self, name: str, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """z (B, D): MA, the frozen blocks with TA in the last, the mean over tokens."""
        model = self.models[name]
        hidden_BTD = hidden_BTD + self.ma[name](hidden_BTD)
        mask = create_bidirectional_mask(config=model.config, inputs_embeds=hidden_BTD, attention_mask=mask_BT)
        for block in self.frozen[name]:
            hidden_BTD = block(hidden_BTD, mask)
        if hasattr(model, "layernorm"):
            hidden_BTD = model.layernorm(hidden_BTD)
        if mask_BT is None:
            return hidden_BTD.mean(1)
        weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)

    def tensors(self) -> dict[str, nn.Parameter]:
        """The trainable tensors under the flat names of a run."""
        named = {
            f"{name}.{kind}.{part}": parameter
            for kind in ("ma", "ta", "token", "bilinear", "classifier")
            for name, module in getattr(self, kind).items()
            for part, parameter in module.named_parameters()
        }
        inner = {part.replace("self_attn", "attention"): parameter for part, parameter in self.block.named_parameters()}
        named |= {f"fusion.blocks.0.{part}": parameter for part, parameter in inner.items()}
        return named | {f"fusion.bilinear_norm.{part}": parameter for part, parameter in self.bilinear_norm.named_parameters()}


class OnePlace:
    """Training steps on the whole network: forward, loss, backward, clip, step."""

    def __init__(
        self,
        config: Config,
        encoders: Mapping[str, PreTrainedModel],
        start: Mapping[str, Tensor],
        kept: Mapping[str, tuple[Tensor, Tensor | None]],
        labels: Tensor,
        classes: int,
    ) -> None:
        """`start`: tensors by their flat names. `kept`: head outputs and masks of all samples, which are one batch."""
        self.network = Network(config, encoders, classes)
        self.config, self.kept, self.labels, self.classes = config, kept, labels, classes
        self.tensors = self.network.tensors()
        with torch.no_grad():
            for name, parameter in self.tensors.items():
                parameter.copy_(start[name])
        client = [name for name in self.tensors if name.split(".")[1] in ("ma", "classifier")]
        self.parties = [[p for name, p in self.tensors.items() if (name in client) == side] for side in (True, False)]
        groups = [{"params": [p], "lr": config.optimizer.learning_rate * self._factor(name)} for name, p in self.tensors.items()]
        self.optimizer = torch.optim.AdamW(_merged(groups), weight_decay=config.optimizer.weight_decay, fused=True)
        counts = torch.bincount(labels, minlength=classes) + 0.5
        self.log_prior = torch.full((classes,), 1 / classes).log()
        self.adjustment = (counts / counts.sum()).log() - self.log_prior

    def _factor(self, name: str) -> float:
        first, second, *_ = name.split(".")
        if first == "fused" or second not in ("ma", "ta", "classifier"):
            return self.config.optimizer.fusion_factor
        return self.config.classifier_factor if second == "classifier" else 1.0

    def step(self) -> dict[str, float]:
        """One step over all samples in a new order; the mean losses."""
        order = torch.randperm(len(self.labels))
        hidden = {name: h_BTD[order] for name, (h_BTD, _) in self.kept.items()}
        masks = {name: None if mask_BT is None else mask_BT[order] for name, (_, mask_BT) in self.kept.items()}
        labels = self.labels[order]
        self.optimizer.zero_grad(set_to_none=True)
        unimodal, fused = self.network(hidden, masks)
        if self.config.fusion.late:
            fused = fused + sum(logits.detach() for logits in unimodal.values()) - (len(unimodal) - 1) * self.log_prior
        losses = {name: functional.cross_entropy(logits + self.adjustment, labels) for name, logits in {**unimodal, "fused": fused}.items()}
        sum(losses.values()).backward()
        for parameters in self.parties:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}


def _same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """New modules around the same tensors: an adapter is put into them, and the caller's model stays as it is."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _blocks(model: PreTrainedModel) -> nn.ModuleList:
    return model.layers if hasattr(model, "layers") else model.encoder.layer


def _put_beside(block: nn.Module, adapter: nn.Module) -> None:
    """Let the adapter run in parallel to a block's feed-forward part."""
    if hasattr(block, "mlp"):
        block.mlp = Beside(block.mlp, adapter)
        return
    inner, outer = block.intermediate, block.output
    block.feed_forward_chunk = lambda x: outer.LayerNorm(outer.dense(inner(x)) + adapter(x) + x)


def _merged(groups: list[dict]) -> list[dict]:
    """One group per learning rate."""
    rates = dict.fromkeys(group["lr"] for group in groups)
    return [{"params": [p for group in groups if group["lr"] == rate for p in group["params"]], "lr": rate} for rate in rates]
