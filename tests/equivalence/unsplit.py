"""The network of algorithm.md held in one place, and federated averaging over it: the independent path that a split run must equal.

Written from the specification in plain PyTorch. Of m2fedsa it knows the settings, the form in which samples lie in memory, and how a
draw is named. There is no message, no cut, no copy and no mask here: an encoder runs whole with its adapters hooked in, in one graph
with fusion, classifiers and losses, and fusion and losses go sample by sample over the modalities that are there.

Tensors are looked up by the flat names of a run. Samples are told apart by their row in the batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tests.equivalence.unsplit_tasks import KINDS, Label, has_label
from torch import Tensor, nn

from m2fedsa.config import Config
from m2fedsa.data.samples import InMemorySamples
from m2fedsa.seeding import derive

Tensors = Mapping[str, Tensor]
INSIDE = {
    "vit": ("layers", "mlp", "mlp"),
    "audio-spectrogram-transformer": ("layers", "mlp", "mlp"),
    "bert": ("encoder.layer", "intermediate", "output.dense"),
}
"""Per family: the list of blocks; within a block, where the feed-forward part receives and where it gives."""


# --- layers -------------------------------------------------------------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def affine(t: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def normed(t: Tensors, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def log_softmax(x: Tensor) -> Tensor:
    return x - torch.logsumexp(x, -1, keepdim=True)


class Masks:
    """Dropout: one generator per place, named as the specification of a run names its draws; none in evaluation."""

    def __init__(self, seed: int | None = None, client: str = "") -> None:
        self.seed, self.client = seed, client
        self.generators: dict[str, torch.Generator] = {}

    def __call__(self, place: str, x: Tensor, probability: float) -> Tensor:
        if self.seed is None or probability == 0:
            return x
        if place not in self.generators:
            party = (self.client, "main server") if place.endswith(".ta") else (self.client,)
            self.generators[place] = derive(self.seed, *party, f"{place}.dropout")
        return x * (torch.rand(x.shape, generator=self.generators[place], dtype=torch.float32) >= probability) / (1 - probability)


# --- the network --------------------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Some samples of a client."""

    samples: InMemorySamples
    rows: Tensor
    entering: list[set[str]]
    """which modalities of each sample enter fusion"""

    @property
    def having(self) -> dict[str, list[int]]:
        """modality -> the batch's rows that have it; only modalities that occur"""
        held = self.samples.presence[self.rows]
        found = {name: held[:, column].nonzero().flatten().tolist() for column, name in enumerate(self.samples.modalities)}
        return {name: rows for name, rows in found.items() if rows}

    @property
    def labels(self) -> list[Label]:
        return self.samples.labels[self.rows].tolist()

    @property
    def labelled(self) -> list[bool]:
        return has_label(self.samples.labels[self.rows]).tolist()

    @classmethod
    def complete(cls, samples: InMemorySamples, rows: Tensor) -> "Batch":
        """All that a sample has enters."""
        held = samples.presence[rows].tolist()
        return cls(samples, rows, [{name for name, is_there in zip(samples.modalities, row, strict=True) if is_there} for row in held])


@dataclass
class Output:
    """Per row of the batch; dictionaries over the modalities that a row has."""

    logits: list[dict[str, Tensor]]
    """p_m"""
    fused: list[Tensor]
    """s"""
    tokens: list[dict[str, Tensor]]
    """t_m"""
    attention: list[Tensor]
    """f_att"""


@dataclass
class Network:
    config: Config
    encoders: Mapping[str, nn.Module]
    log_prior: Tensor
    weights: Tensor | None = None
    """of classes; None where they count as they come"""

    def __post_init__(self) -> None:
        self.kind = KINDS[self.config.data.task](list(self.config.modalities))
        for model in self.encoders.values():
            model.eval().requires_grad_(False)

    def adapter(self, t: Tensors, place: str, x: Tensor, masks: Masks) -> Tensor:
        probability = self.config.modalities[place.partition(".")[0]].adapter_dropout
        x = masks(place, gelu(affine(t, f"{place}.down", x)), probability)
        x = masks(place, gelu(affine(t, f"{place}.update", x)), probability)
        return affine(t, f"{place}.up", x)

    def features(self, t: Tensors, name: str, inputs: Tensors, masks: Masks) -> Tensor:
        """z_m: the whole encoder, MA after its first k blocks, TA beside the last feed-forward part."""
        model, settings = self.encoders[name], self.config.modalities[name]
        family = model.config.model_type
        where, receives, gives = INSIDE[family]
        blocks = model.get_submodule(where)
        seen: dict[str, Tensor] = {}
        handles = []

        def at_the_cut(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            if isinstance(output, tuple):
                return (output[0] + self.adapter(t, f"{name}.ma", output[0], masks), *output[1:])
            return output + self.adapter(t, f"{name}.ma", output, masks)

        if settings.modality_adapter:
            handles.append(blocks[settings.block - 1].register_forward_hook(at_the_cut))
        if settings.task_adapter:
            last = blocks[len(blocks) - 1]
            handles.append(last.get_submodule(receives).register_forward_pre_hook(lambda _m, args: seen.update(x=args[0])))
            handles.append(
                last.get_submodule(gives).register_forward_hook(lambda _m, _a, out: out + self.adapter(t, f"{name}.ta", seen["x"], masks))
            )
        try:
            hidden = model(**inputs).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        if family == "vit":
            return hidden[:, 0]
        if family == "bert":
            return torch.stack([one[mask.bool()].mean(0) for one, mask in zip(hidden, inputs["attention_mask"], strict=True)])
        return (hidden[:, 0] + hidden[:, 1]) / 2

    def attend(self, t: Tensors, tokens: Tensor) -> Tensor:
        """f_att of one sample from its (n, F) tokens, n ≥ 1."""
        settings = self.config.fusion
        for number in range(settings.blocks):
            block = f"fusion.blocks.{number}"
            x = normed(t, f"{block}.norm1", tokens)
            weight, bias = t[f"{block}.attention.in_proj_weight"], t[f"{block}.attention.in_proj_bias"]
            q, k, v = (x @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
            heads = []
            for qh, kh, vh in zip(*(part.chunk(settings.heads, dim=1) for part in (q, k, v)), strict=True):
                heads.append(log_softmax(qh @ kh.T / math.sqrt(qh.shape[1])).exp() @ vh)
            tokens = tokens + affine(t, f"{block}.attention.out_proj", torch.cat(heads, dim=1))
            if settings.feed_forward:
                inner = gelu(affine(t, f"{block}.linear1", normed(t, f"{block}.norm2", tokens)))
                tokens = tokens + affine(t, f"{block}.linear2", inner)
        return tokens.mean(0)

    def bilinear(self, t: Tensors, z: Tensors) -> Tensor:
        """LN of the sum over all pairs of products, of one sample with two modalities or more."""
        b = [vector @ t[f"{name}.bilinear.weight"].T for name, vector in z.items()]
        return normed(t, "fusion.bilinear_norm", sum(b[i] * b[j] for i in range(len(b)) for j in range(i)))

    def classify(self, t: Tensors, name: str, x: Tensor, masks: Masks) -> Tensor:
        return affine(t, f"{name}.classifier", masks(f"{name}.classifier", x, self.config.loss.classifier_dropout))

    def forward(self, t: Tensors, batch: Batch, masks: Masks, fusion_phase: bool = False) -> Output:
        """All logits of a batch. In the fusion phase p_m enters s as a constant, and z_m enters fusion as one if the settings say so."""
        z: list[dict[str, Tensor]] = [{} for _ in batch.rows]
        logits: list[dict[str, Tensor]] = [{} for _ in batch.rows]
        for name, rows in batch.having.items():
            pooled = self.features(t, name, batch.samples.inputs(name, batch.rows[rows]), masks)
            for row, vector, one in zip(rows, pooled, self.classify(t, name, pooled, masks), strict=True):
                z[row][name], logits[row][name] = vector, one
        cut_off = fusion_phase and not self.config.fusion.gradient_to_encoders
        into = [{name: vector.detach() if cut_off else vector for name, vector in one.items()} for one in z]
        tokens = [{name: affine(t, f"{name}.token", vector) for name, vector in one.items()} for one in into]
        f, attention = [], []
        for row, names in enumerate(batch.entering):
            present = [name for name in self.config.modalities if name in names]
            attention.append(self.attend(t, torch.stack([tokens[row][name] for name in present])))
            several = len(present) > 1 and self.config.fusion.bilinear
            f.append(attention[-1] + self.bilinear(t, {name: into[row][name] for name in present}) if several else attention[-1])
        fused = list(self.classify(t, "fused", torch.stack(f), masks))
        if self.config.fusion.late:
            for row, names in enumerate(batch.entering):
                opinions = {name: logits[row][name].detach() if fusion_phase else logits[row][name] for name in sorted(names)}
                fused[row] = fused[row] + self.kind.late(opinions, self.log_prior)
        return Output(logits, fused, tokens, attention)


# --- losses -------------------------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return -log_softmax(logits)[label]


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


@dataclass
class Objective:
    """The loss of a batch."""

    network: Network
    phase: str
    weights: tuple[float, float, float]
    teachers: Mapping[str, Tensor] | None = None
    """modality -> s̄ (samples, K), NaN for samples that are not taught"""
    alone: bool = False
    """whether each modality teaches itself"""

    def under(self, batch: Batch, logits: Tensor, names: Sequence[str]) -> Tensor:
        """Under the client's own prior."""
        kind, config, prior = self.network.kind, self.network.config, self.network.log_prior
        if not config.loss.prior_adjusted:
            return logits
        weights = torch.ones(len(logits)) if self.network.weights is None else self.network.weights
        own = kind.own(batch.samples.labels.tolist(), prior, weights, config.loss.balance == "sampling")
        return kind.under(logits, own, names, prior)

    def __call__(self, batch: Batch, out: Output) -> Tensor:
        kind, prior, labels = self.network.kind, self.network.log_prior, batch.labels
        weights = torch.ones(len(out.fused[0])) if self.network.weights is None else self.network.weights

        def loss(row: int, logits: Tensor, names: Sequence[str]) -> Tensor:
            return kind.loss(self.under(batch, logits, names), labels[row], prior, weights)

        known = [row for row, told in enumerate(batch.labelled) if told]
        ce_s = {row: loss(row, out.fused[row], sorted(batch.entering[row])) for row in known}
        total = torch.zeros(())
        if self.phase == "fusion":
            total = total + mean(ce_s.values())
        for name, rows in batch.having.items():
            own = [row for row in rows if row in ce_s]
            ce_m = mean([loss(row, out.logits[row][name], [name]) for row in own]) if own else None
            if self.phase == "fusion":
                total = total if ce_m is None else total + ce_m
            else:
                total = total + self.transfer(batch, out, name, rows, ce_m, ce_s)
        return total

    def transfer(self, batch: Batch, out: Output, name: str, rows: list[int], ce_m: Tensor | None, ce_s: Mapping[int, Tensor]) -> Tensor:
        one, two, three = self.weights
        total = torch.zeros(())
        own = [row for row in rows if row in ce_s]
        if ce_m is not None:
            total = total + one * (ce_m + mean([ce_s[row] / len(batch.entering[row]) for row in own]))
            several = [row for row in own if len(batch.entering[row]) > 1]
            if several:
                least = 0.0 if self.network.config.transfer.form == "paper" else 1.0
                floor = max(float((ce_m + mean(ce_s.values())).detach()), least)
                total = total + two * mean([self.network.kind.divergence(out.fused[row], out.logits[row][name]) for row in several]) / floor
        several = [row for row in rows if len(batch.entering[row]) > 1]
        if several and three:
            cosines = []
            for row in several:
                a, b = out.tokens[row][name], out.attention[row].detach()
                cosines.append((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
            total = total + three * (1 - mean(cosines))
        if self.teachers is not None:
            teacher = self.teachers[name]
            taught = [row for row in rows if not bool(teacher[batch.rows[row]].isnan().any())]
            if taught:
                kind, prior, samples = self.network.kind, self.network.log_prior, batch.samples
                settings = self.network.config.transfer
                everyone = [
                    (line, [name] if self.alone else [one for one, there in zip(samples.modalities, held, strict=True) if there])
                    for line, held in zip(teacher, samples.presence.tolist(), strict=True)
                    if not bool(line.isnan().any())
                ]
                own = kind.estimated(everyone, samples.labels.tolist(), prior)
                apart, sure = [], []
                for row in taught:
                    names = [name] if self.alone else sorted(batch.entering[row])
                    s = kind.under(teacher[batch.rows[row]], own, names, prior) / settings.temperature
                    apart.append(kind.divergence(s, kind.under(out.logits[row][name], own, [name], prior)))
                    sure.append(kind.sure(s) ** settings.confidence)
                total = total + sum(w * one for w, one in zip(sure, apart, strict=True)) / sum(sure)
        return total


# --- training -----------------------------------------------------------------------------------------------------------------------


def frozen_in(phase: str, name: str) -> bool:
    """Fusion and C_f rest in the transfer phase."""
    first, second, *_ = name.split(".")
    return phase == "transfer" and (first in ("fusion", "fused") or second in ("token", "bilinear"))


def of_client(name: str) -> bool:
    """Whether the tensor is one of the client's side."""
    return name.startswith("fused.") or name.split(".")[1] in ("ma", "classifier")


def gradients(t: Tensors, network: Network, objective: Objective, batch: Batch, masks: Masks) -> dict[str, Tensor | None]:
    """By plain autograd, for every tensor that trains in the phase."""
    leaves = {name: tensor for name, tensor in t.items() if tensor.requires_grad}
    total = objective(batch, network.forward(t, batch, masks, objective.phase == "fusion"))
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def leaves_of(t: Tensors, phase: str, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Fresh leaves for the tensors of some modalities and of what belongs to all."""
    held = {name: tensor.detach().clone() for name, tensor in t.items() if name.split(".")[0] in (*prefixes, "fusion", "fused")}
    return {name: tensor.requires_grad_(not frozen_in(phase, name)) for name, tensor in held.items()}


def optimizers(t: Tensors, config: Config, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Fresh AdamW for either party, one group per tensor."""
    made = []
    for of_party in (of_client, lambda name: not of_client(name)):
        groups = []
        for name, tensor in t.items():
            if of_party(name) and tensor.requires_grad:
                kind = "fused" if name.startswith("fused.") else name.split(".")[1]
                factor = {"ma": 1.0, "ta": 1.0, "classifier": config.classifier_factor}.get(kind, config.optimizer.fusion_factor)
                groups.append({"params": [tensor], "lr": rate * factor})
        made.append(torch.optim.AdamW(groups or [{"params": [torch.zeros(())]}], weight_decay=config.optimizer.weight_decay))
    return tuple(made)


def step(t: Tensors, found: Mapping[str, Tensor | None], steppers: Sequence[torch.optim.Optimizer], config: Config) -> None:
    """Clip per party, and step."""
    for tensor in t.values():
        tensor.grad = None
    for name, gradient in found.items():
        t[name].grad = gradient
    for of_party in (of_client, lambda name: not of_client(name)):
        own = [t[name] for name, gradient in found.items() if gradient is not None and of_party(name)]
        torch.nn.utils.clip_grad_norm_(own, config.optimizer.clip_norm)
    for stepper in steppers:
        stepper.step()
