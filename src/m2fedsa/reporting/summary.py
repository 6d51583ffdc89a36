"""What a result says in two sentences; the terminal and the report say the same."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from m2fedsa.config import Config
from m2fedsa.reporting.records import Facts, LedgerEntry, Metrics, ResultRecord, Side
from m2fedsa.reporting.units import listing, percent, plural, size


class Share(NamedTuple):
    """A client's part of the whole."""

    client: float
    whole: float

    @property
    def fraction(self) -> float:
        """Client over whole; 0 where there is no whole."""
        return self.client / self.whole if self.whole else 0.0


LOST = 0.02
"""A run that ends so far below its warm start has lost what it began with."""
NAMES = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "uar": "UAR",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "r2": "R²",
    "pearson": "Pearson",
    "mae": "MAE",
    "rmse": "RMSE",
    "auc": "AUC",
}
"""metric -> what people call it, in the order of tables"""


def judged_by(metrics: Metrics | None) -> str:
    """The metric that a task is judged by: accuracy; of several classes macro_f1, of numbers r2."""
    entry: Mapping[str, object] = next(iter((metrics or {}).values()), {})
    return "r2" if "r2" in entry else "macro_f1" if "exact_match" in entry else "accuracy"


def score(metrics: Metrics | None, subset: str, name: str | None = None) -> float | None:
    """One number, of the metric that the task is judged by unless another is named; None where there is none."""
    entry: Mapping[str, object] | None = (metrics or {}).get(subset)
    value = entry.get(name or judged_by(metrics)) if entry else None
    return float(value) if isinstance(value, int | float) else None


def modalities_of(metrics: Metrics | None) -> list[str]:
    """The modalities that have metrics of their own, in order."""
    return [subset for subset in metrics or {} if subset != "fused" and "+" not in subset]


def best_single(metrics: Metrics | None, name: str | None = None) -> tuple[str, float] | None:
    """The modality that is best alone, and how good it is."""
    found = [(subset, value) for subset in modalities_of(metrics) if (value := score(metrics, subset, name)) is not None]
    return max(found, key=lambda entry: entry[1]) if found else None


def storage(ledger: Mapping[str, LedgerEntry]) -> Share:
    """Bytes of parameters that a client of all modalities keeps."""
    return Share(*(sum(_kept(entry[side]) for entry in ledger.values()) for side in ("client", "whole")))


def trainers(result: ResultRecord) -> int:
    """How many clients train; a manifest's own are as many as its column names, whatever the settings say."""
    return sum(client["train"] > 0 for client in result["per_client"].values())


def compute(ledger: Mapping[str, LedgerEntry], config: Config, clients: int) -> Share:
    """Operations per visit of a sample, on a client of all modalities, of so many that train: the frozen head runs once for each view
    that is kept of a sample, and its output serves all visits; where each step disturbs samples anew it runs every time."""
    client = sum(
        operations_of(one["client"]) - _saved(config, name, clients) * one["client"]["flops"].get("head", 0.0)
        for name, one in ledger.items()
    )
    return Share(client, sum(operations_of(entry["whole"]) for entry in ledger.values()))


def _saved(config: Config, modality: str, clients: int) -> float:
    """The share of a head's runs that kept outputs save."""
    views = views_of(config, modality)
    return max(0.0, 1 - views / visits(config, clients)) if views else 0.0


def views_of(config: Config, modality: str) -> int:
    """How many views of a sample are kept; see `config.Modality.views`."""
    return config.modalities[modality].views if modality in config.modalities else 1


def visits(config: Config, clients: int) -> float:
    """How often a run trains on a sample of one of so many clients, on average; 1 where local steps, not epochs, are given."""
    federation = config.federation
    if federation.local_steps:
        return 1.0
    share = min(1.0, (federation.clients_per_round or clients) / max(1, clients))
    return max(1.0, federation.rounds * federation.local_epochs * share)


def operations_of(side: Side) -> float:
    """Forward and backward, per sample."""
    return side["flops"]["forward"] + side["flops"]["backward"]


def _kept(side: Side) -> float:
    return side["frozen"]["bytes"] + side["trainable"]["bytes"]


def result_sentences(result: ResultRecord, config: Config) -> list[str]:
    """What came out and against what; what a client keeps and computes."""
    sentences = []
    metrics = result["metrics"]
    fused = score(metrics, "fused")
    if fused is not None:
        against = []
        single = best_single(metrics)
        if single:
            against.append(f"{single[1]:.3f} for the best single modality ({single[0]})")
        closed = score(result.get("closed_form"), "fused")
        if closed is not None:
            against.append(f"{closed:.3f} for a linear head on frozen features")
        metric = judged_by(metrics)
        named = "" if metric == "accuracy" else f"{NAMES[metric]} "
        sentences.append(f"Fused {named}{fused:.3f}{' against ' if against else ''}{', '.join(against)}.")
        if closed is not None and fused < closed - LOST and config.federation.rounds:
            slower = f"optimizer.learning_rate={config.optimizer.learning_rate / 10:g}"
            sentences.append(f"Training has lost what it began with: learn more slowly (--set {slower}), or set evaluation.keep_best=true.")
    ledger = result["ledger"]
    if ledger:
        kept, work = storage(ledger), compute(ledger, config, trainers(result))
        sentences.append(
            f"A client keeps {size(kept.client)} of {size(kept.whole)} and computes {percent(work.fraction)} "
            "of the work of training the whole."
        )
    return sentences


def ledger_lines(result: ResultRecord, config: Config) -> dict[str, str]:
    """modality -> what a client keeps, computes and sends for it."""
    lines = {}
    for name, entry in result["ledger"].items():
        kept, work, sent = storage({name: entry}), compute({name: entry}, config, trainers(result)), entry["bytes"]
        lines[name] = (
            f"keeps {size(kept.client)} of {size(kept.whole)} ({percent(kept.fraction)}), computes {percent(work.fraction)}, "
            f"sends {size(sent['up'])} and receives {size(sent['down'])} per sample and step"
        )
    return lines


def holdings(facts: Facts) -> str:
    """Who holds what: `10 clients with image+audio+text, 10 with one or two`."""
    total = len(facts["modalities"])
    widths = [len(client["modalities"]) for client in facts["clients"].values() if client["train"]]
    full = sum(width == total for width in widths)
    fewer = sorted({width for width in widths if width < total})
    everything = "+".join(facts["modalities"])
    parts = [f"{plural(full, 'client')} with {everything}"] if full else []
    if fewer:
        number = len(widths) - full
        parts.append(f"{number if parts else plural(number, 'client')} with {_words(fewer)}")
    return ", ".join(parts) if parts else "no client with training samples"


def _words(widths: Sequence[int]) -> str:
    names = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    return listing([names.get(width, str(width)) for width in widths]).replace(" and ", " or ")


def samples(facts: Facts) -> str:
    """`1,200 training samples, 120 labelled`."""
    clients = facts["clients"].values()
    total, labelled = sum(client["train"] for client in clients), sum(client["labelled"] for client in clients)
    text = plural(total, "training sample")
    return text if labelled == total else f"{text}, {labelled:,} of them labelled"
