"""Pretrained encoders at work: `products`, `spoken_digits` and `meld_text` over five seeds, beside linear heads on the frozen features.

    python benchmarks/real_recipes.py --flipkart DIR --digits DIR --meld DIR --image DIR --audio DIR --text DIR \\
        --out benchmarks/results/real.jsonl --table docs/results_real.md

Data and encoders are folders of yours (docs/results_real.md says what they hold). `products` runs on five divisions of its samples, of
which 0 is the file's own; `spoken_digits` on its own division with noise of five seeds; `meld_text` on the official one, with clients by
speaker. The recipes were chosen with seed 0 on validation samples: it is not in the study. What was run before with the same settings is
not run again.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from quality import Recorder, Store
from real_table import render

if TYPE_CHECKING:
    from m2fedsa.config import Config
    from m2fedsa.data.samples import FederatedData

SEEDS = (5, 6, 7, 8, 9)
BALANCED = ("meld_text",)
"""Where every class counts alike, in the linear heads too."""
SCORES = ("accuracy", "uar", "macro_f1", "auc", "samples")
CHUNK = 32
LEAST = 1e-12
"""Probability that a linear head gives a class at least."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation of the linear heads, chosen on validation samples."""


@dataclass(frozen=True)
class Job:
    """One run."""

    recipe: str
    seed: int
    paths: Mapping[str, str]
    """`folder` and the encoders, by the recipe's arguments"""
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the run in the file of results; where data and encoders lie does not."""
        settings = self.config(dict.fromkeys(self.paths, "")).to_toml()
        return {"recipe": self.recipe, "seed": self.seed, "config": hashlib.sha256(settings.encode()).hexdigest()[:16]}

    def config(self, paths: Mapping[str, str] | None = None) -> "Config":
        """The settings of the run."""
        from m2fedsa import recipes

        made = recipes.RECIPES[self.recipe](seed=self.seed, **(self.paths if paths is None else paths))
        division = (f"data.options.division={self.seed - SEEDS[0]}",) if self.recipe == "products" else ()
        return made.override(["compute.threads=1", *division, *self.settings])


@dataclass
class Features:
    """What the whole frozen encoders make of the rows of a table; computed once where the inputs do not depend on the seed."""

    _kept: dict[tuple[str, str], Any] = field(default_factory=dict)

    def of(self, job: Job, config: "Config", data: "FederatedData", modality: str) -> Any:
        """(R, D) of all rows of the table."""
        steady = job.recipe == "products" or modality == "text"
        key = (job.recipe, modality)
        if steady and key in self._kept:
            return self._kept[key]
        found = _features(config.modalities[modality].encoder, data, modality)
        if steady:
            self._kept[key] = found
        return found


def _features(encoder: str, data: "FederatedData", modality: str) -> Any:
    import torch

    from m2fedsa.models.cut import whole
    from m2fedsa.models.encoders import load

    model = load(encoder)
    held = [samples for client in data.clients.values() for samples in (client.train, client.validation, client.test) if samples]
    rows = torch.arange(1 + max(int(samples.indices.max()) for samples in held))
    column = held[-1].columns[modality]
    with torch.no_grad():
        return torch.cat([whole(model, column.inputs(chunk)) for chunk in torch.split(rows, CHUNK)]).numpy()


def linear(job: Job, config: "Config", data: "FederatedData", features: Features, *, complete: bool) -> dict[str, float]:
    """Test accuracy of logistic regression on frozen features, all training samples in one place: per modality, and `fused` by the sum of
    their log-probabilities. `complete`: with the modalities that a client or a sample lacks as well.
    """
    import numpy as np
    from sklearn.metrics import accuracy_score

    found, total = {}, 0.0
    validation, test = (_rows(data, split) for split in ("validation", "test"))
    for modality in data.modalities:
        values = features.of(job, config, data, modality)
        train = _rows(data, "train", None if complete else modality)
        model = _fitted(values, train, validation)
        # A class that nobody shows in this modality is as unlikely as can be.
        log_probabilities = np.full((len(test[0]), len(data.classes)), np.log(LEAST))
        log_probabilities[:, model.classes_] = np.log(model.predict_proba(values[test[0]]) + LEAST)
        found[modality] = float(accuracy_score(test[1], log_probabilities.argmax(1)))
        total = total + log_probabilities
    return {"fused": float(accuracy_score(test[1], np.argmax(total, axis=1))), **found}


def balanced(job: Job, config: "Config", data: "FederatedData", features: Features) -> dict[str, dict[str, float]]:
    """Test figures of logistic regression on frozen features, all training samples in one place, where every class counts alike: per
    modality. Its regularisation does best on validation samples, by their unweighted average recall."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

    found = {}
    validation, test = (_rows(data, split) for split in ("validation", "test"))
    for modality in data.modalities:
        values = features.of(job, config, data, modality)
        model = _fitted(values, _rows(data, "train", modality), validation, weights="balanced", scorer=balanced_accuracy_score)
        told, truth = model.predict(values[test[0]]), test[1]
        found[modality] = {
            "accuracy": float(accuracy_score(truth, told)),
            "uar": float(balanced_accuracy_score(truth, told)),
            "macro_f1": float(f1_score(truth, told, average="macro")),
            "auc": float(roc_auc_score(truth, model.predict_proba(values[test[0]]), multi_class="ovr")),
        }
    return found


def _rows(data: "FederatedData", split: str, modality: str | None = None) -> tuple[Any, Any]:
    """Rows of the table and their classes, of those with the modality if one is named."""
    import torch

    rows, labels = [], []
    for client in data.clients.values():
        samples = client.split(split)
        if samples is None or (modality is not None and modality not in samples.modalities):
            continue
        chosen = torch.ones(len(samples.labels), dtype=torch.bool)
        if modality is not None:
            chosen = samples.presence[:, samples.modalities.index(modality)]
        rows.append(samples.indices[chosen])
        labels.append(samples.labels[chosen])
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()


def _fitted(
    values: Any, train: tuple[Any, Any], validation: tuple[Any, Any], weights: str | None = None, scorer: Callable[..., float] | None = None
) -> Any:
    """The regression whose regularisation does best on validation samples, by their accuracy where no scorer is named."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000, class_weight=weights)).fit(values[train[0]], train[1])
        for strength in STRENGTHS
    ]
    return max(models, key=lambda model: (scorer or accuracy_score)(validation[1], model.predict(values[validation[0]])))


def run(job: Job, features: Features, kept: Path | None = None) -> dict[str, Any]:
    """One run and its linear heads; the row that is kept of it. kept: where head outputs lie, of recipes that keep them on a disk."""
    import m2fedsa

    config = job.config() if kept is None else job.config().override([f"kept.folder={kept}"])
    began = time.monotonic()
    recorder = Recorder()
    result = m2fedsa.run(config, progress=recorder)
    seconds = time.monotonic() - began
    curve = [recorder.warm] + [record["metrics"]["fused"]["accuracy"] for record in result.history if record["metrics"]]
    parts = (("test", result.metrics), ("validation", result.validation), ("closed_form", result.closed_form))
    accuracies = {name: {subset: scores["accuracy"] for subset, scores in metrics.items()} for name, metrics in parts if metrics}
    shown = {
        name: {subset: {one: scores[one] for one in SCORES} for subset, scores in metrics.items()} for name, metrics in parts if metrics
    }
    costs = {
        "ledger": result.ledger,
        "rounds": result.rounds,
        "up": sum(record["bytes"]["up"] for record in result.history),
        "blocks": {name: one.block for name, one in config.modalities.items()},
    }
    return {
        **job.key,
        **accuracies,
        "scores": shown,
        **linear_heads(job, config, features),
        "curve": curve,
        **costs,
        "digest": result.digest,
        "seconds": round(seconds, 1),
    }


def linear_heads(job: Job, config: "Config", features: Features) -> dict[str, Any]:
    """What linear heads reach on the samples of a run: part of its row."""
    from m2fedsa.data.sources import load_data

    data = load_data(config.data, config.seed, {name: one.encoder for name, one in config.modalities.items()})
    if job.recipe in BALANCED:
        return {"linear": balanced(job, config, data, features)}
    arms = (("linear", False), ("linear_complete", True))
    return {name: linear(job, config, data, features, complete=complete) for name, complete in arms}


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """Every run of the study whose folders were given."""
    folders = {
        "products": {"folder": given.flipkart, "image": given.image, "text": given.text},
        "spoken_digits": {"folder": given.digits, "image": given.image, "audio": given.audio, "text": given.text},
        "meld_text": {"folder": given.meld, "text": given.text},
    }
    for seed in SEEDS[: given.seeds]:
        for recipe, paths in folders.items():
            if all(paths.values()) and recipe in (given.recipe or folders):
                yield Job(recipe, seed, paths, tuple(given.set or ()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("flipkart", "digits", "meld", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours; see docs/results_real.md")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real.jsonl"))
    parser.add_argument("--table", type=Path, help="write the tables as Markdown")
    parser.add_argument("--recipe", action="append", help="only these recipes")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--kept", type=Path, metavar="DIR", help="where head outputs lie, if not where the settings say")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a setting of the recipes")
    given = parser.parse_args(arguments)
    wanted = list(jobs(given))
    if not wanted:
        print("skipped: this study runs on data and encoders of yours; name their folders (--help)")
        return
    store, features = Store(given.out), Features()
    for job in wanted:
        if store.has(job):
            continue
        row = run(job, features, given.kept)
        store.add(row)
        print(f"{job.recipe:<14} seed {job.seed}  fused {row['test']['fused']:.3f}  {row['seconds']} s", flush=True)
    keys = [job.key for job in wanted]
    text = render([row for row in store.rows if any(all(row[name] == value for name, value in key.items()) for key in keys)])
    print(text)
    if given.table:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
