"""Which trainable tensors a run has, and the modules that hold them: on the client MA, C_m and C_f; on the main server TA and fusion;
on either side the encoder's own weights where they are not frozen.

Their names are flat and keyed by the user's modality: `image.ma.down.weight`, `image.classifier.bias`, `fused.classifier.weight`;
`image.ta.update.weight`, `image.token.weight` (W_m), `image.token.bias` (e_m), `image.bilinear.weight` (B_m), `fusion.*`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from m2fedsa.config import Config
from m2fedsa.errors import WeightsError
from m2fedsa.models.adapter import Adapter, Classifier, Dropout, initialise
from m2fedsa.models.fusion import Fusion
from m2fedsa.seeding import derive
from m2fedsa.state import Tensors, snapshot
from m2fedsa.tasks import Task, task_of

FUSED = "fused"
"""First name of C_f's tensors."""
FUSION = "fusion"
"""First name of the tensors of fusion that belong to no modality."""
HEAD, TAIL = "head", "tail"
"""Second names of an encoder's own weights, where they train."""


@dataclass(frozen=True)
class Widths:
    """The widths of one cut encoder."""

    head: int
    """D_h, at the end of the head"""
    axis: int
    """the dimension of the hidden state that is D_h wide"""
    task_in: int | None
    """D_in of the feed-forward part that TA runs beside; None where there is none"""
    task_out: int | None
    task_axis: int
    pooled: int
    """D_z"""


@dataclass(frozen=True)
class Blueprint:
    """What every party knows: settings, widths per modality (in the run's order), number of classes or targets."""

    config: Config
    widths: Mapping[str, Widths]
    classes: int
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """of encoders that are not frozen, as they were pretrained: `<m>.head.*`, `<m>.tail.*`"""

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities, in the run's order."""
        return tuple(self.widths)

    @property
    def task(self) -> Task:
        """What is to be told of a sample."""
        return task_of(self.config.data.task, self.classes, self.modalities)


class Parts:
    """Trainable modules under flat tensor names."""

    def __init__(self, modules: Mapping[str, nn.Module], tensors: Mapping[str, nn.Parameter] | None = None) -> None:
        """`modules`: prefix -> module, e.g. `image.ma` -> adapter; `tensors`: flat names of modules that have their own naming."""
        self.modules = dict(modules)
        self.tensors: dict[str, nn.Parameter] = {
            f"{prefix}.{name}": parameter
            for prefix, module in modules.items()
            if prefix != FUSION
            for name, parameter in module.named_parameters()
        }
        self.tensors |= dict(tensors or {})

    def load(self, tensors: Tensors) -> None:
        """Copy values in; `WeightsError` names a tensor that is missing or of another shape."""
        with torch.no_grad():
            for name, parameter in self.tensors.items():
                value = tensors.get(name)
                if value is None or value.shape != parameter.shape:
                    found = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                    raise WeightsError(f"tensor {name} {found}; the settings of this run want {tuple(parameter.shape)}.")
                parameter.copy_(value)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.tensors.values())).device

    def to(self, device: torch.device) -> "Parts":
        """Itself, with all tensors on a device."""
        for module in self.modules.values():
            module.to(device)
        for parameter in self.tensors.values():
            parameter.data = parameter.data.to(device)
        return self

    def weights(self, modality: str, side: str) -> dict[str, nn.Parameter]:
        """The weights of an encoder's side that train, by their names in the encoder; empty where it is frozen."""
        first = f"{modality}.{side}."
        return {name.removeprefix(first): tensor for name, tensor in self.tensors.items() if name.startswith(first)}

    def training(self, seed: int, *names: object) -> None:
        """Dropout on, each with its own generator derived from the seed, these names and its place."""
        for prefix, module in self.modules.items():
            for place, dropout in module.named_modules():
                if isinstance(dropout, Dropout):
                    dropout.generator = derive(seed, *names, f"{prefix}.{place}")

    def freeze(self, prefixes: Sequence[str]) -> None:
        """Train every tensor but those under these prefixes."""
        for name, parameter in self.tensors.items():
            parameter.requires_grad_(not name.startswith(tuple(prefixes)))

    def trained(self) -> dict[str, nn.Parameter]:
        """The tensors that have a gradient."""
        return {name: parameter for name, parameter in self.tensors.items() if parameter.grad is not None}

    def clear(self) -> None:
        """Forget all gradients: None, not zero, so that what a batch does not touch neither moves nor decays."""
        for parameter in self.tensors.values():
            parameter.grad = None


def client_parts(blueprint: Blueprint, modalities: Sequence[str]) -> Parts:
    """MA_m and C_m of these modalities, and C_f."""
    config = blueprint.config
    modules: dict[str, nn.Module] = {}
    for name in modalities:
        settings, widths = config.modalities[name], blueprint.widths[name]
        if settings.modality_adapter:
            modules[f"{name}.ma"] = Adapter(widths.head, widths.head, settings.adapter_width, settings.adapter_dropout, axis=widths.axis)
        modules[f"{name}.classifier"] = Classifier(widths.pooled, blueprint.classes, config.loss.classifier_dropout)
    modules[f"{FUSED}.classifier"] = Classifier(config.fusion.width, blueprint.classes, config.loss.classifier_dropout)
    return Parts(modules, _weights(blueprint, modalities, HEAD))


def server_parts(blueprint: Blueprint) -> Parts:
    """TA_m of all modalities, and fusion."""
    config = blueprint.config
    modules: dict[str, nn.Module] = {}
    for name, widths in blueprint.widths.items():
        settings = config.modalities[name]
        if settings.task_adapter:
            assert widths.task_in is not None
            assert widths.task_out is not None
            modules[f"{name}.ta"] = Adapter(
                widths.task_in, widths.task_out, settings.adapter_width, settings.adapter_dropout, axis=widths.task_axis
            )
    pooled = {name: widths.pooled for name, widths in blueprint.widths.items()}
    fusion = Fusion(
        pooled, config.fusion.width, config.fusion.blocks, config.fusion.heads, config.fusion.feed_forward, config.fusion.bilinear
    )
    return Parts({**modules, FUSION: fusion}, {**fusion.named_tensors(), **_weights(blueprint, blueprint.modalities, TAIL)})


def _weights(blueprint: Blueprint, modalities: Sequence[str], side: str) -> dict[str, nn.Parameter]:
    first = tuple(f"{modality}.{side}." for modality in modalities)
    return {name: nn.Parameter(value.detach().cpu().clone()) for name, value in blueprint.weights.items() if name.startswith(first)}


def initial_client_tensors(blueprint: Blueprint) -> dict[str, Tensor]:
    """Before the first round: MA is zero, the classifiers are zero."""
    return _initialised(client_parts(blueprint, blueprint.modalities), blueprint.config.seed)


def initial_server_tensors(blueprint: Blueprint) -> dict[str, Tensor]:
    """Before the first round: TA is zero, fusion is drawn from the seed."""
    return _initialised(server_parts(blueprint), blueprint.config.seed)


def _initialised(parts: Parts, seed: int) -> dict[str, Tensor]:
    for prefix, module in parts.modules.items():
        if isinstance(module, Adapter):
            modality, _, kind = prefix.partition(".")
            initialise(module, seed, modality, kind)
        elif isinstance(module, Fusion):
            module.initialise(seed)
    return snapshot(parts.tensors)
