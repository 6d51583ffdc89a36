"""The files of a run directory as types: what training hands over, what the report reads, what other programs may rely on.

`Metrics` are keyed by subset: `fused` (all modalities that a sample has), a modality's name (its own classifier alone), `a+b` (fused,
restricted to these). Everything is plain JSON. Keys of `NotRequired` may be missing: the report leaves out what it is not told.
"""

from typing import Literal, NotRequired, TypedDict


class Scores(TypedDict):
    """The metrics of one subset of the modalities, those of the task; null where it cannot be computed."""

    accuracy: NotRequired[float | None]
    """single label: of samples; multi-label: of all answers about a class"""
    exact_match: NotRequired[float | None]
    """of samples of which every class is told rightly"""
    uar: NotRequired[float | None]
    micro_f1: NotRequired[float | None]
    macro_f1: NotRequired[float | None]
    r2: NotRequired[float | None]
    pearson: NotRequired[float | None]
    mae: NotRequired[float | None]
    """in the units of the labels, as `rmse`"""
    rmse: NotRequired[float | None]
    auc: NotRequired[float | None]
    auc_error: NotRequired[float | None]
    """bound on the error of `auc`, 0 where it is exact"""
    loss: NotRequired[float | None]
    samples: NotRequired[int]


Metrics = dict[str, Scores]


class Bytes(TypedDict):
    """Payload in bytes, seen from the clients; of a round, that of its steps' four messages, none where nothing is split."""

    up: int
    down: int


class FailureRecord(TypedDict):
    """A client that could not do its task in a round; the round went on without it."""

    client: str
    kind: str
    message: str


class ClientFacts(TypedDict):
    """What a client holds."""

    modalities: list[str]
    train: int
    labelled: int
    validation: NotRequired[int]
    test: NotRequired[int]
    classes: NotRequired[list[int]]
    """training samples per class, in the order of `Facts.classes`; unlabelled ones left out"""
    mean: NotRequired[list[float]]
    """of training labels that are numbers, as `deviation`, per target"""
    deviation: NotRequired[list[float]]
    having: NotRequired[dict[str, int]]
    """how many training samples have each modality"""


class Facts(TypedDict):
    """`clients.json`: who takes part, written before the first round."""

    modalities: list[str]
    classes: list[str]
    clients: dict[str, ClientFacts]
    notes: NotRequired[list[str]]
    """what people should know of how the samples are read, e.g. how many texts lose their end"""


class WarmStartRecord(TypedDict):
    """`warm_start.json`: the closed form, before the first gradient step."""

    metrics: Metrics | None
    """on validation samples"""
    bytes: Bytes
    """of activations and features: each sample is sent once"""
    sums: NotRequired[Bytes]
    """between clients and fed server: sums of features up, tensors and candidate classifiers down"""
    seconds: float
    samples: int
    """that were sent: with labels, and those without that can be taught"""
    visits: NotRequired[dict[str, int]]
    """modality -> how many of them have it"""
    test: NotRequired[Metrics | None]
    """on test samples"""
    chosen: NotRequired[dict[str, dict[str, float]]]
    """per modality: `shrinkage` and `scale`"""
    failures: NotRequired[list[FailureRecord]]


class RoundRecord(TypedDict):
    """One line of `rounds.jsonl`."""

    round: int
    phase: Literal["fusion", "transfer"]
    clients: list[str]
    """whose update counts"""
    loss: dict[str, float | None]
    """per modality, and `fused`"""
    bytes: Bytes
    seconds: float
    metrics: Metrics | None
    """on validation samples; null where this round was not evaluated"""
    tensors: NotRequired[Bytes]
    """of what trains, between clients and fed server; of a run that is not split, all that travels"""
    visits: NotRequired[dict[str, int]]
    """modality -> samples that the clients trained on, as often as they did"""
    teaching: NotRequired[Bytes]
    """of the passes in which unlabelled samples got new teachers"""
    failures: NotRequired[list[FailureRecord]]
    """clients that could not train, or not evaluate"""


class Weights(TypedDict):
    """Number of parameters and their bytes."""

    parameters: int
    bytes: int


class Side(TypedDict):
    """What one side holds of an encoder, and what it computes per sample."""

    frozen: Weights
    trainable: Weights
    flops: dict[str, float]
    """`forward` and `backward`, per sample; on the client also `head`: the part of `forward` that a kept head output saves"""


class LedgerEntry(TypedDict):
    """One modality's share of storage, compute and traffic."""

    client: Side
    server: Side
    whole: Side
    """the same encoder held and trained in one place"""
    bytes: Bytes
    """per sample and training step"""
    kept: NotRequired[int]
    """bytes of a head output and its mask, of which a client keeps one per sample and view; 0 where the head is trained"""


class ClientRecord(TypedDict):
    """What became of one client."""

    modalities: list[str]
    train: int
    metrics: NotRequired[Metrics | None]
    """on the client's own test samples"""
    rounds: NotRequired[int]
    """rounds in which its update counted"""
    loss: NotRequired[float | None]
    """its fused loss when it last took part"""
    bytes: NotRequired[Bytes]


class ResultRecord(TypedDict):
    """`result.json`."""

    metrics: Metrics
    """on test samples"""
    validation: Metrics | None
    per_client: dict[str, ClientRecord]
    ledger: dict[str, LedgerEntry]
    digest: str
    rounds: int
    seconds: float
    versions: dict[str, str]
    closed_form: NotRequired[Metrics | None]
    """on test samples: a linear head on the frozen features (the warm start), before the first gradient step"""
    failures: NotRequired[list[FailureRecord]]
    """clients that could not evaluate: their samples are in no metric"""
    best_round: NotRequired[int]
    """the round whose tensors this is the result of, where `evaluation.keep_best` asks for the best one"""
    confusion: NotRequired[dict[str, list[list[float]]]]
    """per subset, on test samples: rows are true classes, columns predicted ones"""
