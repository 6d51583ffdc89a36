"""What must fit before a run begins: the settings and the data, and the averaging rules and the tensors."""

import inspect
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from m2fedsa.blueprint import FUSED, FUSION, Blueprint, Parts, client_parts, server_parts
from m2fedsa.complaints import shown
from m2fedsa.config import DEFAULT_RULES, Config, Data
from m2fedsa.data.samples import SPLITS, UNLABELLED, ClientData, FederatedData, Kind, Samples, labelled
from m2fedsa.data.sources import COMMON, PASSED, PATHS, SOURCES
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.stopping import check_stopping

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_options(settings: Data) -> None:
    """`ConfigError` if an option that the source needs is missing, or is of another type than the source's."""
    if settings.source not in SOURCES:
        return
    for name, parameter in inspect.signature(SOURCES[settings.source]).parameters.items():
        if name in (*COMMON, *PASSED):
            continue
        if name not in settings.options:
            if parameter.default is parameter.empty:
                raise ConfigError(f"data.options.{name} is missing: the source {settings.source} needs it.")
            continue
        value, wanted = settings.options[name], parameter.annotation
        right = isinstance(value, (int, float) if wanted is float else wanted) if wanted in _OPTIONS else False
        if not right or (isinstance(value, bool) and wanted is not bool):
            should = _OPTIONS.get(wanted, "left out; only a program can set it")
            raise ConfigError(f"data.options.{name} = {shown(value)}, but it should be {should}.")


_OPTIONS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def option_named(message: str, settings: Data) -> str:
    """What a source says of its arguments, as of settings."""
    name = message.partition(" ")[0]
    if name in COMMON:
        return f"data.{message}"
    if name.startswith(("data.", "modalities.")):
        return message
    return f"data.options.{message}" if name in settings.options else f"data: {message}"


def check_paths(config: Config) -> None:
    """`ConfigError` with all paths that only the user can give and has not given, and where to get what lies there."""
    values: dict[str, object] = {f"data.options.{name}": value for name, value in config.data.options.items()}
    values |= {f"modalities.{name}.encoder": one.encoder for name, one in config.modalities.items()}
    missing = {key: what for key, what in PATHS.get(config.data.source, {}).items() if values.get(key, "") == ""}
    if missing:
        width = max(map(len, missing))
        told = "\n       ".join(f"--set {f'{key}=...':<{width + 4}}  {what}" for key, what in missing.items())
        raise ConfigError(f"data.source = {config.data.source!r} needs files of yours; give where they lie:\n       {told}")


def check_processors(config: Config) -> None:
    """`ConfigError` for a processor that the source would not look at."""
    known = SOURCES.get(config.data.source)
    if known is not None and "processors" in inspect.signature(known).parameters:
        return
    for name, one in config.modalities.items():
        if one.processor is not None:
            raise ConfigError(
                f"modalities.{name}.processor = {shown(one.processor)}, but the source {config.data.source} prepares its inputs itself. "
                "Leave it out."
            )


def check_data(config: Config, data: FederatedData) -> None:
    """`InputError` unless settings and data fit each other."""
    missing = [name for name in data.modalities if name not in config.modalities]
    if missing:
        raise ConfigError(
            f"modalities.{missing[0]} is missing: the data has this modality, and it needs an encoder: "
            f"[modalities.{missing[0]}] encoder = ..."
        )
    surplus = [name for name in config.modalities if name not in data.modalities]
    if surplus:
        raise ConfigError(f"modalities.{surplus[0]}: the data has no such modality, but {', '.join(data.modalities)}.")
    check_widths(config)
    if config.data.task != data.kind:
        raise ConfigError(f'data.task = "{config.data.task}", but the labels of the data are "{data.kind}"; set data.task = "{data.kind}".')
    least, what = (2, "class; a classifier needs two or more") if data.kind == "single_label" else (1, "classes or targets; it needs one")
    if len(data.classes) < least:
        raise DataError(f"the data has {len(data.classes)} {what}.")
    trains = [client for client in data.clients.values() if client.train is not None]
    if not trains:
        raise DataError("no client has training samples. Give at least one client a `train`.")
    sampled = config.federation.clients_per_round
    if sampled is not None and sampled > len(trains):
        raise ConfigError(f"federation.clients_per_round = {sampled}, but {len(trains)} clients have training samples.")
    for name, client in data.clients.items():
        _check_client(name, client, data)
    validated = any(client.validation is not None for client in data.clients.values())
    check_stopping(config, validated)
    if config.warm_start.calibrate and config.federation.warm_start and not validated:
        raise ConfigError(
            "warm_start.calibrate chooses scales on validation samples, but no client has any. Give some a `validation`, with "
            'data.evaluation = "clients" for instance, or leave it out.'
        )
    learning = sum(bool(labelled(client.train.labels).any()) for client in trains if client.train is not None)
    if not learning:
        raise DataError("no training sample of any client has a label. Transfer needs some to start from.")
    if learning < config.federation.min_clients:
        raise ConfigError(
            f"federation.min_clients = {config.federation.min_clients}, but {learning} clients have training samples with labels."
        )


def check_widths(config: Config) -> None:
    """`ConfigError` unless the update parts that are averaged over modalities have one width; `check_rules` looks at every tensor."""
    for adapter, part in (("modality_adapter", "ma"), ("task_adapter", "ta")):
        widths = {
            name: modality.adapter_width
            for name, modality in config.modalities.items()
            if getattr(modality, adapter) and config.averaging.over(f"{name}.{part}.update.weight") == "modalities"
        }
        if len(set(widths.values())) > 1:
            raise ConfigError(
                f"modalities.*.adapter_width = {widths}, but the update part of the adapters is averaged over "
                "modalities and needs one width. Make them equal, or change averaging.rules."
            )


def _check_client(name: str, client: ClientData, data: FederatedData) -> None:
    if not CLIENT_NAME.fullmatch(name):
        raise DataError(f"client {name!r}: a client's name is letters, digits, '.', '_' and '-', first a letter or digit.")
    if not client.modalities:
        raise DataError(f"client {name} holds no modality; it needs at least one of {', '.join(data.modalities)}.")
    foreign = [modality for modality in client.modalities if modality not in data.modalities]
    if foreign:
        raise DataError(f"client {name} holds {foreign[0]}, which is not a modality of the data ({', '.join(data.modalities)}).")
    right = tuple(modality for modality in data.modalities if modality in client.modalities)
    if tuple(client.modalities) != right:
        raise DataError(
            f"client {name} holds {', '.join(client.modalities)}; name each once, in the order of the data: {', '.join(right)}."
        )
    splits = {split: client.split(split) for split in SPLITS}
    if not any(samples is not None and len(samples.labels) for samples in splits.values()):
        raise DataError(f"client {name} has no samples. Leave the client out.")
    for split, samples in splits.items():
        if samples is not None:
            _check_form(f"client {name}, {split}", samples, client.modalities)
            _check_samples(f"client {name}, {split}", samples, len(data.classes), data.kind)


def _check_form(place: str, samples: Samples, modalities: Sequence[str]) -> None:
    """`DataError` unless the samples speak of their client's modalities."""
    if tuple(samples.modalities) != tuple(modalities):
        raise DataError(f"{place}: the samples are of {', '.join(samples.modalities)}, but the client holds {', '.join(modalities)}.")
    form = (len(samples.labels), len(modalities))
    if samples.presence.dtype != torch.bool or tuple(samples.presence.shape) != form:
        raise DataError(f"{place}: presence is {_form(samples.presence)}; {form} bool is needed, a column per modality.")


def _check_samples(place: str, samples: Samples, classes: int, kind: Kind) -> None:
    if len(samples.labels) == 0:
        raise DataError(f"{place}: there are no samples; leave the split out instead.")
    if kind == "single_label":
        _check_classes(place, samples.labels, classes)
    else:
        _check_rows(place, samples.labels, classes, kind)
    bare = (~samples.presence.any(1)).nonzero().flatten()
    if len(bare):
        raise DataError(f"{place}, row {int(bare[0])}: the sample has no modality; leave it out ({len(bare)} such rows).")


def _check_classes(place: str, labels: Tensor, classes: int) -> None:
    """One class a sample."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(f"{place}: labels are {_form(labels)}, but of a single-label task they should be (samples,) int64.")
    high, low = int(labels.max()), int(labels.min())
    if high >= classes or low < UNLABELLED:
        wrong = high if high >= classes else low
        row = int((labels == wrong).nonzero()[0])
        raise DataError(
            f"{place}, row {row}: label {wrong}, but there are {classes} classes (0 … {classes - 1}; {UNLABELLED} for no label)."
        )


def _check_rows(place: str, labels: Tensor, classes: int, kind: Kind) -> None:
    """A row of zeros and ones a sample, or of numbers; or none at all."""
    numbers = kind == "regression"
    if labels.shape[1:] != (classes,) or labels.is_floating_point() != numbers:
        wanted = f"(samples, {classes}) {'floating' if numbers else 'int64'}"
        raise DataError(f"{place}: labels are {_form(labels)}, but of a {kind.replace('_', '-')} task they should be {wanted}.")
    known = labelled(labels)
    blank = labels.isnan().all(1) if numbers else (labels == UNLABELLED).all(1)
    right = labels.isfinite().all(1) if numbers else ((labels == 0) | (labels == 1)).all(1)
    wrong = (~blank & ~(known & right)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        should = "finite numbers, or NaN throughout" if numbers else f"zeros and ones, or {UNLABELLED} throughout"
        raise DataError(f"{place}, row {row}: labels {labels[row].tolist()}, but they should be {should} where there is no label.")


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def check_rules(blueprint: Blueprint) -> None:
    """`ConfigError` for an averaging rule that no tensor matches, or that would average tensors of unequal shape."""
    parts = (client_parts(blueprint, blueprint.modalities), server_parts(blueprint))
    _check_shared(blueprint, parts[1])
    shapes = {name: tuple(tensor.shape) for one in parts for name, tensor in one.tensors.items()}
    averaging = blueprint.config.averaging
    for place, rule in enumerate(averaging.rules):
        if rule not in DEFAULT_RULES and not any(fnmatchcase(name, rule.pattern) for name in shapes):
            raise ConfigError(
                f"averaging.rules[{place}].pattern = {rule.pattern!r}, but no tensor has such a name. "
                f"There are {_kinds(shapes, blueprint.modalities[0])}."
            )
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        modality, _, rest = name.partition(".")
        if modality in blueprint.modalities and averaging.over(name) == "modalities":
            groups.setdefault(rest, {})[name] = shape
    for group in groups.values():
        if len(set(group.values())) > 1:
            told = ", ".join(f"{name} {shape}" for name, shape in group.items())
            raise ConfigError(
                f"averaging.rules averages tensors of unequal shape over modalities ({told}). Choose a pattern that leaves them out."
            )


def _check_shared(blueprint: Blueprint, server: Parts) -> None:
    """One shared copy has no client whose own its tensors could be."""
    config = blueprint.config
    local = [name for name in server.tensors if config.averaging.over(name) == "nothing"]
    if config.federation.server_update != "copies" and local:
        raise ConfigError(
            f'averaging.rules keeps {local[0]} local, but federation.server_update = "{config.federation.server_update}" steps one copy '
            "for all clients. "
            'Set "copies", or let the rule match tensors of the client alone.'
        )


def _kinds(names: Iterable[str], modality: str) -> str:
    """What names begin with, for one modality and for what belongs to none."""
    first = (name.split(".")[:2] for name in names if name.startswith((f"{modality}.", f"{FUSED}.", f"{FUSION}.")))
    return ", ".join(sorted({f"{FUSION}.*" if one[0] == FUSION else f"{'.'.join(one)}.*" for one in first}))
