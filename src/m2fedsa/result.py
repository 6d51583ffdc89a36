"""What a run came to, for a program or a notebook; `result.json` holds the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2fedsa.reporting.records import ClientRecord, LedgerEntry, Metrics, ResultRecord, RoundRecord
from m2fedsa.reporting.summary import NAMES, judged_by, score

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of a run. Metrics are keyed by subset of the modalities: `fused`, `image`, `image+audio`."""

    record: ResultRecord
    history: Sequence[RoundRecord]
    directory: Path | None = None

    @property
    def metrics(self) -> Metrics:
        """On the test samples."""
        return self.record["metrics"]

    @property
    def validation(self) -> Metrics | None:
        """On the validation samples."""
        return self.record["validation"]

    @property
    def closed_form(self) -> Metrics | None:
        """On the test samples, by linear heads on the frozen features: the warm start, before the first gradient step."""
        return self.record.get("closed_form")

    @property
    def per_client(self) -> dict[str, ClientRecord]:
        """What became of each client."""
        return self.record["per_client"]

    @property
    def ledger(self) -> dict[str, LedgerEntry]:
        """Storage, compute and traffic per modality."""
        return self.record["ledger"]

    @property
    def digest(self) -> str:
        """SHA-256 over every global trainable tensor."""
        return self.record["digest"]

    @property
    def rounds(self) -> int:
        """Rounds that were run."""
        return self.record["rounds"]

    @property
    def seconds(self) -> float:
        """Seconds of all rounds and of the warm start."""
        return self.record["seconds"]

    def __repr__(self) -> str:
        """One line per subset of the modalities."""
        lines = [f"Result of {self.rounds} rounds in {self.seconds:.0f} s, digest {self.digest[:12]}"]
        for subset, scores in self.metrics.items():
            values: dict[str, Any] = {**scores}
            figures = "  ".join(f"{name} {value:.3f}" for name in NAMES if (value := values.get(name)) is not None)
            lines.append(f"  {subset:<18} {figures}")
        return "\n".join(lines)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per round, with losses and validation metrics as columns. Needs pandas."""
        import pandas

        return pandas.DataFrame([_flat(record) for record in self.history])

    def plot(self) -> "Figure":
        """The metric that the task is judged by, on validation samples, per round, fused and per modality."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        looked = [record for record in self.history if record["metrics"]]
        for subset in (name for name in self.metrics if "+" not in name):
            found = [(record["round"], record["metrics"]) for record in looked]
            points = [(number, score(metrics, subset)) for number, metrics in found if metrics and subset in metrics]
            axes.plot([number for number, _ in points], [value if value is not None else float("nan") for _, value in points], label=subset)
        axes.set(xlabel="round", ylabel=f"{NAMES[judged_by(self.metrics)]} (validation)")
        axes.legend()
        return figure


def _flat(record: RoundRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "round": record["round"],
        "phase": record["phase"],
        "clients": len(record["clients"]),
        "seconds": record["seconds"],
    }
    row |= {f"loss_{name}": value for name, value in record["loss"].items()} | {
        "up": record["bytes"]["up"],
        "down": record["bytes"]["down"],
    }
    for subset, scores in (record["metrics"] or {}).items():
        row |= {f"{subset}_{name}": value for name, value in scores.items()}
    return row
