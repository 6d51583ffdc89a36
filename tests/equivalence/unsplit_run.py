"""Federated averaging of the unsplit network, after algorithm.md: clients in a loop, one network, one graph a step, means by hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from tests.equivalence import unsplit
from tests.equivalence.unsplit_tasks import has_label
from torch import Tensor, nn

from m2fedsa.config import Config
from m2fedsa.data.samples import FederatedData, InMemorySamples
from m2fedsa.seeding import derive, derive_seed


def unlabelled_pairs(samples: InMemorySamples) -> Tensor:
    """Samples that can be taught: several modalities, no label."""
    return ~has_label(samples.labels) & (samples.presence.sum(1) > 1)


def discriminant(z: np.ndarray, q: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis of pooled features (N, D) under weights (N, K), without the prior.

    A class of nobody has the mean of all.
    """
    weights = [column if column.any() else q.sum(1) for column in q.T]
    means = np.stack([np.average(z, axis=0, weights=one) for one in weights])
    within = np.zeros((z.shape[1], z.shape[1]))
    for one, mean in enumerate(means):
        within += np.einsum("n,nd,ne->de", q[:, one], z - mean, z - mean)
    within /= q.sum()
    inverse = np.linalg.inv((1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within)))
    return means @ inverse, -0.5 * np.einsum("kd,de,ke->k", means, inverse, means)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(sum(np.logaddexp.reduce(line) - line[label] for line, label in zip(logits, labels, strict=True)))


@dataclass
class Run:
    """A run from its first tensors on."""

    config: Config
    data: FederatedData
    encoders: Mapping[str, nn.Module]
    tensors: dict[str, Tensor]
    log_prior: Tensor = field(init=False)
    velocity: dict[str, Tensor] = field(default_factory=dict)
    personal: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """client -> tensors that are averaged over nothing"""
    teachers: dict[str, tuple[int, dict[str, Tensor]]] = field(default_factory=dict)
    trainers: dict[object, set[str]] = field(default_factory=dict)
    chosen: dict[str, tuple[float, float]] = field(default_factory=dict)
    moments: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """tensor -> mean, mean square and number of steps, of the clients in the mean"""
    stepped: dict[str, dict[str, tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)
    """client -> what its round has made of them"""

    def __post_init__(self) -> None:
        classes = len(self.data.classes)
        self.weights = torch.ones(classes)
        modalities = len(self.data.modalities)
        self.log_prior = {
            "single_label": torch.full((classes,), -math.log(classes)),
            "multi_label": torch.zeros(classes),
            "regression": torch.tensor([[0.0] * classes, [1.0] * classes, *[[0.5] * classes] * modalities]),
        }[self.config.data.task]

    @property
    def network(self) -> unsplit.Network:
        return unsplit.Network(self.config, self.encoders, self.log_prior, self.weights)

    @property
    def clients(self) -> dict[str, InMemorySamples]:
        return {name: client.train for name, client in sorted(self.data.clients.items()) if client.train is not None}

    def play(self) -> dict[str, Tensor]:
        """All of it; the global tensors after the last round."""
        if self.config.federation.warm_start:
            self.warm_start()
        for number in range(1, self.config.federation.rounds + 1):
            self.round(number)
        return self.tensors

    # --- rounds -------------------------------------------------------------------------------------------------------------------------

    def round(self, number: int) -> None:
        config, start = self.config, self.config.transfer.start
        phase = "transfer" if isinstance(start, int) and number >= start else "fusion"
        eligible = [
            name
            for name, samples in self.clients.items()
            if has_label(samples.labels).any() or (phase == "transfer" and unlabelled_pairs(samples).any())
        ]
        if config.federation.clients_per_round is not None:
            drawn = torch.randperm(len(eligible), generator=derive(config.seed, "sample", number))
            eligible = [eligible[place] for place in drawn[: config.federation.clients_per_round]]
        rate = config.optimizer.learning_rate
        if config.optimizer.schedule == "cosine":
            rate *= 0.5 + 0.5 * math.cos(math.pi * (number - 1) / config.federation.rounds)
        if config.federation.server_update == "in_turn":
            # One set of the main server's tensors with one optimiser, on which the clients step one after the other.
            shared = {name: tensor for name, tensor in self.tensors.items() if not unsplit.of_client(name)}
            shared = unsplit.leaves_of(shared, phase, self.data.modalities)
            stepper = unsplit.optimizers(shared, config, rate)[1]
            self.recall([stepper], shared)
            said = {client: self.local_round(client, number, phase, rate, shared, stepper) for client in sorted(eligible)}
        else:
            # The order of clients is another than the code's: it must not matter.
            said = {client: self.local_round(client, number, phase, rate) for client in reversed(eligible)}
        self.average(said)

    def local_round(
        self,
        client: str,
        number: int,
        phase: str,
        rate: float,
        shared: Mapping[str, Tensor] | None = None,
        stepper: torch.optim.Optimizer | None = None,
    ) -> dict[str, tuple[Tensor, int]]:
        """What a client makes of the tensors that it trained, and from how many distinct samples. Of `shared` ones all clients say the
        same in the end: what the last one has made of them."""
        config, samples, seed = self.config, self.clients[client], derive_seed(self.config.seed, "round", number)
        seen = {**self.tensors, **self.personal.get(client, {})}
        teachers = self.teachers_of(client, number, seen) if phase == "transfer" else None
        objective = unsplit.Objective(self.network, phase, config.transfer.weights, teachers, config.transfer.teacher == "self")
        t = unsplit.leaves_of(seen, phase, samples.modalities)
        steppers = unsplit.optimizers(t, config, rate)
        self.recall(steppers, t)
        if shared is not None and stepper is not None:
            t |= {name: shared[name] for name in t if name in shared}
            steppers = (steppers[0], stepper)
            stepper.zero_grad()  # of modalities that this client does not have
        masks = unsplit.Masks(seed, client)
        trained_by: dict[str, set[int]] = {}
        luck = derive(seed, client, "modality dropout")
        for rows in self.batches(samples, phase, derive(seed, client, "batches")):
            batch = unsplit.Batch(samples, rows, self.entering(samples, rows, phase, luck))
            found = unsplit.gradients(t, self.network, objective, batch, masks)
            unsplit.step(t, found, steppers, config)
            for place, row in enumerate(rows.tolist()):
                for name in self.trained_by_one(client, phase, batch, place, objective):
                    trained_by.setdefault(name, set()).add(row)
        states = {name: next(one.state[t[name]] for one in steppers if t[name] in one.state) for name in trained_by}
        self.stepped[client] = {name: (one["exp_avg"], one["exp_avg_sq"], one["step"]) for name, one in states.items()}
        return {name: (t[name].detach(), len(rows)) for name, rows in trained_by.items()}

    def recall(self, steppers: Sequence[torch.optim.Optimizer], t: Mapping[str, Tensor]) -> None:
        """Go on from the moments of the last rounds."""
        for name, tensor in t.items():
            one = next((one for one in steppers if any(tensor is p for group in one.param_groups for p in group["params"])), None)
            if self.config.optimizer.moments == "averaged" and name in self.moments and one is not None:
                mean, square, steps = (value.clone() for value in self.moments[name])
                one.state[tensor] = {"step": steps, "exp_avg": mean, "exp_avg_sq": square}

    def batches(self, samples: InMemorySamples, phase: str, generator: torch.Generator) -> list[Tensor]:
        settings = self.config.federation
        take = has_label(samples.labels)
        if phase == "transfer":
            take = take | unlabelled_pairs(samples)
        rows = take.nonzero().flatten()
        made: list[Tensor] = []
        passes = settings.local_epochs if settings.local_steps is None else settings.local_steps
        odds = torch.ones(len(rows))
        if self.config.loss.balance == "sampling":
            own = [label for label in samples.labels[rows].tolist() if label >= 0]
            known = len(own) / len(set(own))
            odds = torch.tensor([known / own.count(label) if label >= 0 else 1.0 for label in samples.labels[rows].tolist()])
        for _ in range(passes):
            if self.config.loss.balance == "sampling":
                order = rows[torch.multinomial(odds, len(rows), replacement=True, generator=generator)]
            else:
                order = rows[torch.randperm(len(rows), generator=generator)]
            made += [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
            if settings.local_steps is not None and len(made) >= settings.local_steps:
                return made[: settings.local_steps]
        return made

    def entering(self, samples: InMemorySamples, rows: Tensor, phase: str, luck: torch.Generator) -> list[set[str]]:
        chance = self.config.fusion.modality_dropout
        complete = unsplit.Batch.complete(samples, rows).entering
        if chance == 0 or phase == "transfer":
            return complete
        draws = torch.rand(len(rows), len(samples.modalities), generator=luck).tolist()
        left = []
        for names, drawn in zip(complete, draws, strict=True):
            value = {name: one for name, one in zip(samples.modalities, drawn, strict=True) if name in names}
            left.append({name for name in names if value[name] >= chance} or {max(value, key=value.__getitem__)})
        return left

    def trained_by_one(self, client: str, phase: str, batch: unsplit.Batch, place: int, objective: unsplit.Objective) -> set[str]:
        """Which tensors one sample trains: those that its loss alone has a gradient for. Samples of one pattern train the same."""
        row = batch.rows[place : place + 1]
        held = tuple(batch.samples.presence[row][0].tolist())
        pattern = (client, phase, held, tuple(sorted(batch.entering[place])), bool(has_label(batch.samples.labels[row])))
        if pattern not in self.trainers:
            alone = unsplit.Batch(batch.samples, row, [batch.entering[place]])
            t = unsplit.leaves_of(self.tensors, phase, batch.samples.modalities)
            found = unsplit.gradients(t, self.network, objective, alone, unsplit.Masks())
            self.trainers[pattern] = {name for name, gradient in found.items() if gradient is not None}
        return self.trainers[pattern]

    def teachers_of(self, client: str, number: int, seen: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Logits in evaluation mode of the tensors that the client saw first in this window of rounds."""
        samples = self.clients[client]
        taught = unlabelled_pairs(samples)
        if not bool(taught.any()):
            return None
        start = self.config.transfer.start
        assert isinstance(start, int)
        window = (number - start) // self.config.transfer.refresh
        if self.teachers.get(client, (-1, {}))[0] != window:
            self.teachers[client] = (window, self.teach(samples, taught, seen))
        return self.teachers[client][1]

    def teach(self, samples: InMemorySamples, taught: Tensor, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = taught.nonzero().flatten()
        with torch.no_grad():
            out = self.network.forward(seen, unsplit.Batch.complete(samples, rows), unsplit.Masks())
        made = {}
        for name in samples.modalities:
            made[name] = torch.full((len(taught), len(self.data.classes)), float("nan"))
            for row, fused, own in zip(rows.tolist(), out.fused, out.logits, strict=True):
                if self.config.transfer.teacher == "fused":
                    made[name][row] = fused
                elif name in own:
                    made[name][row] = own[name]
        return made

    # --- averages -----------------------------------------------------------------------------------------------------------------------

    def over(self, name: str) -> str:
        return next((rule.over for rule in self.config.averaging.rules if fnmatchcase(name, rule.pattern)), "clients")

    def average(self, said: Mapping[str, Mapping[str, tuple[Tensor, int]]]) -> None:
        new: dict[str, Tensor] = {}
        for name in self.tensors:
            heard = [(client, *trained[name]) for client, trained in said.items() if name in trained]
            if self.over(name) == "nothing":
                for client, value, _ in heard:
                    self.personal.setdefault(client, {})[name] = value
            elif heard:
                told = [[value.double() * number for value in self.stepped[client][name]] for client, _, number in heard]
                mean, square, steps = (sum(values) / sum(number for *_, number in heard) for values in zip(*told, strict=True))
                # AdamW counts in single precision, even where all else is double.
                self.moments[name] = (mean, square, steps.float())
                new[name] = sum(value * number for _, value, number in heard) / sum(number for _, _, number in heard)
        shared = sorted({name.partition(".")[2] for name in new if self.over(name) == "modalities"})
        for rest in shared:
            members = [f"{modality}.{rest}" for modality in self.data.modalities if f"{modality}.{rest}" in new]
            mean = sum(new[member] for member in members) / len(members)
            new |= dict.fromkeys(members, mean)
        momentum = self.config.federation.server_momentum
        for name, value in new.items():
            self.velocity[name] = momentum * self.velocity.get(name, torch.zeros(())) + value - self.tensors[name]
            new[name] = self.tensors[name] + self.velocity[name]
        self.tensors = {**self.tensors, **new}

    # --- warm start ---------------------------------------------------------------------------------------------------------------------

    def warm_start(self) -> None:
        """Discriminant classifiers of the pooled data; once more with the soft labels of samples that have none."""
        hard = {name: self.targets(samples) for name, samples in self.clients.items()}
        counts = sum(q.sum(0) for q in hard.values()) + 0.5
        frequencies = torch.from_numpy(counts / counts.sum()).to(self.log_prior.dtype)
        self.log_prior = frequencies.log()
        if self.config.loss.balance != "none":
            self.log_prior = torch.full_like(frequencies, 1 / len(frequencies)).log()
        if self.config.loss.balance == "weights":
            self.weights = 1 / (len(frequencies) * frequencies)
        features = {name: self.pooled_features(samples) for name, samples in self.clients.items()}
        self.solve(features, hard, {name: np.zeros_like(q) for name, q in hard.items()})
        if self.config.transfer.closed_form and any(unlabelled_pairs(samples).any() for samples in self.clients.values()):
            self.solve(features, hard, {name: self.soft_targets(samples) for name, samples in self.clients.items()})

    def solve(
        self, features: Mapping[str, Mapping[str, np.ndarray]], hard: Mapping[str, np.ndarray], soft: Mapping[str, np.ndarray]
    ) -> None:
        """Per modality: choose shrinkage and scale on every other labelled sample of each client, by fits on all the rest; refit."""
        settings, prior = self.config.warm_start, self.log_prior.double().numpy()
        for modality in self.data.modalities:
            (z_even, q_even), (z_odd, q_odd), (z_soft, q_soft) = (
                self.pool(features, targets, modality, first, every) for targets, first, every in ((hard, 0, 2), (hard, 1, 2), (soft, 0, 1))
            )
            z_fit, q_fit = np.concatenate([z_even, z_soft]), np.concatenate([q_even, q_soft])
            losses = {}
            for shrinkage in settings.shrinkages:
                weight, bias = discriminant(z_fit, q_fit, shrinkage)
                for scale in settings.scales:
                    losses[shrinkage, scale] = cross_entropy(scale * (z_odd @ weight.T + bias) + prior, q_odd.argmax(1))
            shrinkage, scale = self.chosen[modality] = min(losses, key=losses.__getitem__)
            weight, bias = discriminant(np.concatenate([z_fit, z_odd]), np.concatenate([q_fit, q_odd]), shrinkage)
            for part, value in (("weight", scale * weight), ("bias", scale * bias + prior)):
                name = f"{modality}.classifier.{part}"
                self.tensors[name] = torch.from_numpy(value).to(self.tensors[name].dtype)

    def targets(self, samples: InMemorySamples) -> np.ndarray:
        q = (samples.labels[:, None] == torch.arange(len(self.data.classes))).double().numpy()
        return q * (q.sum(0) >= self.config.warm_start.min_count)

    def soft_targets(self, samples: InMemorySamples) -> np.ndarray:
        """softmax(s + log π_u/π) of the unlabelled samples of several modalities, zero elsewhere."""
        q, taught = np.zeros((len(samples.labels), len(self.data.classes))), unlabelled_pairs(samples)
        if bool(taught.any()):
            with torch.no_grad():
                out = self.network.forward(self.tensors, unsplit.Batch.complete(samples, taught.nonzero().flatten()), unsplit.Masks())
            logits, prior = torch.stack(out.fused).double(), self.log_prior.double()
            own = self.network.kind.estimated([(line, ()) for line in logits], samples.labels.tolist(), prior)
            told = ((logits + own.log() - prior) / self.config.transfer.temperature).softmax(1).numpy()
            weight = told.max(1) ** self.config.transfer.confidence
            q[taught.numpy()] = told * weight[:, None]
        return q

    def pooled_features(self, samples: InMemorySamples) -> dict[str, np.ndarray]:
        """modality -> (N, D), NaN where absent."""
        found = {}
        with torch.no_grad():
            for column, name in enumerate(samples.modalities):
                rows = samples.presence[:, column].nonzero().flatten()
                z = self.network.features(self.tensors, name, samples.inputs(name, rows), unsplit.Masks())
                found[name] = np.full((len(samples.labels), z.shape[1]), np.nan)
                found[name][rows.numpy()] = z.double().numpy()
        return found

    def pool(
        self, features: Mapping[str, Mapping[str, np.ndarray]], targets: Mapping[str, np.ndarray], modality: str, first: int, every: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of each client's first, second, … sample that has the modality and a target."""
        z, q = [], []
        for client in self.clients:
            if modality in features[client]:
                known = (targets[client].sum(1) > 0) & ~np.isnan(features[client][modality][:, 0])
                rows, half = features[client][modality][known][first::every], targets[client][known][first::every]
                if every == 2:
                    half = half * (half.sum(0) >= self.config.warm_start.min_count)
                elif len(rows) < self.config.warm_start.min_count:
                    half = np.zeros_like(half)
                elif self.config.transfer.confidence and len(rows):
                    half = half * len(rows) / half.sum()
                z.append(rows[half.sum(1) > 0])
                q.append(half[half.sum(1) > 0])
        return np.concatenate(z), np.concatenate(q)
