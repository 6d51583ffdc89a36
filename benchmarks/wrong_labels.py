"""Three training labels in ten are wrong: does transfer help in the whole system, as it does heads on frozen features?

    python benchmarks/wrong_labels.py

`digits` with 25 clients, Dirichlet 0.5, at the learning rate that `study.py` found for the method; the wrong labels are those of another
class, drawn alike, in every modality of a sample; validation and test samples are labelled rightly. What was run before is not run again.
The table stands in docs/transfer.md, which `taught_heads.py --table` writes.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from quality import Store
from study_tasks import DEFAULT

if TYPE_CHECKING:
    from m2fedsa.config import Config
    from m2fedsa.data.samples import FederatedData

SEEDS = (5, 6, 7, 8, 9)
SHARES = (0.3,)
ARMS: Mapping[str, tuple[str, ...]] = {
    "no_transfer": ("no_transfer",),
    "from the first round": ("fixed_start",),
    "decision level alone, ten times as strong": ("fixed_start", "transfer.weights=[0.6, 2.0, 0.0]"),
    "the paper's, from the first round": ("paper_transfer", "transfer.start=1"),
}
"""A method's name and settings. The last is the second to the bit while the losses of labels stay above one."""
RATE = "optimizer.learning_rate=0.02"


def mislabelled(data: "FederatedData", share: float, seed: int) -> "FederatedData":
    """With the label of another class for some training samples of each client."""
    import torch

    from m2fedsa.seeding import derive

    clients = {}
    for name, client in data.clients.items():
        train = client.train
        if train is not None:
            draw = derive(seed, name, "wrong labels")
            labels = train.labels.clone()
            wrong = (torch.rand(len(labels), generator=draw) < share) & (labels >= 0)
            moved = (labels + torch.randint(1, len(data.classes), (len(labels),), generator=draw)) % len(data.classes)
            train = replace(train, labels=torch.where(wrong, moved, labels))
        clients[name] = replace(client, train=train)
    return replace(data, clients=clients)


def config_of(arm: str, seed: int) -> "Config":
    """The settings of a run."""
    from m2fedsa import recipes
    from m2fedsa.baselines.methods import named

    first, *settings = ARMS[arm]
    return named(first).of(recipes.digits(seed=seed).override([*DEFAULT, RATE])).override(settings)


def run(arm: str, share: float, seed: int) -> dict[str, Any]:
    """One run; the row that is kept of it."""
    import m2fedsa
    from m2fedsa.assembly import Extensions, samples_of
    from m2fedsa.comparing.outcome import fingerprint

    config = config_of(arm, seed)
    data = mislabelled(samples_of(config, Extensions()), share, seed)
    result = m2fedsa.run(config, data=data)
    accuracy = {name: scores["accuracy"] for name, scores in result.metrics.items() if "+" not in name}
    what = {"arm": arm, "share": share, "seed": seed, "settings": list(ARMS[arm]), "config": fingerprint(config)}
    return {**what, "accuracy": accuracy, "digest": result.digest}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy without transfer, and points that each form adds, paired by seed."""
    from m2fedsa.statistics import estimate, paired

    lines = [f"| wrong | modality | {' | '.join(ARMS)} |", "| --- | --- |" + " --- |" * len(ARMS)]
    for share in dict.fromkeys(row["share"] for row in rows):
        for modality in rows[0]["accuracy"]:
            found = {
                arm: {row["seed"]: row["accuracy"][modality] for row in rows if (row["arm"], row["share"]) == (arm, share)} for arm in ARMS
            }
            plain, *others = found.values()
            apart = [paired(other, plain) for other in others]
            shown = [str(estimate(list(plain.values())) or "–"), *("–" if one is None else one.points for one in apart)]
            lines.append(f"| {share:.0%} | {modality} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/wrong_labels.jsonl"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="fewer of them, for a trial")
    given = parser.parse_args(arguments)
    store = Store(given.rows)
    kept = {(row["arm"], row["share"], row["seed"]) for row in store.rows}
    for seed in SEEDS[: given.seeds]:
        for share in SHARES:
            for arm in ARMS:
                if (arm, share, seed) not in kept:
                    store.add(run(arm, share, seed))
                    print(f"{arm}, {share:.0%} wrong, seed {seed}: {store.rows[-1]['accuracy']}", flush=True)
    print(render(store.rows))


if __name__ == "__main__":
    main()
