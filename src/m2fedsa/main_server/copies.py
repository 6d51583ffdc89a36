"""One client's copies of the task adapters and of fusion, and a step on them.

Legend: B batch, B_m its rows that have modality m, T tokens, D_h width at the cut, D_z pooled width, F fusion width, M modalities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from m2fedsa.blueprint import FUSION, TAIL, Blueprint, Parts
from m2fedsa.errors import DivergedError, ProtocolError
from m2fedsa.losses import feature_transfer
from m2fedsa.messages import ActivationGradients, Activations, Gradients, RoundPlan
from m2fedsa.models.cut import Tail
from m2fedsa.models.fusion import Fusion, FusionOutput
from m2fedsa.moments import give, take
from m2fedsa.optimizers import adamw, attract, clip, culprit
from m2fedsa.state import snapshot


@dataclass
class Graph:
    """The way back of several passes through one trunk; see `window.py`."""

    due: int
    """passes that have not gone back yet"""


@dataclass(frozen=True)
class Pass:
    """What a forward leaves behind for its backward."""

    activations: Activations
    hidden: Mapping[str, Tensor]
    pooled: Mapping[str, Tensor]
    fusion: FusionOutput
    graph: Graph | None = None
    """that it shares with other clients' passes; None where it has its own"""


@dataclass
class Copies:
    """Trainable parts with an optimiser, and the step that is under way."""

    blueprint: Blueprint
    tails: Mapping[str, Tail]
    parts: Parts
    optimizer: torch.optim.Optimizer | None = None
    trained: set[str] = field(default_factory=set)
    """names of the tensors that had a gradient in some step"""
    steps: int = 0
    anchors: dict[str, Tensor] = field(default_factory=dict)
    """what the round began with, where the settings want tensors to stay near it"""
    moments: dict[str, Tensor] = field(default_factory=dict)
    """that AdamW has come to, where they are carried on"""

    def prepare(self, plan: RoundPlan, client: str | None, moments: Mapping[str, Tensor]) -> None:
        """Ready for training: fusion frozen in the transfer phase, dropout on, an optimiser that goes on from these moments."""
        config = self.blueprint.config
        self.parts.freeze(self._fusion_names() if plan.phase == "transfer" or not config.fusion.learned else [])
        self.parts.training(plan.seed, client, "main server")
        self.anchors = snapshot(self.parts.tensors) if config.federation.proximal else {}
        beside = {name for name in self.parts.tensors if name.split(".")[1] in ("ta", TAIL)}
        adapters = [p for name, p in self.parts.tensors.items() if p.requires_grad and name in beside]
        fusion = [p for name, p in self.parts.tensors.items() if p.requires_grad and name not in beside]
        rates = [(adapters, 1.0), (fusion, config.optimizer.fusion_factor)]
        groups = [{"params": parameters, "lr": plan.learning_rate * factor} for parameters, factor in rates if parameters]
        self.optimizer = adamw(groups, config.optimizer.weight_decay) if groups else None
        if self.optimizer is not None:
            give(self.optimizer, self.parts.tensors, moments)

    def rest(self) -> None:
        """Its client is done: of 16 bytes a trainable number (value, gradient, two moments) what is averaged stays, four or twelve."""
        config = self.blueprint.config
        if self.optimizer is not None and config.optimizer.moments == "averaged":
            shared = [name for name in sorted(self.trained) if config.averaging.over(name) != "nothing"]
            self.moments = take(self.optimizer, {name: self.parts.tensors[name] for name in shared})
        self.optimizer = None
        self.parts.clear()

    def _fusion_names(self) -> list[str]:
        return [f"{FUSION}.", *(f"{modality}.{part}." for modality in self.blueprint.modalities for part in ("token", "bilinear"))]

    def forward(self, activations: Activations, plan: RoundPlan, number: int) -> Pass:  # noqa: ARG002  (of use where copies are shared)
        """z_m = pool(tail_m(a_m; TA_m)), then fusion, with their graph; of the client's step `number`. (Step 2, "forward".)"""
        hidden = self.enter(activations)
        return self.leave(activations, hidden, encode(self.tails, self.parts, activations, hidden), plan)

    def enter(self, activations: Activations) -> dict[str, Tensor]:
        """The activations as the leaves of a graph."""
        self.parts.clear()
        return {name: one.hidden.detach().to(self.parts.device).requires_grad_() for name, one in activations.modalities.items()}

    def leave(
        self,
        activations: Activations,
        hidden: Mapping[str, Tensor],
        pooled: Mapping[str, Tensor],
        plan: RoundPlan,
        graph: Graph | None = None,
    ) -> Pass:
        """From the trunk through fusion. `DivergedError` if a feature is not finite."""
        for modality, z in pooled.items():
            if not bool(z.detach().isfinite().all()):
                raise DivergedError(
                    f"main server, round {plan.number}, step {self.steps + 1}: features of modality {modality} are not finite."
                )
        detach = plan.phase == "fusion" and not self.blueprint.config.fusion.gradient_to_encoders
        into = {name: z.detach() for name, z in pooled.items()} if detach else pooled
        rows = {name: one.rows for name, one in activations.modalities.items()}
        return Pass(activations, hidden, pooled, fuse(self.parts, self.blueprint.modalities, into, rows, activations.entering), graph)

    def backward(self, done: Pass, gradients: Gradients, plan: RoundPlan) -> ActivationGradients:
        """Back through fusion and tails, clip, step; ∂L/∂a_m. (Step 4, "backward".)"""
        go_back([(self, done, *self.roots(done, gradients, plan))])
        return self.stepped(done, plan)

    def roots(self, done: Pass, gradients: Gradients, plan: RoundPlan) -> tuple[list[Tensor], list[Tensor]]:
        """Where a way back begins, and with which gradients. `ProtocolError` if they do not answer the pass."""
        self.steps += 1
        roots, directions = self._roots(done, gradients)
        if plan.phase == "transfer" and plan.weights[2] > 0:
            for term in self._feature_terms(done):
                roots.append(term)
                directions.append(torch.full_like(term, plan.weights[2]))
        return roots, directions

    def stepped(self, done: Pass, plan: RoundPlan) -> ActivationGradients:
        """Step by the gradients that a way back has brought; ∂L/∂a_m."""
        self._learn(len(done.activations.entering), plan)
        return ActivationGradients({name: _gradient(hidden) for name, hidden in done.hidden.items()})

    def _learn(self, samples: int, plan: RoundPlan) -> None:  # noqa: ARG002  (they count where copies are shared)
        """What to do with the gradients of a batch of so many samples: step at once."""
        self._update(plan)

    def _update(self, plan: RoundPlan) -> None:
        """Clip by one norm, and step."""
        trained = self.parts.trained()
        if trained:
            if self.anchors:
                attract(trained, self.anchors, self.blueprint.config.federation.proximal)
            norm = clip(trained.values(), self.blueprint.config.optimizer.clip_norm)
            if not math.isfinite(norm):
                raise DivergedError(f"main server, round {plan.number}, step {self.steps}: a gradient of {culprit(trained)} is not finite.")
            assert self.optimizer is not None
            self.optimizer.step()
            self.trained |= set(trained)

    def _roots(self, done: Pass, gradients: Gradients) -> tuple[list[Tensor], list[Tensor]]:
        if list(gradients.pooled) != list(done.pooled):
            raise ProtocolError(f"gradients of {sorted(gradients.pooled)} answer features of {sorted(done.pooled)}.")
        roots = [*done.pooled.values()]
        directions = [gradient.to(self.parts.device) for gradient in gradients.pooled.values()]
        if done.fusion.fused.requires_grad:
            roots.append(done.fusion.fused)
            directions.append(gradients.fused.to(self.parts.device))
        for root, direction in zip(roots, directions, strict=True):
            if root.shape != direction.shape:
                raise ProtocolError(f"a gradient of shape {tuple(direction.shape)} answers features of shape {tuple(root.shape)}.")
        return roots, directions

    def _feature_terms(self, done: Pass) -> list[Tensor]:
        """ℓ_ft,m of each modality over the samples of several modalities."""
        several = done.activations.entering.sum(1) > 1
        terms = []
        for modality, activation in done.activations.modalities.items():
            taught = several[activation.rows]
            if bool(taught.any()):
                attention, tokens = done.fusion.attention, done.fusion.tokens[modality]
                teacher = attention[activation.rows[taught].to(attention.device)]
                terms.append(feature_transfer(tokens[taught.to(tokens.device)], teacher))
        return terms


def go_back(ways: Sequence[tuple[Copies, Pass, list[Tensor], list[Tensor]]]) -> None:
    """Back from the roots of one pass, or of several that share a graph, which stays for those that are still due."""
    roots = [root for _, _, some, _ in ways for root in some]
    directions = [direction for _, _, _, some in ways for direction in some]
    graph = ways[0][1].graph
    if graph is None:
        torch.autograd.backward(roots, directions)
        return
    graph.due -= len(ways)
    # Of others that share the graph, nothing is to be touched.
    leaves = [*(one for _, done, _, _ in ways for one in done.hidden.values())]
    leaves += [one for copies, _, _, _ in ways for one in copies.parts.tensors.values() if one.requires_grad]
    torch.autograd.backward(roots, directions, retain_graph=graph.due > 0, inputs=leaves)


def encode(tails: Mapping[str, Tail], parts: Parts, activations: Activations, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """z_m (B_m, D_z) of every modality of the message, in the precision of what trains."""
    pooled = {}
    for modality, activation in activations.modalities.items():
        mask = None if activation.mask is None else activation.mask.to(parts.device)
        weights = parts.weights(modality, TAIL)
        z = tails[modality].under(weights, hidden[modality], mask, activation.inputs, parts.modules.get(f"{modality}.ta"))
        pooled[modality] = z.to(next(iter(parts.tensors.values())).dtype)
    return pooled


def fuse(
    parts: Parts, modalities: Sequence[str], pooled: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor
) -> FusionOutput:
    """Fusion over what enters; the columns of `entering` (B, M of the message) are spread to all modalities of the run."""
    whole = torch.zeros(len(entering), len(modalities), dtype=torch.bool)
    whole[:, [modalities.index(name) for name in rows]] = entering.cpu()
    device = parts.device
    output: FusionOutput = fusion_of(parts)(pooled, {name: index.to(device) for name, index in rows.items()}, whole.to(device))
    return output


def fusion_of(parts: Parts) -> Fusion:
    """The fusion network among the parts."""
    fusion = parts.modules[FUSION]
    assert isinstance(fusion, Fusion)
    return fusion


def fuse_members(
    parts: Parts, modalities: Sequence[str], pooled: Mapping[str, Tensor], rows: Mapping[str, Tensor], entering: Tensor, member: Tensor
) -> Tensor:
    """f of the rows that are members of a subset alone, (number of members, F)."""
    if not bool(member.any()):
        return torch.zeros(0, fusion_of(parts).width)
    place = member.cumsum(0) - 1
    kept = {name: member[index] for name, index in rows.items()}
    few = {name: pooled[name][keep.to(pooled[name].device)] for name, keep in kept.items()}
    return fuse(parts, modalities, few, {name: place[rows[name][keep]] for name, keep in kept.items()}, entering[member]).fused


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
