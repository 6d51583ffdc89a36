"""Heads in few bits: how far off they are on real inputs, and what that costs a linear classifier on the pooled output.

    python benchmarks/quantised.py --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR

Without folders of your own (docs/results_real.md says what they hold), the encoders and digits that ship with the package. Each encoder is
cut where its recipe cuts it, with `--middle` in the middle too; head outputs of all samples at each type, then the tail in float32,
without adapters.
Relative errors are against the float32 head. Accuracy is that of logistic regression on the features (standardised, C = 0.01), trained and
tested on features of the same head, on five stratified divisions; differences are paired by division. Agreement: test samples that get the
same class as from float32.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import conclude, options, table
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from m2fedsa.config import Config
from m2fedsa.data.samples import FederatedData
from m2fedsa.data.sources import load_data
from m2fedsa.models.cut import Head, Plan, Tail, plan, specify
from m2fedsa.models.encoders import load
from m2fedsa.models.quantise import HEAD_DTYPES, quantise, stored_bytes, stored_layout
from m2fedsa.recipes import RECIPES

CHUNK = 32
DIVISIONS = 5


def recipes(given: argparse.Namespace) -> dict[str, Config]:
    """The recipes whose folders were given."""
    found = {}
    if given.flipkart and given.image and given.text:
        found["products"] = RECIPES["products"](folder=given.flipkart, image=given.image, text=given.text)
    if given.digits and given.image and given.audio and given.text:
        found["spoken_digits"] = RECIPES["spoken_digits"](folder=given.digits, image=given.image, audio=given.audio, text=given.text)
    return found or {"digits": RECIPES["digits"]()}


def table_of(data: FederatedData, most: int) -> tuple[Any, Tensor, np.ndarray]:
    """The columns of all rows of the source's table, the rows that anybody holds with a label, and their classes."""
    held = [samples for client in data.clients.values() for samples in (client.train, client.validation, client.test) if samples]
    rows = torch.cat([samples.indices for samples in held])
    labels = torch.cat([samples.labels for samples in held])
    order = torch.unique(rows[labels >= 0])
    order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))[:most]]
    found = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    columns = {name: column for samples in held for name, column in samples.columns.items()}
    return columns, order, np.array([found[row] for row in order.tolist()])


def inputs_of(column: Any, rows: Tensor) -> dict[str, Tensor]:
    """Encoder inputs of some rows; those of the package's own digits are tensors already."""
    return {name: values[rows] for name, values in column.items()} if isinstance(column, Mapping) else column.inputs(rows)


def outputs(heads: Mapping[str, Head], tail: Tail, column: Any, rows: Tensor) -> dict[str, tuple[list[Tensor], Tensor]]:
    """Per type what head and tail put out for all rows; each input is decoded once, each head computed once."""
    found: dict[int, tuple[list[Tensor], list[Tensor]]] = {id(head): ([], []) for head in heads.values()}
    for chunk in torch.split(rows, CHUNK):
        inputs = inputs_of(column, chunk)
        mask, specs = inputs.get(tail.mask_argument or ""), specify(inputs)
        for head in {id(head): head for head in heads.values()}.values():
            hidden, pooled = found[id(head)]
            hidden.append(head(inputs))
            with torch.no_grad():
                pooled.append(tail(hidden[-1], mask, specs))
    return {dtype: (found[id(head)][0], torch.cat(found[id(head)][1])) for dtype, head in heads.items()}


def off(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Relative error over all samples."""
    squares = [(float((one - other).square().sum()), float(other.square().sum())) for one, other in zip(ours, theirs, strict=True)]
    return (sum(one for one, _ in squares) / sum(other for _, other in squares)) ** 0.5


Opinions = list[np.ndarray]
"""per division the log-probabilities (test samples, classes) of a linear head"""


def divisions(classes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) rows, the same for all."""
    return list(StratifiedShuffleSplit(DIVISIONS, test_size=0.25, random_state=0).split(classes, classes))


def opinions(values: np.ndarray, classes: np.ndarray) -> Opinions:
    """Of logistic regression on some features."""
    found = []
    for train, test in divisions(classes):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(values[train], classes[train])
        found.append(model.predict_log_proba(values[test]))
    return found


def compared(told: Mapping[str, Opinions], classes: np.ndarray) -> dict[str, dict[str, float]]:
    """Per type: accuracy, its difference to float32 in points with half of the 95 % interval, agreement."""
    known, truth = np.unique(classes), [classes[test] for _, test in divisions(classes)]
    chosen = {dtype: [known[one.argmax(1)] for one in its] for dtype, its in told.items()}
    right = {dtype: np.array([(one == true).mean() for one, true in zip(its, truth, strict=True)]) for dtype, its in chosen.items()}
    found = {}
    for dtype, its in chosen.items():
        points = 100 * (right[dtype] - right["float32"])
        half = student.ppf(0.975, DIVISIONS - 1) * points.std(ddof=1) / DIVISIONS**0.5
        agreement = float(np.mean([(one == other).mean() for one, other in zip(its, chosen["float32"], strict=True)]))
        accuracy = float(right[dtype].mean())
        found[dtype] = {"accuracy": accuracy, "points": float(points.mean()), "half": float(half), "agreement": agreement}
    return found


def heads_of(model: Any, planned: Plan, types: Sequence[str]) -> dict[str, Head]:
    """The head at each type; types that store the same (int4 stores convolutions in int8) are one head."""
    found: dict[str, Head] = {}
    for dtype in types:
        head = Head(model, planned)
        quantise(head.encoder, dtype)
        same = (other for other in found.values() if stored_layout(other.encoder, "float32") == stored_layout(head.encoder, "float32"))
        found[dtype] = next(same, head)
    return found


def study(name: str, config: Config, given: argparse.Namespace) -> dict[str, Any]:
    """All encoders of a recipe, and all of them together at the recipe's cut."""
    processors = {modality: one.processor or one.encoder for modality, one in config.modalities.items()}
    columns, rows, classes = table_of(load_data(config.data, config.seed, processors), 120 if given.quick else given.samples)
    record: dict[str, Any] = {"samples": len(rows), "modalities": {}}
    together: dict[str, Opinions] = {}
    for modality, settings in config.modalities.items():
        model = load(settings.encoder)
        example = inputs_of(columns[modality], rows[:2])
        pooling = None if settings.pooling == "default" else settings.pooling
        blocks = plan(model, example, 0, settings.blocks).blocks
        for block in sorted({settings.block, blocks // 2} if given.middle else {settings.block}):
            planned = plan(model, example, block, settings.blocks)
            heads = heads_of(model, planned, given.types)
            found = outputs(heads, Tail(model, planned, pooling), columns[modality], rows)
            exact, entry, told = found["float32"], {}, {}
            for dtype, (hidden, pooled) in found.items():
                size = stored_bytes(heads[dtype].encoder)
                entry[dtype] = {"bytes": size, "head": off(hidden, exact[0]), "pooled": off([pooled], [exact[1]])}
                twin = next((other for other in told if heads[other] is heads[dtype]), None)
                told[dtype] = told[twin] if twin else opinions(pooled.numpy(), classes)
                if block == settings.block:
                    before = together.get(dtype, [np.zeros(())] * DIVISIONS)
                    together[dtype] = [one + other for one, other in zip(before, told[dtype], strict=True)]
            for dtype, found_of in compared(told, classes).items():
                entry[dtype] |= found_of
            record["modalities"][f"{modality} k = {block}"] = entry
            show(f"{name}: {modality}, {type(model).__name__}, {block} of {blocks} blocks, {len(rows)} samples", entry)
    if len(config.modalities) > 1:
        record["together"] = compared(together, classes)
        show(f"{name}: all modalities together, at the recipe's cuts", record["together"])
    return record


def show(title: str, entry: Mapping[str, Mapping[str, float]]) -> None:
    rows = []
    for dtype, one in entry.items():
        sizes = [f"{one['bytes'] / 1e3:,.0f}", f"{100 * one['head']:.2f}", f"{100 * one['pooled']:.2f}"] if "bytes" in one else ["", "", ""]
        points = f"{one['points']:+.2f} ± {one['half']:.2f}" if dtype != "float32" else ""
        rows.append([dtype, *sizes, f"{100 * one['accuracy']:.2f}", points, f"{100 * one['agreement']:.1f}"])
    print(f"\n{title}\n")
    table(["type", "kB", "head off by %", "pooled off by %", "accuracy %", "points (95 %)", "same class %"], rows)


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__)
    for name in ("flipkart", "digits", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours")
    parser.add_argument("--samples", type=int, default=1500, help="at most so many of a recipe's samples")
    parser.add_argument("--types", nargs="+", default=list(HEAD_DTYPES), choices=HEAD_DTYPES, help="float32 first")
    parser.add_argument("--middle", action="store_true", help="cut each encoder in the middle as well")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    record = {name: study(name, config, given) for name, config in recipes(given).items()}
    conclude({"recipes": record}, given.out)


if __name__ == "__main__":
    main()
