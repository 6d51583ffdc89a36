"""[evaluation], [wire], [compute], [kept], [objects]: what is looked at, how numbers travel, and the machine."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from m2fedsa.config.section import Count, Section

METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "uar", "macro_f1", "auc", "loss"),
    "multi_label": ("macro_f1", "micro_f1", "accuracy", "exact_match", "uar", "auc", "loss"),
    "regression": ("r2", "pearson", "mae", "rmse", "loss"),
}
"""`data.task` -> its metrics, first the one that it is judged by"""


class Evaluation(Section):
    """When the validation samples are looked at."""

    every: Count = 1
    """Rounds between two validations; the last round is always validated."""
    batch_size: Count = 64
    """Samples that are evaluated at once."""
    metric: Annotated[
        Literal["accuracy", "uar", "macro_f1", "auc", "exact_match", "micro_f1", "r2", "pearson", "mae", "rmse", "loss"] | None,
        Field(examples=["uar"]),
    ] = None
    """What rounds are compared by: of the fused model, on validation samples. Unset: accuracy, or uar where `loss.balance` lets classes
    count alike; of several classes macro_f1, of numbers r2."""
    patience: Annotated[Count | None, Field(examples=[10])] = None
    """Stop after so many validations without a new best one; unset: run all rounds."""
    keep_best: bool = False
    """Let the best round be the outcome, not the last one."""


Width = Literal["float32", "bfloat16", "int8"]
"""How numbers travel in one direction; `float32`: as they were computed, to the bit."""


class Wire(Section):
    """Between clients and the main server: activations, features and their gradients, in training, warm start and evaluation. In one
    process they are rounded as over a network; predictions of a whole model are not. Tensors that are averaged travel as they are, so
    nothing changes where `federation.split = false`."""

    up: Width = "float32"
    """How numbers travel from clients: `float32` as they are, to the bit; `bfloat16` in a half of the bytes, `int8` in little more than a
    quarter, with a scale for each token or map."""
    down: Width = "float32"
    """How they travel to clients."""


class Compute(Section):
    """The machine."""

    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of the tensor library; 0 leaves its own choice. Results repeat to the bit for the same number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where encoders and what trains beside them compute; `auto`: a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen encoders and of what crosses the cut; what trains is in float32 always."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """The encoders' kind of attention; `auto`: the one that is fastest on the device in this precision."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads that decode files ahead of the heads; 0: none."""
    shorten: bool = True
    """Cut a batch of texts to the length of its longest, where the encoder takes no notice of padding."""
    checkpoint_tails: bool = False
    """Compute the tails' blocks twice instead of keeping what their gradients need: less memory on the main server, more time."""
    last_block: Literal["whole", "pooled"] = "whole"
    """`pooled`: from its feed-forward part on for the pooled token alone, where one token is pooled (`cls`, `last`, most poolers). Features
    then equal those of the whole encoder within 1e-5 instead of to the bit, and the task adapter's dropout draws for one token."""


class Kept(Section):
    """Where clients keep the outputs of their heads, which are computed once."""

    where: Literal["memory", "disk"] = "memory"
    """`disk`: a folder that later runs find again; a batch reads its own rows alone."""
    folder: str = "~/.cache/m2fedsa"
    """Where that folder lies."""
    limit: Count = 20_000_000_000
    """Largest size of that folder in bytes; what was not asked for the longest makes room."""


class Objects(Section):
    """A researcher's own parts, by name. `run` fills this in, so that nobody repeats or resumes a run without them unawares."""

    loss: Annotated[str | None, Field(examples=["module.Name"])] = None
    """Of the loss; unset: that of the paper."""
    average: Annotated[str | None, Field(examples=["module.Name"])] = None
    """Of the averaging rule; unset: the mean, weighted by samples."""
    sampler: Annotated[str | None, Field(examples=["module.Name"])] = None
    """Of the client sampler; unset: uniform."""
