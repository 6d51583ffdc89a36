"""A trained run in one piece: whole encoders with their adapters, fusion and classifiers, as one module that knows nothing of clients.

B batch, B_m its samples that have modality m, M modalities, K classes, D_z width of a pooled output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2fedsa.blueprint import FUSED, FUSION, Blueprint, client_parts, server_parts
from m2fedsa.errors import DataError
from m2fedsa.models.adapted import Adapted
from m2fedsa.models.architectures import Pooling
from m2fedsa.models.cut import Plan
from m2fedsa.models.fusion import Fusion
from m2fedsa.state import Tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Whole:
    """An encoder before its adapters are put in."""

    model: "PreTrainedModel"
    plan: Plan
    """where it was cut"""
    pooling: Pooling


class TrainedModel(nn.Module):
    """Logits of samples with any subset of the modalities.

        logits = model({"image": {"pixel_values": pixels}, "text": {"input_ids": ids, "attention_mask": mask}})
        logits["fused"], logits["image"], logits["text"]      (B, K) each

    Nothing of it trains, and evaluation mode is its only one.
    """

    log_prior: Tensor
    """what the logits assume: (K,) log π, the class frequencies; of several classes and of numbers see `tasks`"""

    def __init__(
        self, blueprint: Blueprint, wholes: Mapping[str, Whole], tensors: Tensors, log_prior: Tensor, classes: tuple[str, ...]
    ) -> None:
        """wholes: modality -> its encoder. tensors: every trained tensor under its flat name. `WeightsError` if one is missing."""
        super().__init__()
        self.blueprint, self.classes = blueprint, classes
        client, server = client_parts(blueprint, blueprint.modalities), server_parts(blueprint)
        client.load(tensors)
        server.load(tensors)
        self.encoders = nn.ModuleDict()
        for name, one in wholes.items():
            ma, ta = client.modules.get(f"{name}.ma"), server.modules.get(f"{name}.ta")
            self.encoders[name] = Adapted(one.model, one.plan, one.pooling, ma, ta)
        self.classifiers = nn.ModuleDict({name: client.modules[f"{name}.classifier"] for name in (*blueprint.modalities, FUSED)})
        self.fusion = server.modules[FUSION]
        self.register_buffer("log_prior", log_prior)
        self._named = {**client.tensors, **server.tensors}
        self.requires_grad_(False)
        self.eval()

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the run's order."""
        return self.blueprint.modalities

    def whole(self, modality: str) -> Whole:
        """The encoder of a modality, which is the ordinary one but for the hooks on which its adapters hang."""
        adapted = self.encoders[modality]
        assert isinstance(adapted, Adapted)
        return Whole(adapted.encoder, adapted.plan, adapted.pooling)

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every trained tensor under its flat name: `image.ma.down.weight`."""
        return {name: tensor.detach() for name, tensor in self._named.items()}

    def answers(self, logits: Tensor) -> Tensor:
        """What logits (B, K) say: probabilities of the classes, or numbers in the units of the labels."""
        return self.blueprint.task.answers(logits, self.log_prior)

    def forward(self, inputs: Mapping[str, Mapping[str, Tensor]], presence: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """`fused`: s over all modalities that a sample has, and per modality p_m: (B, K) each, NaN in rows of samples without it.

        inputs: modality -> the keyword arguments of its encoder, rows of the samples that have it; leave a modality out that no sample
        has. presence: modality -> (B,) bool, which samples have it; without, all samples have all that is given.
        `DataError` for a modality that the run did not have, or for rows that do not fit each other.
        """
        rows, number = self._rows(inputs, presence)
        pooled = {name: self.encoders[name](inputs[name]).to(self.log_prior.dtype) for name in rows}
        entering = torch.zeros(number, len(self.modalities), dtype=torch.bool, device=self.log_prior.device)
        for name, index in rows.items():
            entering[index, self.modalities.index(name)] = True
        unimodal = {name: self.classifiers[name](z) for name, z in pooled.items()}
        assert isinstance(self.fusion, Fusion)
        correction = self.classifiers[FUSED](self.fusion(pooled, rows, entering).fused)
        columns = entering[:, [self.modalities.index(name) for name in rows]]
        late = self.blueprint.config.fusion.late
        fused = self.blueprint.task.fused(correction, unimodal, rows, columns, self.log_prior) if late else correction
        missing = fused.new_full(fused.shape, float("nan"))
        spread = {name: missing.index_copy(0, rows[name], logits) for name, logits in unimodal.items()}
        return {FUSED: torch.where(entering.any(1, keepdim=True), fused, missing), **spread}

    def _rows(self, inputs: Mapping[str, Mapping[str, Tensor]], presence: Mapping[str, Tensor] | None) -> tuple[dict[str, Tensor], int]:
        """modality -> (B_m,) int64, and B."""
        unknown = [name for name in inputs if name not in self.modalities]
        if unknown or not inputs:
            raise DataError(f"the model has the modalities {', '.join(self.modalities)}, but was given {', '.join(unknown) or 'none'}.")
        given = {name: len(next(iter(inputs[name].values()))) for name in self.modalities if name in inputs}
        device = self.log_prior.device
        if presence is None:
            if len(set(given.values())) > 1:
                raise DataError(f"the modalities have {given} rows; say with `presence` which samples have which of them.")
            rows = {name: torch.arange(count, device=device) for name, count in given.items()}
            return rows, next(iter(given.values()))
        rows = {name: presence[name].to(device).nonzero().squeeze(1) for name in given}
        wrong = [name for name, count in given.items() if len(rows[name]) != count]
        if wrong:
            raise DataError(f"{len(rows[wrong[0]])} samples are said to have {wrong[0]}, but {given[wrong[0]]} rows of it were given.")
        return rows, max(len(mask) for mask in presence.values())
