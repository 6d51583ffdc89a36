"""The tables of docs/results_digits.md, from the rows that `quality.py` keeps."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2fedsa.statistics import estimate

Row = dict[str, Any]
SEEDS = (5, 6, 7, 8, 9)
"""Those by which rates are chosen; not those with which the recipes were."""
COMMAND = "python benchmarks/quality.py --out benchmarks/results/quality.jsonl --table docs/results_digits.md"
HEAD = f"""# Results of the recipes that ship with the package

Five seeds each, `few_labels` ten: the seed decides noise, partition, which labels are kept, batches and dropout. Accuracy on the 600 test
samples (`match`: 1,200 pairs), mean ± half of the 95 % interval (Student). Learning rates are chosen per arm from one grid by the mean
validation accuracy over the seeds 5 to 9. What is real: handwritten and spoken digits and number words; what is small: the encoders (0.14
to 0.17 million parameters each) and the data. The rows behind each table, with settings and digests: `benchmarks/results/quality.jsonl`.

`products`, `spoken_digits` and `meld_text`, on encoders and files of yours: [results_real.md](results_real.md).

    {COMMAND}
"""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval."""
    found = estimate(values)
    assert found is not None
    return found.mean, float("nan") if found.half is None else found.half


def shown(values: Sequence[float], points: bool = False) -> str:
    mean, half = interval(values)
    return f"{100 * mean:+.1f} ± {100 * half:.1f}" if points else f"{mean:.3f} ± {half:.3f}"


class Study:
    """The rows of a study by recipe and arm, each arm at its best rate."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.arms: dict[tuple[str, str], dict[float | None, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            self.arms[row["recipe"], row["arm"]][row["rate"]].append(row)

    def best(self, recipe: str, arm: str) -> list[Row]:
        """The rows of the rate with the best mean validation accuracy over `SEEDS`, sorted by seed; empty if the arm was not run."""
        rates = self.arms.get((recipe, arm), {})
        if not rates:
            return []
        rate = max(rates, key=lambda rate: statistics.fmean(row["validation"]["fused"] for row in rates[rate] if row["seed"] in SEEDS))
        return sorted(rates[rate], key=lambda row: row["seed"])

    def values(self, recipe: str, arm: str, subset: str = "fused", part: str = "test") -> list[float]:
        """Accuracies of an arm's best rate, one a seed."""
        return [row[part][subset] for row in self.best(recipe, arm)]

    def centralised(self, recipe: str) -> list[float]:
        """Fused test accuracy of the kind of centralised training that does better on validation samples."""
        arms = [arm for name, arm in self.arms if name == recipe and arm.startswith("centralised")]
        if not arms:
            return []
        return self.values(recipe, max(arms, key=lambda arm: statistics.fmean(self.values(recipe, arm, part="validation"))))


def render(rows: Sequence[Row]) -> str:
    """All tables as Markdown."""
    study = Study(rows)
    parts = [HEAD]
    for recipe in ("digits", "few_labels", "match"):
        arms = [arm for name, arm in study.arms if name == recipe]
        if arms:
            parts += [f"## {recipe}\n", _table(study, recipe, arms)]
            parts += [_subsets(study, recipe, arms[0])] if recipe != "match" else []
            parts += [checks for checks in [{"digits": _digits, "few_labels": _few_labels, "match": _match}[recipe](study)] if checks]
            parts += [_warm_starts(recipe)] if recipe != "few_labels" else []
    return "\n".join(parts) + "\n"


def _table(study: Study, recipe: str, arms: Sequence[str]) -> str:
    modalities = [name for name in study.best(recipe, arms[0])[0]["test"] if "+" not in name]
    lines = [f"| arm | rate | {' | '.join(modalities)} | seconds |", "| --- |" + " --- |" * (len(modalities) + 2)]
    for arm in arms:
        best = study.best(recipe, arm)
        cells = " | ".join(shown([row["test"][name] for row in best]) for name in modalities)
        seconds = statistics.fmean(row["seconds"] for row in best)
        lines.append(f"| {arm} | {best[0]['rate'] or 'recipe'} | {cells} | {seconds:.0f} |")
        if arm in ("m2fedsa", "transfer", "no transfer", "each modality teaches itself") and "closed_form" in best[0]:
            cells = " | ".join(shown([row["closed_form"][name] for row in best]) for name in modalities)
            lines.append(f"| · its closed form, before training | – | {cells} | |")
    return "\n".join(lines) + "\n"


def _subsets(study: Study, recipe: str, arm: str) -> str:
    """Every subset of the modalities, and what a run costs."""
    rows = study.best(recipe, arm)
    names = [name for name in rows[0]["test"] if "+" in name]
    lines = [f"| subset | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for part, title in (("test", arm), ("closed_form", "· its closed form, before training")):
        lines.append(f"| {title} | {' | '.join(shown([row[part][name] for row in rows]) for name in names)} |")
    measured = [row for row in rows if "ledger" in row]
    return "\n".join([*lines, "", *([ledger(measured)] if measured else [])])


def _difference(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _line(text: str, goal: str, found: str, holds: bool) -> str:
    return f"| {text} | {goal} | {found} | {'yes' if holds else '**no**'} |"


CHECKS = "| figure | goal | found | holds |\n| --- | --- | --- | --- |"


def _digits(study: Study) -> str:
    fused = study.values("digits", "m2fedsa")
    if not fused:
        return ""
    singles = max((study.values("digits", "m2fedsa", name) for name in ("image", "audio", "text")), key=statistics.fmean)
    over_single, over_closed = _difference(fused, singles), _difference(fused, study.values("digits", "m2fedsa", part="closed_form"))
    lines = [CHECKS]
    lines.append(
        _line("fused over the best single modality, points", "≥ 8", shown(over_single, True), statistics.fmean(over_single) >= 0.08)
    )
    lines.append(_line("fused over the closed form, points", "≥ 1", shown(over_closed, True), statistics.fmean(over_closed) >= 0.01))
    central = study.centralised("digits")
    if central:
        share = statistics.fmean(fused) / statistics.fmean(central)
        lines.append(_line("fused, share of centralised", "≥ 97 %", f"{100 * share:.1f} %", share >= 0.97))
    without, warm = study.best("digits", "30 rounds without warm start"), study.best("digits", "m2fedsa")
    if without and warm:
        target = statistics.fmean(row["curve"][-1] for row in without)
        curve = [statistics.fmean(values) for values in zip(*(row["curve"] for row in warm), strict=True)]
        first = next((number for number, value in enumerate(curve) if value >= target), None)
        found = (
            f"{first} of 30 (reaching {target:.3f} on validation)"
            if first is not None
            else f"more than {len(curve) - 1} (target {target:.3f})"
        )
        lines.append(_line("rounds with warm start to what 30 reach without", "≤ 10", found, first is not None and first <= 10))
    return "\n".join(lines) + "\n"


def _few_labels(study: Study) -> str:
    def mean_of_two(arm: str) -> list[float]:
        pairs = zip(study.values("few_labels", arm, "image"), study.values("few_labels", arm, "audio"), strict=True)
        return [(image + audio) / 2 for image, audio in pairs]

    if not all(study.best("few_labels", arm) for arm in ("transfer", "no transfer", "each modality teaches itself")):
        return ""
    gain = _difference(mean_of_two("transfer"), mean_of_two("no transfer"))
    alone = _difference(mean_of_two("each modality teaches itself"), mean_of_two("no transfer"))
    more = _difference(gain, alone)
    fused = _difference(study.values("few_labels", "transfer"), study.values("few_labels", "no transfer"))
    (mean, half), (fused_mean, fused_half) = interval(gain), interval(fused)
    lines = [CHECKS]
    lines.append(
        _line("transfer, mean of image and audio, points", "≥ 4, interval above 0", shown(gain, True), mean >= 0.04 and mean > half)
    )
    lines.append(_line("each modality teaching itself, points", "less", shown(alone, True), statistics.fmean(alone) < mean))
    lines.append(_line("transfer over self-teaching, points", "> 0", shown(more, True), statistics.fmean(more) > 0))
    lines.append(_line("transfer, fused, points", "interval above −1", shown(fused, True), fused_mean - fused_half > -0.01))
    return "\n".join(lines) + "\n"


def _warm_starts(recipe: str) -> str:
    """Other closed forms beside that of the method, from a comparison that was stored."""
    place = Path(__file__).parent / "results" / f"compare_{recipe}_warm_starts.json"
    stored = json.loads(place.read_text())
    fused: dict[str, list[float]] = {}
    for one in stored["outcomes"]:
        fused.setdefault(one["arm"], []).append(one["test"]["fused"]["accuracy"])
    first = stored["arms"][0]
    seeds = f"seeds {stored['seeds'][0]} to {stored['seeds'][-1]}"
    lines = [f"Other closed forms, at the rates of the recipe ({seeds}; `benchmarks/results/{place.name}`):", ""]
    lines += [f"    {stored['command']}", "", f"| method | fused | {first} over it, points |", "| --- | --- | --- |"]
    for arm, values in fused.items():
        gain = "–" if arm == first else shown(_difference(fused[first], values), True)
        lines.append(f"| {arm} | {shown(values)} | {gain} |")
    return "\n".join(lines) + "\n"


def _match(study: Study) -> str:
    fused, late, central = study.values("match", "m2fedsa"), study.values("match", "late fusion"), study.centralised("match")
    if not (fused and late and central):
        return ""
    singles = max((study.values("match", "m2fedsa", name) for name in ("image", "audio")), key=statistics.fmean)
    over_single, over_late = _difference(fused, singles), _difference(fused, late)
    share = statistics.fmean(fused) / statistics.fmean(central)
    lines = [CHECKS]
    lines.append(
        _line("fused over the best single modality, points", "≥ 15", shown(over_single, True), statistics.fmean(over_single) >= 0.15)
    )
    lines.append(_line("fused over late fusion, points", "≥ 15", shown(over_late, True), statistics.fmean(over_late) >= 0.15))
    lines.append(_line("fused, share of centralised", "≥ 90 %", f"{100 * share:.1f} %", share >= 0.9))
    return "\n".join(lines) + "\n"


def ledger(rows: Sequence[dict[str, Any]]) -> str:
    """What one run costs; the same for every seed."""
    row = rows[0]
    lines = ["| ledger | block | client keeps | of | share | up per sample and step | client work after the first epoch / whole |"]
    lines.append("| --- |" + " --- |" * 6)
    for name, entry in row["ledger"].items():
        kept, whole = (sum(entry[side][part]["bytes"] for part in ("frozen", "trainable")) for side in ("client", "whole"))
        work = entry["client"]["flops"]["forward"] + entry["client"]["flops"]["backward"] - entry["client"]["flops"]["head"]
        share = work / (entry["whole"]["flops"]["forward"] + entry["whole"]["flops"]["backward"])
        lines.append(
            f"| {name} | {row.get('blocks', {}).get(name, 1)} | {kept / 1e6:.2f} MB | {whole / 1e6:.2f} MB | {100 * kept / whole:.1f} % "
            f"| {entry['bytes']['up'] / 1e3:.1f} kB | {share:.5f} |"
        )
    mean, _ = interval([one["up"] for one in rows])
    return "\n".join([*lines, "", f"All clients together send {mean / 1e6:.0f} MB in {row['rounds']} rounds.", ""])
