"""What differs between the kinds of task, after docs/paper.md ("Tasks"), sample by sample: the reference of the unsplit network.

A label is a number, a list of zeros and ones, or a list of floats. `names` are the modalities whose opinions are meant.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch import Tensor

Label = int | list[int] | list[float]


def has_label(labels: Tensor) -> Tensor:
    return torch.tensor(
        [all(value == value and value != -1 for value in np.atleast_1d(label.numpy())) for label in labels], dtype=torch.bool
    )


class OneLabel:
    """One class of several."""

    def __init__(self, order: Sequence[str]) -> None:
        self.order = order

    late = staticmethod(lambda p, prior: sum(p.values()) - (len(p) - 1) * prior)

    @staticmethod
    def loss(s: Tensor, label: Label, prior: Tensor, weights: Tensor) -> Tensor:
        return -weights[label] * (s - torch.logsumexp(s, -1))[label]

    @staticmethod
    def sure(s: Tensor) -> float:
        return max(math.exp(one - float(torch.logsumexp(s, -1))) for one in s.tolist())

    @staticmethod
    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        q, p = (x - torch.logsumexp(x, -1) for x in (teacher.detach(), student))
        return (q.exp() * (q - p)).sum()

    @staticmethod
    def own(labels: Sequence[Label], prior: Tensor, weights: Tensor, evenly: bool = False) -> Tensor:
        """π_u, smoothed by 0.5 per class; what it becomes where classes have weights, or are drawn alike."""
        counts = [sum(label == one for label in labels) for one in range(len(prior))]
        if evenly:
            held = [count > 0 for count in counts]
            counts = [sum(counts) / sum(held) * one for one in held]
        own = torch.tensor([count + 0.5 for count in counts]).to(prior.dtype) * weights
        return own / own.sum()

    @staticmethod
    def under(s: Tensor, own: Tensor, names: Sequence[str], prior: Tensor) -> Tensor:
        return s + (own.log() - prior)

    @staticmethod
    def estimated(lines: Sequence[tuple[Tensor, Sequence[str]]], labels: Sequence[Label], prior: Tensor) -> Tensor:
        """A client's class frequencies by expectation-maximisation."""
        logits, ratio = [line.tolist() for line, _ in lines], [1.0] * len(prior)
        for _ in range(21):
            expected = [sum(label == one for label in labels) + 0.5 for one in range(len(prior))]
            for line in logits:
                odds = [math.exp(value - max(line)) * weight for value, weight in zip(line, ratio, strict=True)]
                for label, one in enumerate(odds):
                    expected[label] += one / sum(odds)
            frequencies = [one / sum(expected) for one in expected]
            ratio = [one / math.exp(base) for one, base in zip(frequencies, prior.tolist(), strict=True)]
        return torch.tensor(frequencies).to(prior.dtype)


class SeveralLabels:
    """Each class is a coin of its own."""

    def __init__(self, order: Sequence[str]) -> None:
        self.order = order

    @staticmethod
    def late(p: Mapping[str, Tensor], prior: Tensor) -> Tensor:
        return sum(p.values()) - (len(p) - 1) * prior

    @staticmethod
    def loss(s: Tensor, label: Label, prior: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros(())
        for value, there, weight in zip(s, label, weights, strict=True):
            total = total - (weight * torch.log(torch.sigmoid(value)) if there else torch.log(1 - torch.sigmoid(value)))
        return total / len(s)

    @staticmethod
    def sure(s: Tensor) -> float:
        there = [1 / (1 + math.exp(-one)) for one in s.tolist()]
        return sum(max(one, 1 - one) for one in there) / len(there)

    @staticmethod
    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        q, p = torch.sigmoid(teacher.detach()), torch.sigmoid(student)
        return (q * torch.log(q / p) + (1 - q) * torch.log((1 - q) / (1 - p))).mean()

    @staticmethod
    def own(labels: Sequence[Label], prior: Tensor, weights: Tensor, evenly: bool = False) -> Tensor:
        known = [label for label in labels if min(label) >= 0]
        having = torch.tensor([sum(label[k] for label in known) for k in range(len(prior))]).to(prior.dtype)
        return torch.log(weights * (having + 0.5) / (len(known) - having + 0.5))

    @staticmethod
    def under(s: Tensor, own: Tensor, names: Sequence[str], prior: Tensor) -> Tensor:
        return s + own - prior

    def estimated(self, lines: Sequence[tuple[Tensor, Sequence[str]]], labels: Sequence[Label], prior: Tensor) -> Tensor:
        """Log-odds of each class at a client; an unlabelled sample counts by its probability under the last guess."""
        known = [label for label in labels if min(label) >= 0]
        odds = []
        for k, base in enumerate(prior.tolist()):
            guess = base
            for _ in range(21):
                there = sum(label[k] for label in known)
                there += sum(1 / (1 + math.exp(-(float(line[k]) + guess - base))) for line, _ in lines)
                guess = math.log((there + 0.5) / (len(known) + len(lines) - there + 0.5))
            odds.append(guess)
        return torch.tensor(odds).to(prior.dtype)

    # closed form

    @staticmethod
    def prior(labels: Sequence[Label], before: Tensor) -> Tensor:
        having = np.array([label for label in labels if min(label) >= 0]).sum(0)
        number = sum(min(label) >= 0 for label in labels)
        return torch.from_numpy(np.log((having + 0.5) / (number - having + 0.5))).to(before.dtype)

    @staticmethod
    def fit(z: np.ndarray, y: np.ndarray, shrinkage: float, prior: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """scikit-learn's ridge regression of each class, its score through scikit-learn's discriminant analysis of one number."""
        weights, biases = [], []
        for column in y.T:
            there = column > 0.5
            if there.all() or not there.any():
                weights.append(np.zeros(z.shape[1]))
                biases.append(0.0)
                continue
            direction = ridge(z, column, shrinkage)
            slope, intercept = of_one_number(direction.predict(z), column)
            weights.append(slope * direction.coef_)
            biases.append(slope * direction.intercept_ + intercept)
        return np.stack(weights), np.array(biases)

    @staticmethod
    def scales(scales: Sequence[float]) -> Sequence[float]:
        return scales

    @staticmethod
    def classifier(weight: np.ndarray, bias: np.ndarray, scale: float, prior: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return scale * weight, scale * bias + prior.double().numpy()

    @staticmethod
    def judge(logits: np.ndarray, y: np.ndarray, prior: Tensor) -> float:
        return float(np.where(y > 0.5, np.logaddexp(0, -logits), np.logaddexp(0, logits)).mean(1).sum())

    @staticmethod
    def values(labels: Sequence[Label]) -> np.ndarray:
        return np.array(labels, dtype=np.float64)

    def soft(self, s: Tensor, own: Tensor, names: Sequence[str], prior: Tensor) -> np.ndarray:
        return torch.sigmoid(self.under(s, own, names, prior)).double().numpy()


class Numbers:
    """Each target is a Gaussian of its own; prior: (2 + M, K), mean, deviation, and what each modality leaves of the variance."""

    def __init__(self, order: Sequence[str]) -> None:
        self.order = order

    def left(self, names: Sequence[str], prior: Tensor) -> Tensor:
        """The variance of the product of Gaussian opinions over all but one of their common priors."""
        precision = torch.ones_like(prior[0])
        for name in names:
            precision = precision + 1 / prior[2 + self.order.index(name)] - 1
        return 1 / precision

    def late(self, p: Mapping[str, Tensor], prior: Tensor) -> Tensor:
        return self.left(list(p), prior) * sum(value / prior[2 + self.order.index(name)] for name, value in p.items())

    @staticmethod
    def loss(s: Tensor, label: Label, prior: Tensor, weights: Tensor) -> Tensor:
        y = (torch.tensor(label).to(s.dtype) - prior[0]) / prior[1]
        return ((s - y) ** 2).mean() / 2

    @staticmethod
    def sure(_: Tensor) -> float:
        return 1.0

    @staticmethod
    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        return ((teacher.detach() - student) ** 2).mean() / 2

    @staticmethod
    def moments(t: Tensor, spread: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and variance of values, one of the standard distribution among them."""
        mean = t.sum(0) / (len(t) + 1)
        return mean, ((t**2 + spread).sum(0) + 1) / (len(t) + 1) - mean**2

    def own(self, labels: Sequence[Label], prior: Tensor, weights: Tensor, evenly: bool = False) -> tuple[Tensor, Tensor]:
        known = [label for label in labels if label[0] == label[0]]
        t = (torch.tensor(known).double().reshape(-1, len(prior[0])) - prior[0].double()) / prior[1].double()
        return tuple(value.to(prior.dtype) for value in self.moments(t))

    def under(self, s: Tensor, own: tuple[Tensor, Tensor], names: Sequence[str], prior: Tensor) -> Tensor:
        mean, variance = own
        left = self.left(names, prior)
        precision = 1 / left - 1 + 1 / variance
        return (s / left + mean / variance) / precision

    def estimated(self, lines: Sequence[tuple[Tensor, Sequence[str]]], labels: Sequence[Label], prior: Tensor) -> tuple[Tensor, Tensor]:
        known = [label for label in labels if label[0] == label[0]]
        t = (torch.tensor(known).double().reshape(-1, len(prior[0])) - prior[0].double()) / prior[1].double()
        mean, variance = torch.zeros_like(t[:1].sum(0)), torch.ones_like(t[:1].sum(0))
        for _ in range(21):
            posteriors, spreads = [], []
            for s, names in lines:
                left = self.left(names, prior.double())
                spreads.append(1 / (1 / left - 1 + 1 / variance))
                posteriors.append(spreads[-1] * (s.double() / left + mean / variance))
            both = torch.cat([t, torch.stack(posteriors)])
            mean, variance = self.moments(both, torch.cat([torch.zeros_like(t), torch.stack(spreads)]))
        return mean.to(prior.dtype), variance.to(prior.dtype)

    # closed form

    @staticmethod
    def prior(labels: Sequence[Label], before: Tensor) -> Tensor:
        y = np.array([label for label in labels if label[0] == label[0]])
        new = before.clone()
        new[0], new[1] = torch.from_numpy(y.mean(0)), torch.from_numpy(y.std(0))
        return new

    @staticmethod
    def fit(z: np.ndarray, y: np.ndarray, shrinkage: float, prior: Tensor) -> tuple[np.ndarray, np.ndarray]:
        fitted = ridge(z, y, shrinkage)
        mean, deviation = prior[0].double().numpy(), prior[1].double().numpy()
        return fitted.coef_ / deviation[:, None], (fitted.intercept_ - mean) / deviation

    @staticmethod
    def scales(scales: Sequence[float]) -> Sequence[float]:
        return (1.0,)

    @staticmethod
    def classifier(weight: np.ndarray, bias: np.ndarray, scale: float, prior: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return weight, bias

    @staticmethod
    def squares(logits: np.ndarray, y: np.ndarray, prior: Tensor) -> np.ndarray:
        return (logits - (y - prior[0].double().numpy()) / prior[1].double().numpy()) ** 2

    def judge(self, logits: np.ndarray, y: np.ndarray, prior: Tensor) -> float:
        return float(self.squares(logits, y, prior).sum())

    @staticmethod
    def values(labels: Sequence[Label]) -> np.ndarray:
        return np.nan_to_num(np.array(labels, dtype=np.float64))

    def soft(self, s: Tensor, own: tuple[Tensor, Tensor], names: Sequence[str], prior: Tensor) -> np.ndarray:
        return (prior[0] + prior[1] * self.under(s, own, names, prior)).double().numpy()


def of_one_number(score: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Discriminant analysis of one number, without its prior: scikit-learn's for zeros and ones; where they are soft, by weights."""
    if np.isin(y, (0, 1)).all():
        fitted = LinearDiscriminantAnalysis(solver="lsqr").fit(score[:, None], y > 0.5)
        return fitted.coef_[0, 0], fitted.intercept_[0] - np.log(fitted.priors_[1] / fitted.priors_[0])
    above, below = np.average(score, weights=y), np.average(score, weights=1 - y)
    within = (y * (score - above) ** 2 + (1 - y) * (score - below) ** 2).mean()
    slope = (above - below) / within
    return slope, -slope * (above + below) / 2


def ridge(z: np.ndarray, y: np.ndarray, shrinkage: float) -> Ridge:
    """The penalty that shrinks the scatter towards its mean eigenvalue by this fraction."""
    centred = z - z.mean(0)
    alpha = shrinkage / (1 - shrinkage) * (centred**2).sum() / z.shape[1]
    return Ridge(alpha=alpha, solver="svd").fit(z, y)


KINDS = {"single_label": OneLabel, "multi_label": SeveralLabels, "regression": Numbers}
