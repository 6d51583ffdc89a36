"""What heads in few bits cost the two recipes on pretrained encoders: the same runs with heads in float32, int8 and int4.

    python benchmarks/quantised_recipes.py --flipkart DIR --digits DIR --image DIR --audio DIR --text DIR \\
        --rows benchmarks/results/quantised.jsonl

Folders as for `real_recipes.py`, seeds and divisions too. A head in few bits serves in training and in evaluation alike, as it would at a
client. Differences of test accuracy to float32 are paired by seed. `--rounds 0` measures the closed form alone, before any gradient step;
unset, each recipe's own rounds. What was run before with the same settings is not run again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measuring import options, table
from quality import Store
from real_recipes import SEEDS, Job
from scipy.stats import t as student

DTYPES = ("float32", "int8", "int4")
GOAL = -0.5
"""points of accuracy"""


def jobs(given: Any) -> Iterator[tuple[str, Job]]:
    """Type and run, all types of a seed before the next."""
    folders = {
        "products": {"folder": given.flipkart, "image": given.image, "text": given.text},
        "spoken_digits": {"folder": given.digits, "image": given.image, "audio": given.audio, "text": given.text},
    }
    for recipe, paths in folders.items():
        for seed in SEEDS[: given.seeds] if all(paths.values()) else ():
            for dtype in DTYPES:
                names = [name for name in paths if name != "folder"]
                rounds = () if given.rounds is None else (f"federation.rounds={given.rounds}",)
                settings = (*(f"modalities.{name}.head_dtype={dtype}" for name in names), *rounds, *(given.set or ()))
                yield dtype, Job(recipe, seed, paths, settings)


def run(dtype: str, job: Job) -> dict[str, Any]:
    """Test accuracy of every subset, and what a client stores."""
    import m2fedsa

    result = m2fedsa.run(job.config())
    test = {subset: scores["accuracy"] for subset, scores in result.metrics.items()}
    stored = sum(entry["client"]["frozen"]["bytes"] for entry in result.ledger.values())
    return {**job.key, "dtype": dtype, "rounds": result.rounds, "test": test, "head_bytes": stored, "digest": result.digest}


def points(ours: list[float], exact: list[float]) -> tuple[float, float]:
    """Mean difference in points, and half of its 95 % interval (Student)."""
    gaps = [100 * (one - other) for one, other in zip(ours, exact, strict=True)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / max(1, len(gaps) - 1)) ** 0.5
    return mean, float(student.ppf(0.975, max(1, len(gaps) - 1))) * deviation / len(gaps) ** 0.5


def show(rows: list[dict[str, Any]]) -> None:
    """A table per recipe."""
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        by = {dtype: sorted((r for r in rows if (r["recipe"], r["dtype"]) == (recipe, dtype)), key=lambda r: r["seed"]) for dtype in DTYPES}
        if len({tuple(row["seed"] for row in its) for its in by.values()}) > 1:
            continue
        whole, subsets = by["float32"], list(by["float32"][0]["test"])
        print(f"\n{recipe}, {whole[0]['rounds']} rounds, {len(whole)} seeds: test accuracy %, and points to float32 with 95 % interval\n")
        lines = []
        for dtype, its in by.items():
            cells = []
            for subset in subsets:
                mine = [row["test"][subset] for row in its]
                gap, half = points(mine, [row["test"][subset] for row in whole])
                told = "" if dtype == "float32" else f" ({gap:+.2f} ± {half:.2f})"
                cells.append(f"{100 * sum(mine) / len(mine):.2f}{told}")
            lines.append([dtype, f"{its[0]['head_bytes'] / 1e6:.2f}", *cells])
        table(["heads", "MB a client", *subsets], lines)
    print(f"\ngoal: fused not lower than {GOAL} points")


def main(arguments: list[str] | None = None) -> None:
    """Run what is not kept yet, and print."""
    parser = options(__doc__)
    for name in ("flipkart", "digits", "image", "audio", "text"):
        parser.add_argument(f"--{name}", metavar="DIR", help="a folder of yours; see docs/results_real.md")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/quantised.jsonl"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--rounds", type=int, help="instead of the recipe's own")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a setting of the recipes")
    given = parser.parse_args(arguments)
    wanted = list(jobs(given))
    if not wanted:
        print("skipped: this study runs on data and encoders of yours; name their folders (--help)")
        return
    store = Store(given.rows)
    for dtype, job in wanted:
        if not store.has(job):
            store.add(run(dtype, job))
            print(f"{job.recipe:<14} seed {job.seed}  {dtype:<8}  fused {store.rows[-1]['test']['fused']:.3f}", flush=True)
    keys = [job.key for _, job in wanted]
    show([row for row in store.rows if any(all(row[name] == value for name, value in key.items()) for key in keys)])


if __name__ == "__main__":
    main()
