"""Does it work? Five seeds of every arm of the three digit tasks; means with 95 % intervals, and the figures that must hold.

    python benchmarks/quality.py --out benchmarks/results/quality.jsonl --table docs/results_digits.md

Every arm is a recipe with a few settings changed. Learning rates are chosen per arm from one grid by the mean validation accuracy over
the seeds 5 to 9; test figures are then those of that rate. The recipes themselves were chosen with seeds 0 to 4: none of them is in the
study. What was run before with the same settings is not run again, so the command can be interrupted.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from quality_table import SEEDS, Study, render

if TYPE_CHECKING:
    from m2fedsa.config import Config

RATES = (0.005, 0.01, 0.02)
FEW_RATES = (0.005, 0.015)
FURTHER = {"few_labels": (10, 11, 12, 13, 14)}
"""Seeds of a recipe whose differences spread so much that five seeds tell little; at the rates that the first five chose."""
NEVER = ("transfer.start=never",)
NO_TRANSFER = ("transfer.start=never", "transfer.closed_form=false")


@dataclass(frozen=True)
class Arm:
    """A recipe with settings changed; `rates` are tried, an empty tuple stands for the recipe's own."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    pooled: Literal["", "once", "rounds"] = ""
    """all training samples in one place, as many visits of each sample as in the rounds of the recipe: in one go, or with a fresh
    optimiser for each round and the recipe's schedule over them"""


ARMS = (
    Arm("transfer", "few_labels", rates=FEW_RATES),
    Arm("no transfer", "few_labels", NO_TRANSFER, FEW_RATES),
    Arm("each modality teaches itself", "few_labels", ("transfer.teacher=self",), FEW_RATES),
    Arm("30 rounds without warm start", "digits", ("federation.warm_start=false", "federation.rounds=30", *NEVER), RATES),
    Arm("m2fedsa", "digits", rates=RATES),
    Arm("centralised, one go", "digits", rates=RATES[:2], pooled="once"),
    Arm("centralised, with schedule", "digits", rates=RATES, pooled="rounds"),
    Arm("m2fedsa", "match"),
    Arm("late fusion", "match", ("fusion.blocks=0", "fusion.bilinear=false")),
    Arm("centralised, one go", "match", pooled="once"),
    Arm("centralised, with schedule", "match", rates=RATES, pooled="rounds"),
)


@dataclass(frozen=True)
class Job:
    """One run."""

    arm: Arm
    seed: int
    rate: float | None

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the run in the file of results."""
        return {
            "recipe": self.arm.recipe,
            "arm": self.arm.name,
            "settings": list(self.arm.settings),
            "rate": self.rate,
            "seed": self.seed,
            "config": self.print(),
        }

    def print(self) -> str:
        """Of all settings that are not the defaults: a setting that is new leaves it as it was."""
        settings = self.config().model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def config(self) -> "Config":
        """The settings of the run; of a pooled one as many local epochs as the recipe has in all its rounds."""
        from m2fedsa import recipes

        config = recipes.named(self.arm.recipe).override([f"seed={self.seed}", "compute.threads=1", *self.arm.settings])
        if self.rate is not None:
            config = config.override([f"optimizer.learning_rate={self.rate}"])
        if self.arm.pooled:
            federation = config.federation
            visits = [f"federation.local_epochs={federation.rounds * federation.local_epochs}", "federation.rounds=1"]
            config = config.override(["data.arrangement=pooled", *(visits if self.arm.pooled == "once" else [])])
        return config


class Recorder:
    """Remembers how the warm start did on the validation samples; the rest of the progress goes nowhere."""

    warm: float | None = None

    def warm_started(self, record: dict[str, Any]) -> None:
        """See `reporting.progress.Progress`."""
        self.warm = record["metrics"]["fused"]["accuracy"]

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None


@dataclass
class Store:
    """The file of results, one JSON object a run."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def has(self, job: Job) -> bool:
        """Whether the run is kept already."""
        return any(all(row[name] == value for name, value in job.key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a run."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def run(job: Job) -> dict[str, Any]:
    """One run, in a process of its own; the row that is kept of it."""
    import m2fedsa

    config = job.config()
    began = time.monotonic()
    recorder = Recorder()
    result = m2fedsa.run(config, progress=recorder)
    curve = [recorder.warm] + [record["metrics"]["fused"]["accuracy"] for record in result.history if record["metrics"]]
    accuracies = {
        name: {subset: scores["accuracy"] for subset, scores in metrics.items()}
        for name, metrics in (("test", result.metrics), ("validation", result.validation), ("closed_form", result.closed_form))
        if metrics
    }
    costs = {"ledger": result.ledger, "rounds": result.rounds, "up": sum(record["bytes"]["up"] for record in result.history)}
    return {**job.key, **accuracies, "curve": curve, **costs, "digest": result.digest, "seconds": round(time.monotonic() - began, 1)}


def jobs(arms: Sequence[Arm], seeds: tuple[int, ...]) -> Iterator[Job]:
    """Every run of the study at every rate."""
    for arm in arms:
        for rate in arm.rates or (None,):
            for seed in seeds:
                yield Job(arm, seed, rate)


def further(arms: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> Iterator[Job]:
    """The runs with further seeds, at the rate that each arm chose."""
    study = Study(rows)
    for arm in arms:
        best = study.best(arm.recipe, arm.name)
        for seed in FURTHER.get(arm.recipe, ()) if best else ():
            yield Job(arm, seed, best[0]["rate"])


def run_all(due: Sequence[Job], store: Store, processes: int) -> None:
    """Run what is not kept yet."""
    due = [job for job in due if not store.has(job)]
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(run, job): job for job in due}
        for done, future in enumerate(as_completed(futures), 1):
            row = future.result()
            store.add(row)
            print(
                f"{done}/{len(due)}  {row['recipe']:<10} {row['arm']:<30} rate {row['rate']}  seed {row['seed']}  "
                f"fused {row['test']['fused']:.3f}  {row['seconds']} s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.jsonl"))
    parser.add_argument("--table", type=Path, help="write the tables as Markdown")
    parser.add_argument("--recipe", action="append", help="only these recipes")
    parser.add_argument("--arm", action="append", help="only these arms")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    store = Store(given.out)
    arms = [arm for arm in ARMS if (not given.recipe or arm.recipe in given.recipe) and (not given.arm or arm.name in given.arm)]
    run_all(list(jobs(arms, SEEDS[: given.seeds])), store, given.processes)
    if given.seeds == len(SEEDS):
        run_all(list(further(arms, store.rows)), store, given.processes)
    wanted = [job.key for job in (*jobs(ARMS, SEEDS), *further(ARMS, store.rows))]
    text = render([row for row in store.rows if any(all(row[name] == value for name, value in key.items()) for key in wanted)])
    print(text)
    if given.table:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
