"""Tiny worlds: three encoders of three families, samples that lack modalities or labels, texts of all lengths, a handful of clients.

Everything follows the default dtype of the moment, so a test that takes the fixture `float64` lives in a world of doubles.
"""

import copy
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from m2fedsa.assembly import Extensions, Parties, assemble
from m2fedsa.config import Config
from m2fedsa.data.samples import UNLABELLED, ClientData, FederatedData, InMemorySamples, Kind
from m2fedsa.messages import Averaged, Failure, RoundPlan, Traffic, TrainResult, TrainTask
from m2fedsa.seeding import derive
from m2fedsa.state import snapshot
from m2fedsa.storage import Store

MODALITIES = ("image", "audio", "text")
CLASSES = ("a", "b", "c", "d")
TARGETS = ("height", "depth")
DEPTH = 3
TEXT_LENGTH = 9
CLIENTS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "ann": (MODALITIES, 9),
    "bob": (MODALITIES, 10),
    "cyd": (("image", "text"), 7),
    "dee": (("audio",), 6),
    "eve": (("text",), 5),
}
"""Who trains: modalities and number of samples. At bob and cyd samples lack modalities."""


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    """Every tensor that is made without a type is of this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def doubles() -> AbstractContextManager[None]:
    """Every tensor that is made without a type is a double."""
    return default(torch.float64)


# --- encoders -----------------------------------------------------------------------------------------------------------------------


@functools.cache
def _pretrained() -> dict[str, nn.Module]:
    depth = {"num_hidden_layers": DEPTH, "num_attention_heads": 2}
    # Drawn in single precision whoever asks first: the generator gives other numbers for doubles.
    with torch.random.fork_rng(), default(torch.float32):
        torch.manual_seed(0)
        vit = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=16, intermediate_size=20, **depth)
        ast = transformers.ASTConfig(
            patch_size=4, frequency_stride=4, time_stride=4, max_length=12, num_mel_bins=8, hidden_size=12, intermediate_size=24, **depth
        )
        bert = transformers.BertConfig(vocab_size=30, max_position_embeddings=TEXT_LENGTH, hidden_size=20, intermediate_size=28, **depth)
        models = {
            "image": transformers.ViTModel(vit, add_pooling_layer=False),
            "audio": transformers.ASTModel(ast),
            "text": transformers.BertModel(bert, add_pooling_layer=False),
        }
        # As drawn by the library the weights are so small that attention is uniform and features hardly differ.
        with torch.no_grad():
            for model in models.values():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    return {name: model.float().eval() for name, model in models.items()}


def encoders(modalities: Sequence[str] = MODALITIES) -> dict[str, nn.Module]:
    """Whole pretrained encoders, fresh copies in the default dtype."""
    return {name: copy.deepcopy(model).to(torch.get_default_dtype()) for name, model in _pretrained().items() if name in modalities}


# --- samples ------------------------------------------------------------------------------------------------------------------------


def columns(number: int, seed: int = 1) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    """Encoder inputs of paired samples in three modalities, and their classes; each modality tells something of the class."""
    g = torch.Generator().manual_seed(seed)
    dtype = torch.get_default_dtype()
    labels = torch.randint(0, len(CLASSES), (number,), generator=g)
    pictures, sounds = (torch.randn(len(CLASSES), *shape, generator=g, dtype=torch.float32) for shape in ((1, 8, 8), (12, 8)))
    pictures = pictures[labels] + 3 * torch.randn(number, 1, 8, 8, generator=g, dtype=torch.float32)
    sounds = sounds[labels] + 3 * torch.randn(number, 12, 8, generator=g, dtype=torch.float32)
    telling = torch.rand(number, TEXT_LENGTH, generator=g, dtype=torch.float32) < 0.2
    words = torch.where(telling, labels[:, None] * 6 + 4, torch.randint(3, 30, (number, TEXT_LENGTH), generator=g))
    mask = (torch.arange(TEXT_LENGTH) < torch.randint(2, TEXT_LENGTH + 1, (number, 1), generator=g)).long()
    return {
        "image": {"pixel_values": pictures.to(dtype)},
        "audio": {"input_values": sounds.to(dtype)},
        "text": {"input_ids": words * mask, "attention_mask": mask},
    }, labels


def some_missing(number: int, modalities: Sequence[str], seed: int = 2) -> Tensor:
    """(number, M) bool: nearly half of the entries are absent, and no row is empty."""
    g = torch.Generator().manual_seed(seed)
    presence = torch.rand(number, len(modalities), generator=g, dtype=torch.float32) < 0.5
    presence[torch.arange(number), torch.randint(0, len(modalities), (number,), generator=g)] = True
    return presence


def samples(
    table: Mapping[str, Mapping[str, Tensor]],
    labels: Tensor,
    indices: Tensor,
    modalities: Sequence[str] = MODALITIES,
    presence: Tensor | None = None,
) -> InMemorySamples:
    """Some rows of a table, complete unless told otherwise. `labels` of the rows taken."""
    if presence is None:
        presence = torch.ones(len(indices), len(modalities), dtype=torch.bool)
    return InMemorySamples({name: table[name] for name in modalities}, indices, labels, presence, tuple(modalities))


def federated(
    clients: Mapping[str, tuple[tuple[str, ...], int]] = CLIENTS,
    *,
    unlabelled: float = 0.0,
    modalities: Sequence[str] = MODALITIES,
    seed: int = 1,
    kind: Kind = "single_label",
) -> FederatedData:
    """The clients' data, and one client each that validates (`val`) and tests (`tst`), with all modalities.

    `unlabelled` is the chance of a training sample to have no label; each client's first sample keeps its own.
    """
    held = {"val": 8, "tst": 12}
    table, labels = columns(sum(number for _, number in clients.values()) + sum(held.values()), seed)
    g = torch.Generator().manual_seed(seed + 1)
    found: dict[str, ClientData] = {}
    start = 0
    for place, (name, (owned, number)) in enumerate(clients.items()):
        rows = torch.arange(start, start + number)
        start += number
        lacking = len(owned) > 1 and name != "ann"
        presence = some_missing(number, owned, seed + place) if lacking else None
        known = labels[rows].clone()
        known[1:][torch.rand(number - 1, generator=g, dtype=torch.float32) < unlabelled] = UNLABELLED
        found[name] = ClientData(owned, train=samples(table, told(known, kind), rows, owned, presence))
    for name, number in held.items():
        rows = torch.arange(start, start + number)
        start += number
        made = samples(table, told(labels[rows], kind), rows, modalities)
        found[name] = ClientData(tuple(modalities), **{"validation" if name == "val" else "test": made})
    return FederatedData(TARGETS if kind == "regression" else CLASSES, tuple(modalities), found, kind=kind)


def told(labels: Tensor, kind: Kind) -> Tensor:
    """Classes as labels of other kinds: the class and, mostly, the next one; two numbers that follow it, with something of their own."""
    if kind == "single_label":
        return labels
    known, place = labels != UNLABELLED, torch.arange(len(labels))
    if kind == "multi_label":
        several = torch.zeros(len(labels), len(CLASSES), dtype=torch.int64)
        several[place, labels] = 1
        several[place, (labels + 1) % len(CLASSES)] = (place % 3 > 0).long()
        return several.masked_fill(~known[:, None], UNLABELLED)
    numbers = torch.stack([200 + 30 * labels + 7 * (place % 4), -0.1 * labels**2 + 0.02 * (place % 5)], 1)
    return numbers.to(torch.get_default_dtype()).masked_fill(~known[:, None], float("nan"))


# --- settings and parties -----------------------------------------------------------------------------------------------------------


def config(modalities: Sequence[str] = MODALITIES, **settings: object) -> Config:
    """Small settings; `fusion__late="false"` overrides `fusion.late`."""
    blocks = {"image": 1, "audio": 2, "text": 1}
    base = Config.from_mapping(
        {
            "seed": 3,
            "modalities": {name: {"encoder": "object", "block": blocks[name], "adapter_width": 6} for name in modalities},
            "data": {"source": "object", "clients": 5},
            "fusion": {"width": 8, "heads": 2, "feed_forward": 10},
            "optimizer": {"learning_rate": 0.01, "fusion_factor": 0.5, "classifier_factor": 0.7},
            "transfer": {"start": "never"},
            "federation": {"rounds": 2, "batch_size": 4, "warm_start": False},
            "evaluation": {"every": 100},
            "compute": {"threads": 1, "shorten": False},
        }
    )
    return base.override([f"{name.replace('__', '.')}={_toml(value)}" for name, value in settings.items()])


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parties(settings: Config, data: FederatedData, **extensions: object) -> Parties:
    """Everyone who takes part, in one process."""
    return assemble(settings, Extensions(data, encoders(data.modalities), **extensions))


def perturbed(tensors: Mapping[str, Tensor], seed: int = 5) -> dict[str, Tensor]:
    """Values drawn for every tensor, so that no gradient vanishes for sitting at a zero start; norms stay near one."""
    made = {}
    for name, tensor in tensors.items():
        drawn = torch.randn(tensor.shape, generator=derive(seed, name), dtype=torch.float32).to(tensor.dtype)
        scale = 0.1 if tensor.dim() == 1 else 1 / math.sqrt(tensor.shape[1])
        made[name] = scale * drawn + float("norm" in name and name.endswith("weight"))
    return made


PRIORS: Mapping[Kind, Callable[[], Tensor]] = {
    "single_label": lambda: torch.tensor([0.4, 0.3, 0.2, 0.1]).log(),
    "multi_label": lambda: torch.tensor([0.4, -0.3, 0.2, -1.1]),
    "regression": lambda: torch.tensor([[240.0, -0.2], [30.0, 0.3], [0.4, 0.8], [0.9, 0.5], [0.3, 0.6]]),
}
NO_TRAFFIC = Traffic()


def unsettle(who: Parties, seed: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Put perturbed tensors and an uneven π in force on both servers; returns those of the clients' side and of the main server."""
    state = who.fed_server.state
    client_side = perturbed(state.tensors, seed)
    prior = PRIORS[who.blueprint.config.data.task]().to(state.log_prior.dtype)
    who.fed_server.restore(replace(state, tensors=client_side, log_prior=prior))
    server_side = perturbed(server_tensors(who), seed)
    put(who, server_side)
    return client_side, server_side


def server_tensors(who: Parties) -> dict[str, Tensor]:
    """The main server's global tensors in force: the one place where tests look inside it."""
    return snapshot(who.coordination._in_force.tensors)


def put(who: Parties, server_side: Mapping[str, Tensor], number: int = 0) -> None:
    """Put tensors in force on the main server, by its own door: a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        kept, who.coordination.store = who.coordination.store, store
        who.coordination.restore(number, store.write(number, server_side))
        who.coordination.store = kept


def play(who: Parties, tasks: Sequence[TrainTask], plan: RoundPlan, *, commit: bool = True) -> tuple[list[TrainResult], Averaged]:
    """One round through the three ports."""
    who.coordination.begin(plan)
    answers = list(who.federation.run(tasks))
    results = [answer for answer in answers if not isinstance(answer, Failure)]
    averaged = who.coordination.end(who.fed_server.accept(plan, results))
    who.fed_server.end_round(plan, results)
    if commit:
        who.coordination.commit(plan.number)
        who.federation.commit(plan.number, [result.client for result in results])
    return results, averaged


def relative(ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Per tensor the largest difference over the largest entry of `theirs`; the same tensors must be None, and finite."""
    assert set(ours) == set(theirs), sorted(set(ours) ^ set(theirs))
    apart = {}
    for name, expected in theirs.items():
        found = ours[name]
        assert (found is None) == (expected is None), f"{name}: {'no ' if found is None else ''}gradient, against the reference"
        if found is not None and expected is not None:
            assert found.shape == expected.shape, name
            assert bool(found.isfinite().all()), name
            size = float(expected.abs().max())
            gap = float((found - expected).abs().max())
            apart[name] = gap / size if size else gap
    return apart


def settled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors after steps, without the bias of attention's keys: a softmax does not see it, its gradient is zero but for rounding, and
    AdamW divides rounding by its own size."""
    return {name: torch.cat(tensor.chunk(3)[::2]) if name.endswith("in_proj_bias") else tensor for name, tensor in tensors.items()}


def assert_close(ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None], tolerance: float) -> None:
    """Every tensor within `tolerance`, relative to its largest entry."""
    apart = relative(ours, theirs)
    wrong = {name: f"{gap:.1e}" for name, gap in sorted(apart.items(), key=lambda pair: -pair[1]) if not gap <= tolerance}
    assert not wrong, wrong
