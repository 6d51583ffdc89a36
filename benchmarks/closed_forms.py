"""Other closed forms than the warm start's, on frozen features: does any of them beat it?

    python benchmarks/closed_forms.py --table docs/closed_forms.md --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR

The same clients as in `study.py`, their training samples in one place, which for sums is the same. Fused is the sum of what the modalities
say. Closed forms that look at all modalities together (`closed_form_joint`, `closed_form_fused`) are in the study.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from quality import Store
from study_tasks import TASKS
from taught_heads import SEEDS, Table, judged_on, settings_of, table_of
from torch import Tensor
from torch.nn import functional as F

from m2fedsa.config import WarmStart
from m2fedsa.statistics import estimate, paired
from m2fedsa.warm_start import Sums, best, class_sums, discriminant

RECIPES = ("digits", "spoken_digits", "products")
DRAWN = 512
"""Random features of a modality."""
FINER = WarmStart(
    shrinkages=(0.003, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.4, 0.7, 0.9), scales=(0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
)


def halves(number: int) -> list[tuple[Tensor, Tensor]]:
    """The even samples fit, the odd ones judge: as in the warm start, where they are even and odd at each client."""
    return [(torch.arange(0, number, 2), torch.arange(1, number, 2))]


def folds(number: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Each sample judges once what all but its fold have made: sums of folds, less one of them."""
    places = torch.arange(number)
    return [(places[places % count != fold], places[places % count == fold]) for fold in range(count)]


def plain(values: Tensor, _: int) -> Tensor:
    """The features themselves."""
    return values


def drawn(values: Tensor, seed: int) -> Tensor:
    """Rectified random projections of the features, and the features."""
    draw = torch.Generator().manual_seed(seed)
    scaled = (values - values.mean(0)) / values.std(0).clamp_min(1e-6)
    random = torch.relu(scaled @ torch.randn(values.shape[1], DRAWN, generator=draw) / values.shape[1] ** 0.5)
    return torch.cat([scaled, random], 1)


HEAD = """# Other closed forms

Does any closed form beat the warm start? Frozen features of the clients of the [study](study.md), their training samples in one place,
which for sums is the same. Accuracy on test samples, five seeds, mean ± half of the 95 % interval (Student), and points above it, paired by
seed. The warm start chooses shrinkage and scale on the odd samples, with classifiers of the even ones. Fused is the sum of what the
modalities say; closed forms that look at all of them together (`closed_form_joint`, `closed_form_fused`) are in the study. `random
features`: 512 rectified random projections of each modality beside its features. `scales by validation`: the scales chosen once more on
validation samples (`warm_start.calibrate`). The rows: `benchmarks/results/closed_forms.jsonl`.

    python benchmarks/closed_forms.py --table docs/closed_forms.md --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR
"""
Splits = Callable[[int], list[tuple[Tensor, Tensor]]]
FORMS: Mapping[str, tuple[Splits, WarmStart, Callable[[Tensor, int], Tensor]]] = {
    "warm start": (halves, WarmStart(), plain),
    "both halves judge": (lambda number: folds(number, 2), WarmStart(), plain),
    "five folds": (lambda number: folds(number, 5), WarmStart(), plain),
    "five folds, finer grid": (lambda number: folds(number, 5), FINER, plain),
    "random features": (halves, WarmStart(), drawn),
    "scales by validation": (halves, WarmStart(calibrate=True), plain),
}


def opinions(table: Table, form: str, seed: int) -> dict[str, Tensor]:
    """Logits (R, K) of each modality under the global class frequencies."""
    splits, settings, made = FORMS[form]
    counts = torch.bincount(table.labels[torch.cat(list(table.train.values())).unique()], minlength=table.classes)
    prior = (counts + 0.5).double().log().log_softmax(0)
    found = {}
    for modality, rows in table.train.items():
        values, labels = made(table.features[modality], seed).double(), table.labels
        hot = F.one_hot(labels[rows], table.classes).double()
        losses = torch.zeros(len(settings.shrinkages), len(settings.scales))
        for fitted, judged in splits(len(rows)):
            sums = Sums.of(class_sums(values[rows[fitted]], hot[fitted]))
            for line, shrinkage in enumerate(settings.shrinkages):
                one = discriminant(sums, shrinkage)
                logits = values[rows[judged]] @ one.weight.T + one.bias
                for place, scale in enumerate(settings.scales):
                    losses[line, place] += F.cross_entropy(scale * logits + prior, labels[rows[judged]], reduction="sum")
        shrinkage, scale = best({modality: losses}, settings.shrinkages, settings.scales)[modality]
        whole = discriminant(Sums.of(class_sums(values[rows], hot)), shrinkage)
        logits = values @ whole.weight.T + whole.bias
        if settings.calibrate:
            new = table.validation
            scale = min(settings.scales, key=lambda scale: float(F.cross_entropy(scale * logits[new] + prior, labels[new])))
        found[modality] = scale * logits + prior
    total = sum(found.values(), torch.zeros(1)) - (len(found) - 1) * prior
    return {"fused": total, **found}


def constants(form: str) -> dict[str, Any]:
    """What decides a row of a form beside the settings of its task."""
    _, settings, made = FORMS[form]
    judged = {"judged": "validation"} if settings.calibrate else {}
    return {"form": form, "shrinkages": settings.shrinkages, "scales": settings.scales, "drawn": DRAWN if made is drawn else 0, **judged}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy of the warm start, and points that others add, paired by seed."""
    first, *others = FORMS
    lines = [HEAD, f"| task | modality | {' | '.join(FORMS)} |", "| --- | --- |" + " --- |" * len(FORMS)]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        for modality in mine[0]["accuracy"]:
            values = {form: {row["seed"]: row["accuracy"][modality] for row in mine if row["form"] == form} for form in FORMS}
            apart = [paired(values[form], values[first]) for form in others]
            shown = [str(estimate(list(values[first].values())) or "–"), *("–" if one is None else one.points for one in apart)]
            lines.append(f"| {task} | {modality} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("flipkart", "digits", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours; see docs/results_real.md")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/closed_forms.jsonl"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="fewer of them, for a trial")
    given = parser.parse_args(arguments)
    store = Store(given.rows)
    kept = {(row["task"], row["seed"], row["form"], row["settings"]) for row in store.rows}
    for task in TASKS:
        folders = {name: getattr(given, name, None) for name in task.folders}
        if task.recipe not in RECIPES or not all(folders.values()):
            continue
        for seed in SEEDS[: given.seeds]:
            settings = {form: settings_of(task, seed, constants(form)) for form in FORMS}
            due = [form for form in FORMS if (task.recipe, seed, form, settings[form]) not in kept]
            if due:
                table = table_of(task, {name: str(place) for name, place in folders.items()}, seed)
                for form in due:
                    found = judged_on(table, {name: logits[table.test] for name, logits in opinions(table, form, seed).items()})
                    store.add({"task": task.recipe, "seed": seed, "form": form, "settings": settings[form], **found})
                    print(f"{task.recipe}, seed {seed}, {form}: {found['accuracy']}", flush=True)
    text = render(store.rows)
    if given.table:
        given.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
