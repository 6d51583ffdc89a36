"""All settings of a run: frozen pydantic models, and one TOML file.

An unknown key, a wrong type, a value out of range or a conflict is a `ConfigError` that names the key, what was found and what would
be right, before anything else happens.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from m2fedsa.complaints import complaints, shown
from m2fedsa.config.averaging import Averaging
from m2fedsa.config.data import Data
from m2fedsa.config.learning import Federation, Loss, Optimizer, Transfer, WarmStart
from m2fedsa.config.networks import MODALITY_NAME, RESERVED_NAMES, Fusion, Modality
from m2fedsa.config.running import METRICS, Compute, Evaluation, Kept, Objects, Wire
from m2fedsa.config.section import Section
from m2fedsa.errors import ConfigError

RUN_NAME = re.compile(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]*")


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
    wire: Wire = Wire()
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
        if self.data.task == "regression" and self.warm_start.form == "joint":
            raise ValueError('warm_start.form = "joint" gives log-odds that add up, and data.task = "regression" has none; take "apart"')
        if self.warm_start.calibrate and (self.data.task == "regression" or self.warm_start.form == "joint"):
            what = 'data.task = "regression"' if self.data.task == "regression" else 'warm_start.form = "joint"'
            raise ValueError(f"warm_start.calibrate chooses a scale for each modality, and {what} has none; leave it out")
        if self.loss.balance == "sampling" and (self.warm_start.fused or self.warm_start.form == "joint"):
            raise ValueError('loss.balance = "sampling" leaves class weights unknown, which warm_start.fused and form = "joint" need')
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
        if clients is not None and self.federation.min_clients > clients:
            raise ValueError(f"federation.min_clients = {self.federation.min_clients}, but only {clients} take part")
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
