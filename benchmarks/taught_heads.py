"""All samples labelled: does what other modalities know make a modality's own head better? Forms of transfer on frozen features.

    python benchmarks/taught_heads.py --table docs/transfer.md --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR

Of each task of `study.py` with several modalities that say something alone: the same clients, but their training samples in one place and
encoders frozen, so that no form loses by averaging or by splitting what it could gain. A head is a linear classifier and one hidden layer
beside it. Each form has the same eight candidates (two decays by four strengths or, without a form, four beginnings); the cross-entropy
on validation samples chooses. Three populations: the samples of a modality as they were dealt; a tenth of them, where those of the others
stay as they are; and as they were dealt, but three in ten with a wrong label.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
import wrong_labels
from quality import Store
from real_recipes import CHUNK
from study_plan import Plan
from study_tasks import TASKS, Task
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from m2fedsa.data.samples import FederatedData

SEEDS = (5, 6, 7, 8, 9)
POPULATIONS = ("as dealt", "a tenth", "mislabelled")
MISLABELLED = 0.3
"""Share of all training samples that have the label of another class, the same in every modality; those of validation have their own."""
DECAYS = (0.01, 0.3)
WIDTH, SPACE, HIDDEN = 128, 32, 64
"""Principal components of a modality that enter a head, those that others are compared in, and units of the hidden layer."""
STEPS, RATE, FOLDS = 150, 0.01, 5
MODALITIES = {"digits": ("image", "audio", "text"), "spoken_digits": ("image", "audio", "text"), "products": ("image", "text")}
"""Not of `match`, where a modality alone is at chance, and of `meld_text`, which has one."""
HEAD = """# Transfer where all samples are labelled

Does what other modalities know make a modality's own head better? Where labels are right it does not: in the mean over all modalities (last
rows) every form lies at zero or below. Where labels are wrong, soft labels of fusion help heads on frozen features, but not yet the whole
system (last table).

Frozen features of the clients of the [study](study.md) (25, Dirichlet 0.5), their training samples in one place: no form loses here by
averaging or splitting what it could gain. A head sees the 128 first principal components, and is a linear classifier with a hidden layer of
64 beside it. Each form has the same eight candidates (two weight decays, four strengths; `none`: four beginnings), of which the
cross-entropy on validation samples chooses one, and when to stop. Teachers are heads that had not seen the sample (five folds); a sample of
a single modality has none. Accuracy on test samples of a modality alone, five seeds, mean ± half of the 95 % interval (Student); in
the columns of forms: points above `none`, paired by seed. Test samples are the same for all seeds, and nothing is corrected for the number
of intervals: of 144, seven would miss zero by chance.

- `as dealt`: the samples of the modality as clients hold them. `a tenth`: a tenth of them, those of the others stay. `mislabelled`: as
  dealt, but three training labels in ten are those of another class; validation and test samples keep theirs.
- `match` is left out, where a modality alone is at chance, and `meld_text`, which has one. In both digit tasks modalities are paired by
  class: given the class, one tells nothing of the other. `products` are real pairs.

The rows behind the table: `benchmarks/results/taught_heads.jsonl`.

    python benchmarks/taught_heads.py --table docs/transfer.md --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR

| form | is |
| --- | --- |
| taught by itself, by fusion | labels give way, half or all, to a teacher's soft ones, at temperature 1 or 2: of the modality, of all |
| features | the hidden layer also tells what the other modalities of the sample are (their 32 first principal components) |
| contrastive | a projection is nearer to the sample's other modalities than to those of other samples |
| prototypes | a projection is nearest to its class's mean in the other modalities (as FedProto, CreamFL) |
| shared classifier | one classifier of a common space for all modalities, as C_f of what enters fusion alone, beside the own one |
"""

WHOLE_SYSTEM = """## In the whole system

`digits` once more with three training labels in ten wrong, trained by the method (25 clients, learning rate 0.02, the same seeds): accuracy
without transfer, and points that each form of it adds. Its teacher is the fused classifier of the same round, which has learnt from the
same wrong labels. The rows: `benchmarks/results/wrong_labels.jsonl`.

    python benchmarks/wrong_labels.py
"""


@dataclass(frozen=True)
class Known:
    """What a head of one modality can learn from: N samples that have it, all labelled, with K classes."""

    features: Tensor
    """(N, D)"""
    labels: Tensor
    """(N,)"""
    others: Mapping[str, tuple[Tensor, Tensor]]
    """another modality -> which of the N samples have it, and what it is there, whitened (n, S)"""
    apart: Mapping[str, tuple[Tensor, Tensor]]
    """another modality -> all samples that have it, whitened (n', S), and their labels"""
    teachers: Mapping[str, Tensor]
    """`fused` and `self` -> logits (N, K) of heads that had not seen the sample, NaN where nobody teaches"""
    classes: int


@dataclass
class Heads:
    """C candidates at once: logits of a linear classifier and of a hidden layer beside it, and a projection for the forms that compare."""

    weight: Tensor
    bias: Tensor
    inward: Tensor
    outward: Tensor
    project: Tensor
    extra: dict[str, Tensor]

    @classmethod
    def new(cls, candidates: int, width: int, classes: int, seed: int) -> "Heads":
        """Candidates differ in their hidden layers from the start."""
        draw = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return (torch.randn(candidates, *shape, generator=draw) / shape[0] ** 0.5).requires_grad_()

        def zero(*shape: int) -> Tensor:
            return torch.zeros(candidates, *shape, requires_grad=True)

        extra = {"classifier": zero(SPACE, classes), **{f"of {place}": random(SPACE, SPACE) for place in range(3)}}
        return cls(
            zero(width, classes), zero(1, classes), random(width, HIDDEN), zero(HIDDEN, classes), random(width + HIDDEN, SPACE), extra
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All that trains."""
        return [self.weight, self.bias, self.inward, self.outward, self.project, *self.extra.values()]

    def hidden(self, features: Tensor) -> Tensor:
        """(C, N, H)"""
        return F.gelu(features @ self.inward)

    def logits(self, features: Tensor, shared: bool = False) -> Tensor:
        """(C, N, K)"""
        hidden = self.hidden(features)
        own = features @ self.weight + self.bias + hidden @ self.outward
        return own + F.gelu(self.projected(features)) @ self.extra["classifier"] if shared else own

    def projected(self, features: Tensor) -> Tensor:
        """(C, N, S)"""
        hidden = self.hidden(features)
        return torch.cat([features.expand(len(hidden), -1, -1), hidden], -1) @ self.project


def per_candidate(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (C,) of logits (C, N, K)."""
    return F.cross_entropy(logits.transpose(1, 2), labels.expand(len(logits), -1), reduction="none").mean(1)


# --- forms: what is added to the loss of the labels, per candidate (C,), whose strengths are (C,) ---------------------------------------


def nothing(heads: Heads, known: Known, _: Tensor) -> Tensor:
    """Labels alone."""
    return per_candidate(heads.logits(known.features), known.labels)


def taught(by: str) -> Callable[[Heads, Known, Tensor], Tensor]:
    """Decision level: labels give way to a teacher's soft ones by α (.5 or 1), at temperature 1 or 2."""

    def loss(heads: Heads, known: Known, strengths: Tensor) -> Tensor:
        teacher = known.teachers[by]
        rows = ~teacher[:, 0].isnan()
        logits = heads.logits(known.features)
        share, temperature = strengths.abs().clamp(max=1)[:, None], torch.where(strengths < 0, 2.0, 1.0)[:, None, None]
        soft = (teacher[rows] / temperature).softmax(-1)
        hard = F.cross_entropy(logits.transpose(1, 2), known.labels.expand(len(logits), -1), reduction="none")
        apart = (soft * (soft.clamp_min(1e-9).log() - (logits[:, rows] / temperature).log_softmax(-1))).sum(-1) * temperature[..., 0] ** 2
        return (hard.clone().index_copy(1, rows.nonzero()[:, 0], (1 - share) * hard[:, rows] + share * apart)).mean(1)

    return loss


def features(heads: Heads, known: Known, strengths: Tensor) -> Tensor:
    """Feature level: the hidden layer also tells what the other modalities are (privileged information as a second task)."""
    projected = heads.projected(known.features)
    added: Any = 0.0
    for place, (rows, values) in enumerate(known.others.values()):
        added = added + ((projected[:, rows] @ heads.extra[f"of {place}"] - values) ** 2).mean((1, 2))
    return nothing(heads, known, strengths) + strengths * added


def contrastive(heads: Heads, known: Known, strengths: Tensor) -> Tensor:
    """A sample's projection is nearer to its other modalities than to those of other samples (InfoNCE, temperature .1)."""
    projected = F.normalize(heads.projected(known.features), dim=-1)
    added: Any = 0.0
    for place, (rows, values) in enumerate(known.others.values()):
        some = torch.linspace(0, max(len(rows) - 1, 0), min(len(rows), 256)).long()
        theirs = F.normalize(values[some] @ heads.extra[f"of {place}"], dim=-1)
        near = projected[:, rows[some]] @ theirs.transpose(1, 2) / 0.1
        added = added + per_candidate(near, torch.arange(len(some)))
    return nothing(heads, known, strengths) + strengths * added


def prototypes(heads: Heads, known: Known, strengths: Tensor) -> Tensor:
    """A sample's projection is nearest to its class's mean in the other modalities (FedProto, CreamFL)."""
    projected = F.normalize(heads.projected(known.features), dim=-1)
    added: Any = 0.0
    for values, labels in known.apart.values():
        member = F.one_hot(labels, known.classes).float()
        means = F.normalize((member.T @ values) / member.sum(0)[:, None].clamp_min(1), dim=-1)
        added = added + per_candidate(projected @ means.T / 0.1, known.labels)
    return nothing(heads, known, strengths) + strengths * added


def shared(heads: Heads, known: Known, strengths: Tensor) -> Tensor:
    """One classifier of a common space for all modalities, as C_f of what enters fusion alone, beside the modality's own."""
    added: Any = per_candidate(heads.logits(known.features, shared=True), known.labels)
    for place, (values, labels) in enumerate(known.apart.values()):
        added = added + strengths * per_candidate(F.gelu(values @ heads.extra[f"of {place}"]) @ heads.extra["classifier"], labels)
    return added


Form = Callable[[Heads, Known, Tensor], Tensor]
SOFT, WEIGHED = (0.5, 1.0, -0.5, -1.0), (0.03, 0.1, 0.3, 1.0)
"""Strengths: shares of a teacher, at temperature 2 where negative; weights of a term."""
FORMS: Mapping[str, tuple[Form, tuple[float, ...]]] = {
    "none": (nothing, (0, 0, 0, 0)),
    "taught by itself": (taught("self"), SOFT),
    "taught by fusion": (taught("fused"), SOFT),
    "features": (features, WEIGHED),
    "contrastive": (contrastive, WEIGHED),
    "prototypes": (prototypes, WEIGHED),
    "shared classifier": (shared, WEIGHED),
}
CONSTANTS = {
    "strengths": {form: each for form, (_, each) in FORMS.items()}, "decays": DECAYS, "widths": (WIDTH, SPACE, HIDDEN),
    "steps": STEPS, "rate": RATE, "folds": FOLDS, "mislabelled": MISLABELLED,
}  # fmt: skip
"""What decides a row beside the settings of its task."""


def fit(form: str, known: Known, judged: tuple[Tensor, Tensor], seed: int, decays: Sequence[float] = DECAYS) -> Callable[[Tensor], Tensor]:
    """Logits (N, K) of the candidate and step that validation samples choose."""
    loss, each = FORMS.get(form, (nothing, (0,)))
    strengths = torch.tensor([strength for _ in decays for strength in each])
    shrink = torch.tensor([decay for decay in decays for _ in each])
    heads = Heads.new(len(strengths), known.features.shape[1], known.classes, seed)
    # Decay by hand, for it differs from candidate to candidate.
    optimiser = torch.optim.Adam(heads.tensors, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    best, kept = float("inf"), None
    for step in range(1, STEPS + 1):
        optimiser.zero_grad()
        loss(heads, known, strengths).sum().backward()
        optimiser.step()
        with torch.no_grad():
            for tensor in heads.tensors:
                tensor.mul_(1 - schedule.get_last_lr()[0] * shrink.view(-1, *[1] * (tensor.ndim - 1)))
        schedule.step()
        if step % 10 == 0:
            with torch.no_grad():
                found = per_candidate(heads.logits(judged[0], form == "shared classifier"), judged[1])
            if float(found.min()) < best:
                best, place = float(found.min()), int(found.argmin())
                kept = [tensor[place : place + 1].detach().clone() for tensor in heads.tensors]
    if kept is None:
        raise ValueError(f"{form}: every candidate's loss is not a number.")
    chosen = Heads(*kept[:5], dict(zip(heads.extra, kept[5:], strict=True)))
    return lambda values: chosen.logits(values, form == "shared classifier")[0].detach()


# --- what is known ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A task's rows: features of each modality (R, D), labels (R,), and who may use which."""

    features: Mapping[str, Tensor]
    labels: Tensor
    train: Mapping[str, Tensor]
    """modality -> rows of training samples that have it"""
    validation: Tensor
    test: Tensor
    classes: int
    heard: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def opinion(self, modality: str, values: Tensor, rows: Tensor, seed: int) -> Tensor:
        """See `unseen`; once for the same rows."""
        if (modality, len(rows)) not in self.heard:
            self.heard[modality, len(rows)] = unseen(values, self, rows, seed)
        return self.heard[modality, len(rows)]


def table_of(task: Task, folders: Mapping[str, str], seed: int) -> Table:
    """With the clients and the noise of a seed of the study."""
    from m2fedsa.assembly import Extensions, samples_of
    from m2fedsa.models.cut import whole
    from m2fedsa.models.encoders import load

    config = Plan(task, folders, ()).base(()).model_copy(update={"seed": seed})
    data: FederatedData = samples_of(config, Extensions())
    held: dict[str, list[Any]] = {split: [one for who in data.clients.values() if (one := who.split(split))] for split in
                                  ("train", "validation", "test")}  # fmt: skip
    rows = 1 + max(int(one.indices.max()) for kind in held.values() for one in kind)
    labels = torch.zeros(rows, dtype=torch.int64)
    for one in (one for kind in held.values() for one in kind):
        labels[one.indices] = one.labels
    found, train = {}, {}
    for modality in data.modalities:
        model, parts, places = load(config.modalities[modality].encoder), [], []
        for one in (one for kind in held.values() for one in kind if modality in one.modalities):
            there = one.presence[:, one.modalities.index(modality)].nonzero()[:, 0]
            places.append(one.indices[there])
            with torch.no_grad():
                parts += [whole(model, one.inputs(modality, chunk)) for chunk in torch.split(there, CHUNK) if len(chunk)]
        features = torch.cat(parts).float()
        found[modality] = torch.zeros(rows, features.shape[1]).index_copy(0, torch.cat(places), features)
        having = [one.indices[one.presence[:, one.modalities.index(modality)]] for one in held["train"] if modality in one.modalities]
        train[modality] = torch.cat(having)
    splits = {split: torch.cat([one.indices for one in held[split]]) for split in ("validation", "test")}
    return Table(found, labels, train, splits["validation"], splits["test"], len(data.classes))


def components(values: Tensor, rows: Tensor, number: int, white: bool) -> Tensor:
    """(R, min(number, D)) principal components as the rows know them, of mean zero; each of spread one if white, else all by one factor."""
    mean = values[rows].mean(0)
    _, sizes, axes = torch.linalg.svd(values[rows] - mean, full_matrices=False)
    spread = sizes[:number] / len(rows) ** 0.5
    turned = (values - mean) @ axes[:number].T
    return turned / (spread.clamp_min(1e-6) if white else (spread**2).mean().sqrt())


def known(table: Table, modality: str, population: str, seed: int) -> tuple[Known, Tensor]:
    """What the head of a modality learns from, and its features of all rows (R, D)."""
    draw = torch.Generator().manual_seed(seed)
    mine = table.train[modality]
    if population == "a tenth":
        mine = mine[torch.randperm(len(mine), generator=draw)[: max(len(mine) // 10, table.classes)]]
    train = {**table.train, modality: mine}
    values = {name: components(one, train[name], WIDTH, white=False) for name, one in table.features.items()}
    white = {name: components(one, train[name], SPACE, white=True) for name, one in table.features.items()}
    short = {name: F.pad(one, (0, SPACE - one.shape[1])) for name, one in white.items()}
    others = {}
    for name in table.features:
        both = torch.isin(mine, train[name]).nonzero()[:, 0]
        if name != modality and len(both):
            others[name] = (both, short[name][mine[both]])
    apart = {name: (short[name][train[name]], table.labels[train[name]]) for name in table.features if name != modality}
    opinions = {name: table.opinion(name, values[name], train[name], seed) for name in table.features}
    count = torch.zeros(len(mine))
    total = torch.zeros(len(mine), table.classes)
    prior = torch.bincount(table.labels[mine], minlength=table.classes).add(0.5).log().log_softmax(0)
    for name in table.features:
        there = torch.isin(mine, train[name])
        total[there] += opinions[name][mine[there]].log_softmax(-1) - prior
        count += there
    fused = torch.where((count > 1)[:, None], total + prior, torch.nan)
    teachers = {"fused": fused, "self": opinions[modality][mine]}
    return Known(values[modality][mine], table.labels[mine], others, apart, teachers, table.classes), values[modality]


def unseen(values: Tensor, table: Table, rows: Tensor, seed: int) -> Tensor:
    """Logits (R, K) of each of the rows by a head that had not seen it."""
    found = torch.full((len(values), table.classes), torch.nan)
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    judged = (values[table.validation], table.labels[table.validation])
    for fold in range(FOLDS):
        held, rest = order[fold::FOLDS], torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        head = fit("one", Known(values[rest], table.labels[rest], {}, {}, {}, table.classes), judged, seed, DECAYS[:1])
        found[held] = head(values[held])
    return found


# --- rows and tables --------------------------------------------------------------------------------------------------------------------


def settings_of(task: Task, seed: int, constants: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a row: seed, data and encoders of the task, without their places, and what a benchmark adds."""
    config = Plan(task, dict.fromkeys(task.folders, ""), ()).base(()).override([f"seed={seed}"])
    decisive = config.model_dump(mode="json", exclude_defaults=True, include={"seed", "data", "modalities"})
    for modality in decisive["modalities"].values():
        # Features are of whole encoders, wherever these are cut.
        modality.pop("block", None)
    return hashlib.sha256(json.dumps([decisive, constants], sort_keys=True).encode()).hexdigest()


def judged_on(table: Table, logits: Mapping[str, Tensor]) -> dict[str, Any]:
    """Accuracy of logits (T, K) of the test samples, each by its name, and a digest of all of them."""
    from m2fedsa.state import digest, fingerprints

    truth = table.labels[table.test]
    accuracy = {name: round(float((values.argmax(-1) == truth).double().mean()), 5) for name, values in logits.items()}
    return {"accuracy": accuracy, "digest": digest(fingerprints(logits))}


def measured(table: Table, modality: str, population: str, seed: int) -> dict[str, Any]:
    """Test accuracy of each form, and a digest of what the heads say."""
    one, every = known(mislabelled(table, seed) if population == "mislabelled" else table, modality, population, seed)
    judged = (every[table.validation], table.labels[table.validation])
    return judged_on(table, {form: fit(form, one, judged, seed)(every[table.test]) for form in FORMS})


def mislabelled(table: Table, seed: int) -> Table:
    """With wrong labels of some training samples."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.cat(list(table.train.values())).unique()
    wrong = rows[torch.rand(len(rows), generator=draw) < MISLABELLED]
    labels = table.labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, table.classes, (len(wrong),), generator=draw)) % table.classes
    return replace(table, labels=labels, heard={})


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy without a form, and points that each form adds, paired by seed."""
    from m2fedsa.statistics import difference, estimate

    forms = list(FORMS)[1:]
    lines = [HEAD, f"| task | modality | samples | none | {' | '.join(forms)} |", "| --- | --- | --- | --- |" + " --- |" * len(forms)]
    for task, population, modality in dict.fromkeys((row["task"], row["population"], row["modality"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["population"], row["modality"]) == (task, population, modality)]
        plain = [row["accuracy"]["none"] for row in mine]
        shown = []
        for form in forms:
            apart = difference([row["accuracy"][form] for row in mine], plain)
            shown.append("–" if apart is None else apart.points)
        lines.append(f"| {task} | {modality} | {population} | {estimate(plain)} | {' | '.join(shown)} |")
    for population in POPULATIONS:
        ours = [row for row in rows if row["population"] == population]
        seeds = sorted({row["seed"] for row in ours})
        means = {form: [fmean(row["accuracy"][form] for row in ours if row["seed"] == seed) for seed in seeds] for form in FORMS}
        apart = [difference(means[form], means["none"]) for form in forms]
        told = [one.points for one in apart if one]
        if told:
            lines.append(f"| all | mean | {population} | {fmean(means['none']):.3f} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def page(rows: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]) -> str:
    """Heads on frozen features, and below them what `wrong_labels.py` has found in the whole system."""
    return render(rows) + (f"\n{WHOLE_SYSTEM}\n{wrong_labels.render(whole)}" if whole else "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("flipkart", "digits", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours; see docs/results_real.md")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/taught_heads.jsonl"))
    parser.add_argument("--wrong", type=Path, default=Path("benchmarks/results/wrong_labels.jsonl"), help="the rows of `wrong_labels.py`")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="fewer of them, for a trial")
    given = parser.parse_args(arguments)
    store = Store(given.rows)
    kept = {(row["task"], row["modality"], row["population"], row["seed"], row["settings"]) for row in store.rows}
    for task in TASKS:
        folders = {name: getattr(given, name, None) for name in task.folders}
        if task.recipe not in MODALITIES or not all(folders.values()):
            continue
        for seed in SEEDS[: given.seeds]:
            settings = settings_of(task, seed, CONSTANTS)
            due = [
                (modality, population)
                for population in POPULATIONS
                for modality in MODALITIES[task.recipe]
                if (task.recipe, modality, population, seed, settings) not in kept
            ]
            table = table_of(task, folders, seed) if due else None
            for modality, population in due:
                assert table is not None
                found = measured(table, modality, population, seed)
                what = {"task": task.recipe, "modality": modality, "population": population, "seed": seed, "settings": settings}
                store.add({**what, **found})
                print(f"{task.recipe} {modality} {population} {seed} {found['accuracy']}", flush=True)
    text = page(store.rows, Store(given.wrong).rows)
    if given.table:
        given.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
