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
RESERVED_NAMES = ("fusion", "fused")
"""First parts of tensor names that belong to no modality."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Which samples there are and who holds them."""

    source: str = "digits"
    """An embedded data set (`digits`, `match`, `synthetic`), or `object` for one that is passed to `run`."""
    clients: Count = 25
    partition: Literal["dirichlet", "iid"] = "dirichlet"
    alpha: Positive = 0.3
    """Concentration of the Dirichlet distribution over classes; small means few classes per client."""
    minimum: Count = 8
    """Least number of training samples of a client."""
    multimodal_fraction: Fraction = 0.5
    """Fraction of the clients that hold all modalities; the others hold one or two."""
    missing_rate: Probability = 0.0
    """Probability that a sample of a multimodal client lacks a modality."""
    labelled_fraction: Fraction = 1.0
    """Fraction of the training samples that carry their label."""
    options: dict[str, Annotated[float, Field(allow_inf_nan=True)] | int | bool | str] = Field(default_factory=dict)
    """What only this source knows, e.g. `image_noise`."""


class Modality(Section):
    """One modality: its encoder and where it is cut."""

    encoder: str
    """`embedded:NAME`, `random:NAME`, a folder, a hub name, or `object` for a model that is passed to `run`."""
    processor: str | None = None
    """Folder or hub name of its tokenizer, image processor or feature extractor, where that does not lie with the encoder."""
    block: Annotated[int, Field(ge=0)] = 1
    """The head keeps the embeddings and this many blocks."""
    blocks: Annotated[tuple[str, ...], _FROM_TOML] | None = None
    """Names of the encoder's blocks in the order in which they run, where they are not known; `encoder.layer.*` for all of a list."""
    keep: Annotated[tuple[str, ...], _FROM_TOML] = ()
    """Names of modules that finish before the cut but feed every block, where they are not known: the main server holds them too."""
    readable_text: bool = False
    """Allow `block = 0` for text: it leaves the client as embeddings of its words, from which it can simply be read."""
    pooling: Literal["default", "pooler", "mean", "cls", "last"] = "default"
    adapter_width: Count = 64
    """R, the bottleneck of both adapters."""
    adapter_dropout: Probability = 0.1
    modality_adapter: bool = True
    task_adapter: bool = True


class Fusion(Section):
    """The network on the main server that joins the modalities of a sample."""

    width: Count = 256
    blocks: Annotated[int, Field(ge=0)] = 1
    heads: Count = 4
    feed_forward: Annotated[int, Field(ge=0)] = 512
    """Width of the blocks' feed-forward part; 0 leaves attention alone."""
    bilinear: bool = True
    late: bool = True
    """Add the sum of the unimodal logits; without it the paper's form, C_f(f) alone."""
    gradient_to_encoders: bool = True
    """Let the fused loss reach tails and adapters in the fusion phase."""
    modality_dropout: Probability = 0.0
    """Probability that a modality of a sample does not enter fusion, in the fusion phase."""


class Loss(Section):
    """The supervised loss and the classifiers under it."""

    prior_adjusted: bool = True
    classifier_dropout: Probability = 0.0


class Transfer(Section):
    """Knowledge transfer from the fused representation to single modalities."""

    start: Annotated[int, Field(ge=1)] | Literal["never", "plateau"] = "plateau"
    """The first round of the transfer phase."""
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
    weight_decay: NotNegative = 0.05
    schedule: Literal["constant", "cosine"] = "constant"
    fusion_factor: Positive = 10.0
    """Learning rate of fusion and C_f relative to that of the adapters."""
    classifier_factor: Positive | None = None
    """Learning rate of C_m; unset: 0.1 after a warm start, else 1."""
    clip_norm: Positive = 1.0
    """Largest norm of a party's gradients: MA, C_m, C_f on the client; TA and fusion on the main server."""


class Federation(Section):
    """The rounds."""

    rounds: Annotated[int, Field(ge=0)] = 300
    clients_per_round: Count | None = None
    """Clients sampled for a round; unset: all."""
    local_epochs: Count = 1
    local_steps: Count | None = None
    """A number of local steps instead of epochs."""
    batch_size: Count = 32
    batches: Literal["shuffled", "by_length"] = "shuffled"
    """`by_length`: texts of like length share a batch, which is then cut to the length of its longest."""
    server_update: Literal["copies", "in_turn"] = "copies"
    server_momentum: Probability = 0.0
    warm_start: bool = True


class WarmStart(Section):
    """Discriminant classifiers from the clients' sums, before the first round."""

    min_count: Count = 1
    """A client leaves out its classes with fewer samples."""
    shrinkages: Annotated[tuple[Share, ...], _FROM_TOML, Field(min_length=1)] = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7)
    scales: Annotated[tuple[Positive, ...], _FROM_TOML, Field(min_length=1)] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)


class AveragingRule(Section):
    """What happens to the tensors whose name matches `pattern`; the first rule that matches counts."""

    pattern: str
    over: Literal["clients", "modalities", "nothing"]


DEFAULT_RULES = (AveragingRule(pattern="*.ta.update.*", over="modalities"), AveragingRule(pattern="*", over="clients"))


class Averaging(Section):
    """Which tensors are averaged over clients, which also over modalities, which stay where they are."""

    rules: Annotated[tuple[AveragingRule, ...], _FROM_TOML] = DEFAULT_RULES

    def over(self, tensor: str) -> Literal["clients", "modalities", "nothing"]:
        """What the first rule that matches says; tensors without a rule are averaged over clients."""
        return next((rule.over for rule in self.rules if fnmatchcase(tensor, rule.pattern)), "clients")


class Evaluation(Section):
    """When the validation samples are looked at."""

    every: Count = 1
    """Rounds between two validations; the last round is always validated."""
    batch_size: Count = 64


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
    shorten: bool = True
    """Cut a batch of texts to the length of its longest, where the encoder takes no notice of padding."""
    checkpoint_tails: bool = False
    """Compute the tails' blocks twice instead of keeping what their gradients need: less memory on the main server, more time."""


class Kept(Section):
    """Where clients keep the outputs of their heads, which are computed once."""

    where: Literal["memory", "disk"] = "memory"
    """`disk`: a folder that later runs find again; a batch reads its own rows alone."""
    folder: str = "~/.cache/m2fedsa"
    limit: Count = 20_000_000_000
    """Largest size of that folder in bytes; what was not asked for the longest makes room."""


class Objects(Section):
    """A researcher's own parts, by name. `run` fills this in, so that nobody repeats or resumes a run without them unawares."""

    loss: str | None = None
    average: str | None = None
    sampler: str | None = None


class Config(Section):
    """Everything that decides a run. Two runs with equal settings, on the same build and thread count, end with the same digest."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
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
        if self.fusion.width % self.fusion.heads:
            raise ValueError(f"fusion.heads = {self.fusion.heads} does not divide fusion.width = {self.fusion.width}")
        clients = self.federation.clients_per_round
        if clients is not None and clients > self.data.clients:
            raise ValueError(f"federation.clients_per_round = {clients}, but data.clients = {self.data.clients}")
        self._check_widths()
        return self

    def _check_widths(self) -> None:
        """The update parts that are averaged over modalities must have one width; `assembly` looks at every other tensor."""
        for adapter, part in (("modality_adapter", "ma"), ("task_adapter", "ta")):
            widths = {
                name: modality.adapter_width
                for name, modality in self.modalities.items()
                if getattr(modality, adapter) and self.averaging.over(f"{name}.{part}.update.weight") == "modalities"
            }
            if len(set(widths.values())) > 1:
                raise ValueError(
                    f"modalities.*.adapter_width = {widths}, but the update part of the adapters is averaged over "
                    "modalities and needs one width. Make them equal, or change averaging.rules"
                )

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
        """A copy with `key.path=value` applied; values are TOML (`3`, `true`, `[1, 2]`), a bare word is a string."""
        values = self.model_dump(mode="json", exclude_none=True)
        for assignment in assignments:
            key, found, text = assignment.partition("=")
            if not found or not key.strip():
                raise ConfigError(f"{source} {assignment}: write key=value, e.g. {source} federation.rounds=10.")
            *path, last = key.strip().split(".")
            table = values
            for part in path:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    raise ConfigError(f"{source} {assignment}: {part} is a value, not a table.")
            if text.strip() == "none":
                table.pop(last, None)
            else:
                table[last] = _toml_value(text.strip())
        return self.from_mapping(values, source)

    def differences(self, other: "Config") -> list[str]:
        """`key: here -> there` for every setting that differs."""
        here, there = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
