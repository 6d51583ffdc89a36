"""All settings of a run: frozen pydantic models, and one TOML file.

An unknown key, a wrong type, a value out of range or a conflict is a `ConfigError` that names the key, what was found and what would
be right, before anything else happens.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from m2fedsa.complaints import complaints, shown
from m2fedsa.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
_FROM_TOML = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""TOML knows lists alone."""

MODALITY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RUN_NAME = re.compile(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]*")
MANIFEST = "manifest"
"""The source of samples that a manifest lists."""
RESERVED_NAMES = ("fusion", "fused")
"""First parts of tensor names that belong to no modality."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Columns(Section):
    """Columns of a manifest that are no modality. Unset: those that are called `label`, `client`, `split` and `id`, if there are such."""

    label: Annotated[str | tuple[str, ...] | None, _FROM_TOML, Field(examples=["label"])] = None
    """What is to be told of a sample; an empty cell is a sample without a label. Of several classes: one column with names between `;`, or
    a list of columns with 0 and 1. Of several numbers: a list of columns."""
    client: Annotated[str | None, Field(examples=["client"])] = None
    """Whose the sample is. Without such a column clients are made as `partition` says."""
    split: Annotated[str | None, Field(examples=["split"])] = None
    """`train`, `validation` or `test`. Without such a column they are drawn, in the shares of `held_out`."""
    id: Annotated[str | None, Field(examples=["id"])] = None
    """How the sample is called in messages; no two may be called the same."""


class Data(Section):
    """Which samples there are and who holds them."""

    manifest: Annotated[str | None, Field(examples=["train.csv"])] = None
    """Samples of your own: a CSV, TSV, JSONL or Parquet file, or a Hugging Face data set by folder or name; a row is a sample, and
    modalities.*.kind says how its columns are read. Relative to the working directory."""
    source: str = "digits"
    """Without a manifest, a data set by name (`digits`, `match`, `synthetic`, `products`, `spoken_digits`, `hateful_memes`, `meld`,
    `epic_kitchens`, `meld_text`, `random_shapes`), or `object` for one that is passed to `run`."""
    clients: Count = 25
    """Clients that train; those that only evaluate come with the data."""
    task: Literal["single_label", "multi_label", "regression"] = "single_label"
    """What a label is. `single_label`: one class of several. `multi_label`: any number of classes. `regression`: numbers."""
    partition: Literal["dirichlet", "iid", "shards", "linear", "square", "exponential", "column"] = "dirichlet"
    """`dirichlet`: clients differ in their classes. `iid`: samples are dealt out at random. `shards`: sorted by class and cut into pieces,
    of which each client has a few. `linear`, `square`, `exponential`: clients differ in their size, which grows so with their number.
    `column`: all samples of one value of `data.column` are at one client. Samples of several classes count as of the rarest of them,
    numbers by their tenth of all."""
    alpha: Positive = 0.3
    """Concentration of the Dirichlet distribution over classes; small means few classes per client."""
    shards: Count = 2
    """Pieces that a client has under `partition = "shards"`."""
    column: Annotated[str | None, Field(examples=["speaker"])] = None
    """What `partition = "column"` goes by. With more values than clients, a client has several of them."""
    minimum: Count = 8
    """Least number of training samples of a client; does not hold where a column decides."""
    evaluation: Literal["global", "clients"] = "global"
    """Who validates and tests. `global`: clients that do nothing else, on samples that the data set has set apart. `clients`: each on its
    own, see `held_out`; what the data set has set apart is then left alone."""
    held_out: Annotated[tuple[Probability, Probability], _FROM_TOML] = (0.1, 0.2)
    """The shares of the samples that are for validation and for test: of a client's own under `evaluation = "clients"`, and of a manifest
    that does not tell."""
    multimodal_fraction: Fraction = 0.5
    """Fraction of the clients that hold all modalities; the others hold one or two."""
    holdings: dict[str, Fraction] = Field(default_factory=dict)
    """Instead of `multimodal_fraction`, the fraction of the clients that hold each subset of the modalities, e.g. "image+text" = 0.5 and
    image = 0.5; together 1. `all` stands for all modalities."""
    missing_rate: Probability = 0.0
    """Probability that a sample of a multimodal client lacks a modality; each keeps at least one."""
    missing_rates: dict[str, Probability] = Field(default_factory=dict)
    """The same of single modalities, where it differs from `missing_rate`, e.g. audio = 0.9."""
    labelled_fraction: Fraction = 1.0
    """Fraction of the training samples that carry their label."""
    arrangement: Literal["federated", "pooled", "apart"] = "federated"
    """`pooled`: one client holds all training samples, centralised training. `apart`: the samples that evaluate are dealt out to the
    training clients, each of which judges what it holds itself."""
    absent: Literal["left_out", "zeros"] = "left_out"
    """What becomes of a modality that a training sample lacks; `zeros`: its inputs are zero, and every client holds every modality."""
    columns: Columns = Columns()
    folder: Annotated[str | None, Field(examples=["photos"])] = None
    """Where the paths in a manifest begin; unset: where the manifest lies."""
    classes: Annotated[tuple[str, ...], _FROM_TOML] = ()
    """The classes of a manifest, in their order; empty: those of its training rows, sorted."""
    on_error: Literal["stop", "skip"] = "stop"
    """What becomes of rows of a manifest that cannot be used. `stop`: nothing is trained, the first twenty are told. `skip`: they are left
    out and counted."""
    look: Literal["auto", "all", "heads"] = "auto"
    """How files are looked at before the first round. `all`: each is decoded. `heads`: each is there, and the heads of 2,000
    can be read. `auto`: all where that takes seconds, up to 20,000 pictures and recordings or 2,000 videos, or where they were looked at
    before."""
    options: dict[str, Annotated[float, Field(allow_inf_nan=True)] | int | bool | str] = Field(default_factory=dict)
    """What only this source knows; a wrong key is answered with those that there are. `digits` and `match`: image_noise is a standard
    deviation on pixels in 0 … 1, audio_snr_db the signal-to-noise ratio of white noise (inf: none). `digits` alone: text_mask is the
    probability that a character is lost. `match` alone: pairings is in how many samples each image and each recording takes part, half
    of which agree (even). `products` and `spoken_digits`: folder is where the files lie, image_size the pixels a side (0: what the
    encoder's processor says), text_tokens the most that is read of a text (0: all that its tokenizer takes). `products` alone: text is the
    column `title` or `description`, division another way to divide the samples (0: the file's own). `spoken_digits` alone: audio_seconds
    is how much of a recording a feature extractor hears (0: what it says itself). `hateful_memes`, `meld`, `epic_kitchens`: incomplete does
    without files that are missing; frames is how many are seen of a video (0: what the encoder takes); validation and test name the files
    of `hateful_memes`; annotations is where the tables of `epic_kitchens` lie, frames_from is `videos` or `rgb_frames`, validation is the
    share of its training videos that validate. `random_shapes`: of text_tokens text_read are real."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_manifest(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("manifest") is not None:
            return {"source": MANIFEST, **values}
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is not None) != (self.source == MANIFEST):
            raise ValueError(
                f"data.source = {self.source!r} and data.manifest = {shown(self.manifest)}: name a manifest and leave the source out, "
                "or the other way round"
            )
        if self.manifest is not None and self.options:
            raise ValueError(f"data.options.{next(iter(self.options))}: a manifest has no options; see modalities.*.options")
        return self


class Modality(Section):
    """One modality: its encoder and where it is cut."""

    encoder: str
    """`embedded:NAME`, `random:NAME`, a folder (one that `m2fedsa cut` wrote too), a hub name, or `object` for a model that is passed
    to `run`."""
    kind: Annotated[Literal["image", "audio", "video", "text", "tabular", "series"] | None, Field(examples=["image"])] = None
    """What a manifest has of it. `image`, `audio`, `video`: a path, or a file's content. `text`. `tabular`: the columns that its encoder
    was made for. `series`: a path to an array, or a list."""
    column: Annotated[str | None, Field(examples=["photo"])] = None
    """The manifest's column; unset: the one that is called like the modality."""
    options: dict[str, float | int | str] = Field(default_factory=dict)
    """How a manifest's cells are read, 0 for what the encoder's processor says. `image`: size, pixels a side. `audio`: seconds that are
    heard. `video`: frames, spread evenly, and size. `text`: tokens that are read. `audio` and `video`: begin and end, columns with seconds,
    where a file holds more than the sample."""
    processor: Annotated[str | None, Field(examples=["path/to/processor"])] = None
    """Folder or hub name of its tokenizer, image processor or feature extractor; unset: where the encoder lies."""
    revision: Annotated[str | None, Field(examples=["main"])] = None
    """Branch, tag or commit of an encoder from the hub; unset: its main branch."""
    head_dtype: Literal["float32", "bfloat16", "int8", "int4"] = "float32"
    """How clients store the weights of the head, in training and after. A folder that was cut has its own."""
    block: Annotated[int, Field(ge=0)] = 1
    """The head keeps the embeddings and this many blocks."""
    blocks: Annotated[Annotated[tuple[str, ...], _FROM_TOML] | None, Field(examples=[["encoder.layer.*"]])] = None
    """Names of the encoder's blocks in the order in which they run, `encoder.layer.*` for all of a list; unset: found by themselves."""
    keep: Annotated[tuple[str, ...], _FROM_TOML] = ()
    """Names of modules that finish before the cut but feed every block, where they are not known: the main server holds them too."""
    readable_text: bool = False
    """Allow `block = 0` for text: it leaves the client as embeddings of its words, from which it can simply be read."""
    pooling: Literal["default", "pooler", "mean", "cls", "last"] = "default"
    """How one feature comes from the last hidden state; `default`: as this family of encoders does it."""
    adapter_width: Count = 64
    """R, the bottleneck of both adapters."""
    adapter_dropout: Probability = 0.1
    """Dropout within both adapters."""
    modality_adapter: bool = True
    """Whether there is an adapter at the end of the head, on the client."""
    task_adapter: bool = True
    """Whether there is an adapter beside the tail's last feed-forward part, on the main server."""
    augment: Annotated[tuple[Literal["flip", "shift", "erase", "frames", "bands", "noise", "drop"], ...], _FROM_TOML] = ()
    """How training samples are disturbed, on the client. Pictures: `flip` (left and right, half of them), `shift` (by an eighth at most),
    `erase` (a rectangle). Spectrograms: `frames`, `bands` (a quarter at most is silent). `noise` (a tenth of a sample's deviation). Texts:
    `drop` (a tenth of the tokens)."""
    augment_views: Annotated[int, Field(ge=0)] = 4
    """The price of it. N: each sample has N views, itself and N - 1 disturbed ones, drawn once; the outputs of the head are kept for all,
    so a client computes and stores N times as much of them. 0: each step disturbs anew; nothing is kept, the head runs in each step."""
    frozen: bool = True
    """Whether the encoder's own weights stay as they are; if not they are trained and averaged too, the head's with the clients."""


class Fusion(Section):
    """The network on the main server that joins the modalities of a sample."""

    width: Count = 256
    """F, the width of its tokens and of the fused feature."""
    blocks: Annotated[int, Field(ge=0)] = 1
    """Blocks of attention over the modalities of a sample."""
    heads: Count = 4
    """Heads of that attention; they divide the width."""
    feed_forward: Annotated[int, Field(ge=0)] = 512
    """Width of the blocks' feed-forward part; 0 leaves attention alone."""
    bilinear: bool = True
    """Add products of pairs of modalities, so that fusion can learn relations."""
    late: bool = True
    """Add the sum of the unimodal logits; without it the paper's form, C_f(f) alone."""
    gradient_to_encoders: bool = True
    """Let the fused loss reach tails and adapters in the fusion phase."""
    learned: bool = True
    """Train on the fused loss. If not, modalities train apart, and the fused opinion is the sum of theirs."""
    modality_dropout: Probability = 0.0
    """Probability that a modality of a sample does not enter fusion, in the fusion phase."""


class Loss(Section):
    """The supervised loss and the classifiers under it."""

    prior_adjusted: bool = True
    """Let a client's own class frequencies take the place of the global ones while it trains."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Let all classes count alike, however frequent they are, as the unweighted average recall does: `weights` in the loss, by the global
    frequencies that the warm start counts; `sampling`: a client draws its classes alike."""
    classifier_dropout: Probability = 0.0
    """Dropout before the classifiers."""


class Transfer(Section):
    """Knowledge transfer from the fused representation to single modalities."""

    start: Annotated[int, Field(ge=1)] | Literal["never", "plateau", "authors"] = "plateau"
    """The first round of the transfer phase; `plateau`: when the fused loss falls no more, `authors`: when it moves in even steps,
    `never`: no such phase."""
    weights: Annotated[tuple[NotNegative, NotNegative, NotNegative], _FROM_TOML] = (0.6, 0.2, 0.2)
    """λ1 (labels), λ2 (decision level), λ3 (feature level)."""
    refresh: Count = 5
    """Rounds for which the teacher of unlabelled samples stays the same."""
    closed_form: bool = True
    """Let unlabelled samples enter the warm start with their soft labels, once."""
    unlabelled: bool = True
    """Train on unlabelled samples in the transfer phase."""
    teacher: Literal["fused", "self"] = "fused"
    """`self`: each modality is its own teacher, the baseline to beat."""


class Optimizer(Section):
    """AdamW on both sides, fresh in every round."""

    learning_rate: Positive = 1e-4
    """Of the adapters; the others are relative to it."""
    weight_decay: NotNegative = 0.05
    """Of everything that trains."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over the rounds; `cosine`: falls towards zero."""
    fusion_factor: Positive = 10.0
    """Learning rate of fusion and C_f relative to that of the adapters."""
    classifier_factor: Annotated[Positive | None, Field(examples=[0.1])] = None
    """Learning rate of C_m relative to that of the adapters; unset: 0.1 after a warm start, else 1."""
    clip_norm: Positive = 1.0
    """Largest norm of a party's gradients: MA, C_m, C_f on the client; TA and fusion on the main server."""


class Federation(Section):
    """The rounds."""

    rounds: Annotated[int, Field(ge=0)] = 300
    """How many; 0: the warm start alone."""
    clients_per_round: Annotated[Count | None, Field(examples=[1])] = None
    """Clients sampled for a round; unset: all."""
    min_clients: Count = 1
    """A round, or a warm start, that fewer finish does not count: it is repeated where clients are on machines of their own, else the run
    stops."""
    local_epochs: Count = 1
    """Passes of a client over its samples in a round."""
    local_steps: Annotated[Count | None, Field(examples=[10])] = None
    """A number of local steps instead of epochs; unset: epochs."""
    batch_size: Count = 32
    """Samples of a local step. With `clients_per_round` it bounds what the main server has in flight: it refuses larger ones."""
    batches: Literal["shuffled", "by_length"] = "shuffled"
    """`by_length`: texts of like length share a batch, which is then cut to the length of its longest."""
    split: bool = True
    """Whether tails, TA and fusion are on the main server. If not every client has them all, and only tensors travel: the same results at
    other costs."""
    client_update: Literal["parallel", "relay"] = "parallel"
    """`relay`: a client begins with what the one before it has made of the clients' tensors, and the last one's are the round's."""
    server_update: Literal["copies", "in_turn", "synchronous"] = "copies"
    """`copies`: the main server trains one copy per client and averages them. `in_turn`: one set, passed from client to client.
    `synchronous`: one set, stepped by the mean of the gradients of all clients' first steps, then of their second ones, and so on."""
    server_momentum: Probability = 0.0
    """Momentum of both servers on the change that a round brings; 0: none."""
    server_adam: Annotated[Positive | None, Field(examples=[0.01])] = None
    """Learning rate of Adam on that change, on both servers (FedAdam); unset: the average itself counts."""
    proximal: NotNegative = 0.0
    """μ of FedProx: half of it times the squared distance from the round's first tensors joins the loss."""
    warm_start: bool = True
    """Begin with classifiers in closed form, from sums that the clients send once; see [warm_start]."""


class WarmStart(Section):
    """Discriminant classifiers from the clients' sums, before the first round."""

    min_count: Count = 1
    """A client keeps back sums over fewer samples of a class; with 1 a sum may be a single sample."""
    shrinkages: Annotated[tuple[Share, ...], _FROM_TOML, Field(min_length=1)] = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7)
    """Of the covariance, to choose from: half of the samples make classifiers, the other half judge them."""
    scales: Annotated[tuple[Positive, ...], _FROM_TOML, Field(min_length=1)] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
    """Of the logits, to choose from in the same way."""


class AveragingRule(Section):
    """What happens to the tensors whose name matches `pattern`; the first rule that matches counts."""

    pattern: str
    """Of the tensor's name, e.g. `*.classifier.*`."""
    over: Literal["clients", "modalities", "nothing"]
    """`modalities`: over clients first, then over modalities. `nothing`: each client keeps its own."""


DEFAULT_RULES = (AveragingRule(pattern="*.ta.update.*", over="modalities"), AveragingRule(pattern="*", over="clients"))


class Averaging(Section):
    """Which tensors are averaged over clients, which also over modalities, which stay where they are."""

    rules: Annotated[tuple[AveragingRule, ...], _FROM_TOML] = DEFAULT_RULES
    """The first that matches a tensor's name counts. Behind them always stand those of the paper: `*.ta.update.*` over modalities, all else
    over clients; a rule of your own for `*.ta.update.*` overrules that."""

    def over(self, tensor: str) -> Literal["clients", "modalities", "nothing"]:
        """What the first rule that matches says."""
        return next(rule.over for rule in (*self.rules, *DEFAULT_RULES) if fnmatchcase(tensor, rule.pattern))


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
    """What rounds are compared by: of the fused model, on validation samples. Unset: accuracy; of several classes macro_f1, of numbers
    r2."""
    patience: Annotated[Count | None, Field(examples=[10])] = None
    """Stop after so many validations without a new best one; unset: run all rounds."""
    keep_best: bool = False
    """Let the best round be the outcome, not the last one."""


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


METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "uar", "macro_f1", "auc", "loss"),
    "multi_label": ("macro_f1", "micro_f1", "accuracy", "exact_match", "uar", "auc", "loss"),
    "regression": ("r2", "pearson", "mae", "rmse", "loss"),
}
"""`data.task` -> its metrics, first the one that it is judged by"""


class Config(Section):
    """Everything that decides a run. Two runs with equal settings, on the same build and thread count, end with the same digest."""

    name: str = "run"
    """A run directory is called after it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of every draw: noise, partition, batches, dropout, sampling."""
    data: Data = Data()
    modalities: dict[str, Modality]
    fusion: Fusion = Fusion()
    loss: Loss = Loss()
    transfer: Transfer = Transfer()
    optimizer: Optimizer = Optimizer()
    federation: Federation = Federation()
    warm_start: WarmStart = WarmStart()
    averaging: Averaging = Averaging()
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()
    kept: Kept = Kept()
    objects: Objects = Objects()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not RUN_NAME.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r}, but a directory is named by it: no slash, and no dot or space at its start")
        if not self.modalities:
            raise ValueError("modalities: none is given; a run needs at least one, e.g. [modalities.image] with an encoder")
        for name in self.modalities:
            if not MODALITY_NAME.fullmatch(name):
                raise ValueError(f"modalities.{name}: a modality's name is letters, digits and underscores, first a letter")
            if name in RESERVED_NAMES:
                raise ValueError(f"modalities.{name}: this name is taken by the tensors of fusion; choose another")
        if self.loss.balance == "weights" and not self.federation.warm_start:
            raise ValueError('loss.balance = "weights" needs federation.warm_start = true, which counts the classes; or take "sampling"')
        if self.loss.balance == "sampling" and self.data.task == "multi_label":
            raise ValueError('loss.balance = "sampling" is for one class a sample; with data.task = "multi_label" take "weights"')
        if self.loss.balance != "none" and self.data.task == "regression":
            raise ValueError(f'loss.balance = "{self.loss.balance}", but data.task = "regression" has no classes; leave it out')
        metric, known = self.evaluation.metric, METRICS[self.data.task]
        if metric is not None and metric not in known:
            raise ValueError(f'evaluation.metric = "{metric}", but data.task = "{self.data.task}" has {", ".join(known)}')
        if self.data.partition == "column" and self.data.column is None:
            raise ValueError('data.partition = "column", but data.column is unset; name the column that clients are made by')
        if sum(self.data.held_out) >= 1:
            raise ValueError(f"data.held_out = {list(self.data.held_out)} leaves nothing to train on; together it must be below 1")
        if self.fusion.width % self.fusion.heads:
            raise ValueError(f"fusion.heads = {self.fusion.heads} does not divide fusion.width = {self.fusion.width}")
        clients = self.federation.clients_per_round
        if clients is not None and clients > self.data.clients and self.data.manifest is None:
            raise ValueError(f"federation.clients_per_round = {clients}, but data.clients = {self.data.clients}")
        if self.federation.min_clients > (clients or self.data.clients):
            raise ValueError(f"federation.min_clients = {self.federation.min_clients}, but only {clients or self.data.clients} take part")
        if self.federation.server_adam is not None and self.federation.server_momentum:
            raise ValueError("federation.server_adam has a momentum of its own: set server_momentum = 0, or leave server_adam out")
        for name, modality in self.modalities.items():
            if not modality.frozen and modality.head_dtype != "float32":
                raise ValueError(
                    f'modalities.{name}.head_dtype = "{modality.head_dtype}", but frozen = false trains the head: it needs "float32"'
                )
        return self

    @property
    def classifier_factor(self) -> float:
        """Learning rate of C_m relative to the adapters'."""
        if self.optimizer.classifier_factor is not None:
            return self.optimizer.classifier_factor
        return 0.1 if self.federation.warm_start else 1.0

    def to_toml(self) -> str:
        """The complete settings as TOML; `from_toml` of it gives an equal object."""
        return tomli_w.dumps({name: value for name, value in self.model_dump(mode="json", exclude_none=True).items() if value != {}})

    @classmethod
    def from_toml(cls, text: str, source: str = "settings") -> "Config":
        """Parse settings. `ConfigError` names `source`, the key, what was found and what would be right."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not valid TOML: {error}. Compare with the output of `m2fedsa config digits`.") from error
        return cls.from_mapping(values, source)

    @classmethod
    def from_file(cls, path: Path) -> "Config":
        """Read a TOML file."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file. `m2fedsa config digits > {path}` writes one to start from.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}.") from error
        return cls.from_toml(text, str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "settings") -> "Config":
        """Settings from nested tables, as TOML gives them."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError("\n       ".join(f"{source}: {line}" for line in complaints(error, values, cls))) from error

    def override(self, assignments: Sequence[str], source: str = "--set") -> "Config":
        """A copy with `key.path=value` applied; values are TOML (`3`, `true`, `[1, 2]`), a bare word is a string. A `*` in the path stands
        for every table that there is: `modalities.*.block=2`."""
        values = self.model_dump(mode="json", exclude_none=True)
        for assignment in assignments:
            key, found, text = assignment.partition("=")
            if not found or not key.strip():
                raise ConfigError(f"{source} {assignment}: write key=value, e.g. {source} federation.rounds=10.")
            *path, last = key.strip().split(".")
            tables = [values]
            for part in path:
                tables = [one for table in tables for one in (table.values() if part == "*" else [table.setdefault(part, {})])]
                if not all(isinstance(table, dict) for table in tables):
                    raise ConfigError(f"{source} {assignment}: {part} is a value, not a table.")
            for table in tables:
                if text.strip() == "none":
                    table.pop(last, None)
                else:
                    table[last] = _toml_value(text.strip())
        return self.from_mapping(values, source)

    def differences(self, other: "Config") -> list[str]:
        """`key: here -> there` for every setting that differs."""
        here, there = flat(self.model_dump(mode="json")), flat(other.model_dump(mode="json"))
        return [
            f"{key}: {shown(here.get(key))} -> {shown(there.get(key))}"
            for key in sorted({*here, *there})
            if here.get(key) != there.get(key)
        ]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with keys such as `federation.rounds`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
