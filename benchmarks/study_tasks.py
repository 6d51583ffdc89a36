"""What the study compares: tasks with their budgets, factors, shares of labels, and arms that are run in another way than most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("methods", "longer", "factors", "ablations", "labels")
DEFAULT = ("data.clients=25", "data.partition=dirichlet", "data.alpha=0.5", "evaluation.keep_best=true", "compute.threads=1")
FACTORS: Mapping[str, tuple[str, ...]] = {
    "IID": ("data.partition=iid",),
    "Dirichlet 0.1": ("data.alpha=0.1",),
    "100 clients": ("data.clients=100", "data.minimum=2"),
    "50 % missing": ("data.missing_rate=0.5",),
    "90 % missing": ("data.missing_rate=0.9",),
}
TEACHING = ("transfer.start=1", "transfer.refresh=3")
LABELS: Mapping[str, tuple[str, ...]] = {
    f"{percent} %": (f"data.labelled_fraction={percent / 100:g}", *TEACHING) for percent in (1, 5, 10, 20, 50, 100)
}
TAUGHT = ("no_transfer", "m2fedsa", "self_teaching", "no_rounds", "closed_form")
"""Without teachers, taught by fusion, each modality its own teacher; and in closed form, with soft labels and without."""
CLOSED_FORMS = ("no_rounds", "closed_form", "closed_form_joint", "closed_form_fused", "closed_form_calibrated")
"""These train nothing."""
TUNED = "10 %"
"""The share of labelled samples at which the rates of all small shares are searched, and other ways to teach are tried."""
MOST = ("50 %", "100 %")
"""Shares at which the rate of `m2fedsa` on all samples counts for all."""
TUNING = ("sharper_teacher", "softer_teacher", "confident_teacher", "plateau_start")
"""At the rate of `m2fedsa`."""
AT_ONCE = "transfer from the first round"
WITHIN_TRANSFER = ("fixed_start", "no_decision_level", "no_feature_level", "paper_transfer")
"""What is taken away from the transfer phase, which the recipes' rule does not begin within their rounds."""
VARIANTS = ("averaged_moments", "calibrated", "best_by_loss", "int8_wire")
"""Ablations that stand among the methods."""
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "cut at block 2": ("modalities.*.block=2",),
    "cut at block 3": ("modalities.*.block=3",),
    "adapters of 8": ("modalities.*.adapter_width=8",),
    "adapters of 128": ("modalities.*.adapter_width=128",),
    "λ 0.2, 0.4, 0.4": (*TEACHING, "transfer.weights=[0.2, 0.4, 0.4]"),
}
"""Other numbers in the method, where recipes that ship with the package have 1, 32 and 0.6, 0.2, 0.2."""
NO_ABLATION = ("no_transfer", "plateau_start", "authors_start", "no_rounds", "self_teaching", *TUNING[:3], *VARIANTS)
"""What is the method itself where no transfer begins and all samples are labelled, and what other parts show."""
LONGER = "twice the rounds"
DIVISIONS = 5
OURS = "m2fedsa"
BEST = 4
NO_FEDERATION = ("centralised", "local")
WHOLE = ("fedavg", "splitfed_v1", "splitfed_v2", "split_learning")
"""These train whole encoders, which takes smaller steps than adapters do."""
SAME = {"splitfed_v1": "fedavg"}
"""Methods that end with the tensors of another, to the bit, at other costs: its search is theirs, and they run on one seed."""
SHARED = {**SAME, "calibrated": OURS, "best_by_loss": OURS, "int8_wire": OURS}
"""Arms that run at the rate of another, without a search of their own."""
BEYOND = 4.0
"""How far from an edge that did best the next rate lies, as a ratio."""
RATE = "optimizer.learning_rate"


@dataclass(frozen=True)
class Task:
    """A recipe, and how much of the search and of the seeds it is worth."""

    recipe: str
    seconds: float
    """of a run of `m2fedsa` on one quiet core, measured"""
    rates: tuple[float, ...]
    smaller: float
    """what the rates are multiplied by where whole encoders train"""
    folders: tuple[str, ...] = ()
    """names of the arguments that the recipe needs"""
    parts: tuple[str, ...] = PARTS
    search: tuple[int, ...] = (20,)
    seeds: tuple[int, ...] = (5, 6, 7, 8, 9)
    few: int = 3
    """how many of the seeds `factors` and `ablations` run on"""
    taught: int = 5
    """how many of them `labels` runs on"""
    whole: int = 5
    """on how many of them whole encoders train"""
    settings: tuple[str, ...] = ()

    def grid(self, arm: str) -> list[float]:
        """The rates that are tried first."""
        return [float(f"{rate * (self.smaller if arm in WHOLE else 1):.3g}") for rate in self.rates]


SMALL, LARGE = (0.001, 0.005, 0.02), (0.0005, 0.002, 0.008)
REAL: dict[str, Any] = {"seeds": (5, 6, 7)}
DISK = "kept.where=disk"
"""What heads make of a sample is the same in every run of a seed."""
LATE, LATER = ("modalities.image.block=13", "modalities.text.block=4"), ("modalities.image.block=15", "modalities.text.block=5")
"""Cut later than in the recipe, which costs a third of the time, and less."""
LONG, EPOCHS = "federation.rounds=8", "federation.local_epochs=3"
"""Trained for longer than in the recipe: in more rounds, or three times as long in each."""
TASKS = (
    Task("digits", 36, SMALL, 0.2),
    Task("match", 40, SMALL, 0.2, taught=3),
    # The best of the federations there train whole encoders: five factors would take as long as all the other parts.
    Task(
        "spoken_digits",
        125,
        LARGE,
        0.1,
        ("digits", "image", "audio", "text"),
        parts=("methods", "longer", "labels"),
        taught=3,
        whole=3,
        settings=(DISK, *LATE, EPOCHS),
    ),
    Task(
        "products",
        50,
        LARGE,
        0.1,
        ("flipkart", "image", "text"),
        parts=("methods", "longer", "factors", "labels"),
        settings=(DISK, *LATER, LONG),
        **REAL,
    ),
    # One modality has no other to be taught by; the clients of some roles are few.
    Task(
        "meld_text",
        60,
        LARGE,
        0.1,
        ("meld", "text"),
        parts=("methods", "longer"),
        settings=(DISK, "federation.rounds=8", "federation.local_steps=10", "evaluation.every=2"),
        **REAL,
    ),
)


def metric_of(task: str) -> str:
    """What a task is judged by."""
    return "uar" if task == "meld_text" else "accuracy"
