"""The warm start of tasks that are solved by ridge regression, on the pooled data, with scikit-learn."""

from collections.abc import Mapping

import numpy as np
import torch
from tests.equivalence import unsplit
from tests.equivalence.unsplit_run import Run, unlabelled_pairs
from tests.equivalence.unsplit_tasks import has_label

from m2fedsa.data.samples import InMemorySamples

Soft = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""client -> targets (N, K), and which samples are taught (N,)"""


class RidgeRun(Run):
    """A run whose classifiers begin as ridge regressions."""

    def warm_start(self) -> None:
        kind = self.network.kind
        labels = [label for samples in self.clients.values() for label in samples.labels.tolist()]
        self.log_prior = kind.prior(labels, self.log_prior)
        features = {name: self.pooled_features(samples) for name, samples in self.clients.items()}
        nothing = {name: (kind.values(one.labels.tolist()), np.zeros(len(one.labels), bool)) for name, one in self.clients.items()}
        self.solve_ridge(features, nothing)
        if self.config.transfer.closed_form and any(unlabelled_pairs(samples).any() for samples in self.clients.values()):
            self.solve_ridge(features, {name: self.taught(samples) for name, samples in self.clients.items()})

    def taught(self, samples: InMemorySamples) -> tuple[np.ndarray, np.ndarray]:
        kind, prior, taught = self.network.kind, self.log_prior, unlabelled_pairs(samples)
        values = kind.values(samples.labels.tolist())
        if bool(taught.any()):
            batch = unsplit.Batch.complete(samples, taught.nonzero().flatten())
            with torch.no_grad():
                out = self.network.forward(self.tensors, batch, unsplit.Masks())
            lines = [(s, sorted(names)) for s, names in zip(out.fused, batch.entering, strict=True)]
            own = kind.estimated(lines, samples.labels.tolist(), prior)
            values[taught.numpy()] = np.stack([kind.soft(s, own, names, prior) for s, names in lines])
        return values, taught.numpy()

    def solve_ridge(self, features: Mapping[str, Mapping[str, np.ndarray]], soft: Soft) -> None:
        """Per modality: choose shrinkage and scale on every other labelled sample of each client, by fits on all the rest; refit."""
        settings, kind, left = self.config.warm_start, self.network.kind, {}
        for modality in self.data.modalities:
            (z_fit, y_fit), (z_odd, y_odd) = self.halves(features, soft, modality)
            found = {}
            for shrinkage in settings.shrinkages:
                weight, bias = kind.fit(z_fit, y_fit, shrinkage, self.log_prior)
                for scale in kind.scales(settings.scales):
                    w, b = kind.classifier(weight, bias, scale, self.log_prior)
                    found[shrinkage, scale] = z_odd @ w.T + b
            losses = {one: kind.judge(logits, y_odd, self.log_prior) for one, logits in found.items()}
            shrinkage, scale = self.chosen[modality] = min(losses, key=losses.__getitem__)
            weight, bias = kind.fit(np.concatenate([z_fit, z_odd]), np.concatenate([y_fit, y_odd]), shrinkage, self.log_prior)
            for part, value in zip(("weight", "bias"), kind.classifier(weight, bias, scale, self.log_prior), strict=True):
                name = f"{modality}.classifier.{part}"
                self.tensors[name] = torch.from_numpy(value).to(self.tensors[name].dtype)
            if self.config.data.task == "regression":
                left[modality] = kind.squares(found[shrinkage, scale], y_odd, self.log_prior).mean(0)
        for place, modality in enumerate(self.data.modalities):
            if left:
                self.log_prior[2 + place] = torch.from_numpy(left[modality].clip(1e-3, 1))

    def halves(
        self, features: Mapping[str, Mapping[str, np.ndarray]], soft: Soft, modality: str
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """What makes classifiers, and what judges them: features and targets."""
        parts: tuple[list[tuple[np.ndarray, np.ndarray]], ...] = ([], [])
        for client, samples in self.clients.items():
            if modality in features[client]:
                z, (y, taught) = features[client][modality], soft[client]
                has = ~np.isnan(z[:, 0])
                known = np.flatnonzero(has & has_label(samples.labels).numpy())
                fitted = np.sort(np.concatenate([known[::2], np.flatnonzero(has & taught)]))
                for into, rows in zip(parts, (fitted, known[1::2]), strict=True):
                    into.append((z[rows], y[rows]))
        return tuple((np.concatenate([z for z, _ in part]), np.concatenate([y for _, y in part])) for part in parts)
