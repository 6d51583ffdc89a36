"""The same network as somebody would write it who has never heard of a cut: whole float32 encoders, padded texts, nothing kept.

The denominator of `benchmarks/client_step.py`: MA before block k and TA beside the last feed-forward part are hung into the encoders by
hooks, everything is computed anew in every step. Adapters, fusion and classifiers are those of m2fedsa; they are small.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2fedsa.blueprint import Blueprint
from m2fedsa.models.adapter import Adapter, Classifier
from m2fedsa.models.architectures import architecture, block_names
from m2fedsa.models.fusion import Fusion

SITES = {"swin": ("mlp", "mlp"), "roberta": ("intermediate", "output.dense")}
"""Where the last block's feed-forward part begins and ends."""


class Plain:
    """Training steps on one batch: forward, loss, backward, clip, step."""

    def __init__(self, blueprint: Blueprint, encoders: Mapping[str, nn.Module], inputs: Mapping[str, Any], labels: Tensor) -> None:
        """`inputs`: per modality the encoder's arguments for the whole batch."""
        config = blueprint.config
        self.config, self.encoders, self.inputs, self.labels = config, encoders, inputs, labels
        self.classifiers, self.trained = {}, []
        for name, model in encoders.items():
            widths, width = blueprint.widths[name], config.modalities[name].adapter_width
            ma = Adapter(widths.head, widths.head, width, axis=widths.axis)
            ta = Adapter(widths.task_in, widths.task_out, width, axis=widths.task_axis)
            _hang(model, config.modalities[name].block, ma, ta)
            self.classifiers[name] = Classifier(widths.pooled, blueprint.classes)
            self.trained += [*ma.parameters(), *ta.parameters(), *self.classifiers[name].parameters()]
        pooled = {name: widths.pooled for name, widths in blueprint.widths.items()}
        self.fusion = Fusion(pooled, config.fusion.width, config.fusion.blocks, config.fusion.heads, config.fusion.feed_forward)
        self.fusion.initialise(0)
        self.classifiers["fused"] = Classifier(config.fusion.width, blueprint.classes)
        self.trained += [*self.fusion.parameters(), *self.classifiers["fused"].parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)

    def step(self) -> dict[str, float]:
        """One step over the batch; the losses."""
        self.optimizer.zero_grad(set_to_none=True)
        z = {name: self._pooled(name) for name in self.encoders}
        rows = {name: torch.arange(len(self.labels)) for name in z}
        fused = self.fusion(z, rows, torch.ones(len(self.labels), len(z), dtype=torch.bool)).fused
        logits = {name: self.classifiers[name](one) for name, one in {**z, "fused": fused}.items()}
        logits["fused"] = logits["fused"] + sum(logits[name].detach() for name in z)
        losses = {name: functional.cross_entropy(one, self.labels) for name, one in logits.items()}
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _pooled(self, name: str) -> Tensor:
        output = self.encoders[name](**self.inputs[name])
        if architecture(self.encoders[name].config.model_type).pooling == "pooler":
            return output.pooler_output
        mask = self.inputs[name]["attention_mask"][..., None].float()
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1)


def _hang(model: nn.Module, block: int, ma: nn.Module, ta: nn.Module) -> None:
    names = block_names(model)
    first, last = (f"{names[-1]}.{part}" for part in SITES[model.config.model_type])
    seen: list[Tensor] = []

    def adapt(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + ma(args[0]), *args[1:])

    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[:] = [args[0]]

    def add(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + ta(seen.pop())

    model.get_submodule(names[block]).register_forward_pre_hook(adapt)
    model.get_submodule(first).register_forward_pre_hook(before)
    model.get_submodule(last).register_forward_hook(add)
