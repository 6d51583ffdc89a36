"""How much longer a split step takes than one autograd step of the same network held in one place.

Both start from kept head outputs and run on one thread. They are timed in turn: the client's way to the main server is wrapped, and each
time that a forward arrives, the other network takes its step while the split one waits. A split step lasts from one arrival to the next:
encode, forward, losses, backward, adapt, and whatever the round does between two steps. Before anything is timed, both train a few steps
without dropout and must come to the same losses and tensors.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from measuring import Spread, conclude, options, ratios, spread, table
from measuring.one_place import OnePlace
from torch import Tensor
from transformers import PreTrainedModel, RobertaConfig, RobertaModel, ViTConfig, ViTModel

from m2fedsa import recipes
from m2fedsa.assembly import Extensions, Parties, assemble, cpu_threads
from m2fedsa.blueprint import initial_client_tensors, initial_server_tensors
from m2fedsa.client import Client
from m2fedsa.config import Config
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.data.sources import load_data
from m2fedsa.links.port import Session
from m2fedsa.main_server import MainServer
from m2fedsa.messages import ActivationGradients, Activations, Features, Gradients, TrainResult
from m2fedsa.models.encoders import load

GOAL = 1.05
CLIENT = "client"
Clock = Callable[[], float]


@dataclass
class World:
    """Settings, encoders, and one client whose samples, all complete, are one batch."""

    name: str
    config: Config
    encoders: dict[str, PreTrainedModel]
    samples: InMemorySamples
    classes: int

    def parties(self, steps: int, dropout: bool) -> Parties:
        """Everyone, ready for a round of this many steps."""
        changes = [f"federation.local_steps={steps}", f"federation.batch_size={len(self.samples.labels)}", "federation.warm_start=false"]
        changes += [] if dropout else [f"modalities.{name}.adapter_dropout=0.0" for name in self.encoders]
        held = FederatedData(
            tuple(map(str, range(self.classes))), tuple(self.encoders), {CLIENT: ClientData(tuple(self.encoders), self.samples)}
        )
        return assemble(self.config.override(changes), Extensions(held, self.encoders))


def base(batch: int = 8, **less: int) -> World:
    """ViT-base and RoBERTa-base with random weights, R = 64, F = 256, cut after one block; two classes, texts of 64 tokens at most."""
    torch.manual_seed(0)
    encoders = {
        "image": ViTModel(ViTConfig(**less), add_pooling_layer=False),
        "text": RobertaModel(RobertaConfig(**less), add_pooling_layer=False),
    }
    mask = (torch.arange(64) < torch.randint(32, 65, (batch, 1))).long()
    mask[0] = 1
    columns = {
        "image": {"pixel_values": torch.randn(batch, 3, 224, 224)},
        "text": {"input_ids": torch.where(mask.bool(), torch.randint(3, 1_000, (batch, 64)), 1), "attention_mask": mask},
    }
    settings = {name: {"encoder": "object", "pooling": "mean", "block": 1, "adapter_width": 64} for name in encoders}
    config = Config.from_mapping({"modalities": settings, "data": {"source": "object", "clients": 1}, "fusion": {"width": 256}})
    return World("ViT-base + RoBERTa-base", config, encoders, InMemorySamples.whole(columns, torch.arange(batch) % 2), 2)


def digits(batch: int) -> World:
    """The recipe `digits`: three tiny encoders of four blocks each, R = 16, F = 64, ten classes."""
    config = recipes.digits()
    data = load_data(config.data, config.seed)
    source = next(client.validation for client in data.clients.values() if client.validation is not None)
    rows = source.presence.all(1).nonzero().flatten()[:batch]
    columns = {name: source.inputs(name, rows) for name in data.modalities}
    encoders = {name: load(config.modalities[name].encoder) for name in data.modalities}
    return World("digits", config, encoders, InMemorySamples.whole(columns, source.labels[rows]), len(data.classes))


# --- both steps in turn -------------------------------------------------------------------------------------------------------------


@dataclass
class Turns:
    """A link and its only session: passes everything on to the main server, after the network in one place has taken its step."""

    server: MainServer
    other: OnePlace
    clocks: Sequence[Clock] = (time.perf_counter, time.thread_time)
    split: list[tuple[float, ...]] = field(default_factory=list)
    one_place: list[tuple[float, ...]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    """of each step in one place"""
    _session: Session | None = None
    _left: tuple[float, ...] | None = None

    def session(self, client: str, round_number: int) -> "Turns":
        """The main server's own, wrapped."""
        self._session = self.server.session(client, round_number)
        return self

    def forward(self, activations: Activations) -> Features:
        """The other's turn, then on to the main server."""
        arrived = self._now()
        if self._left is not None:
            self.split.append(_between(self._left, arrived))
        before = self._now()
        self.losses.append(self.other.step())
        self.one_place.append(_between(before, self._now()))
        assert self._session is not None
        self._left = self._now()
        return self._session.forward(activations)

    def backward(self, gradients: Gradients) -> ActivationGradients:
        """On to the main server."""
        assert self._session is not None
        return self._session.backward(gradients)

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._session is not None
        self._session.__exit__(*error)

    def _now(self) -> tuple[float, ...]:
        return tuple(clock() for clock in self.clocks)


def _between(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(later - earlier for earlier, later in zip(before, after, strict=True))


def in_turn(world: World, steps: int, dropout: bool = True) -> tuple[Turns, TrainResult]:
    """A round of one client with this many steps, each after one of the other network, from the same tensors."""
    parties = world.parties(steps, dropout)
    blueprint, server = parties.blueprint, parties.coordination
    start = {**initial_client_tensors(blueprint), **initial_server_tensors(blueprint)}
    everything = torch.arange(len(world.samples.labels))
    kept = {}
    for name, head in parties.shared.heads.items():
        inputs = world.samples.inputs(name, everything)
        kept[name] = (head(inputs), inputs.get("attention_mask"))
    other = OnePlace(blueprint.config, world.encoders, start, kept, world.samples.labels, world.classes)
    turns = Turns(server, other)
    client = Client(CLIENT, parties.data.clients[CLIENT], parties.shared, turns)
    plan, tasks = parties.fed_server.begin_round()
    server.begin(plan)
    gc.collect()
    result = client.perform(tasks[0])
    assert isinstance(result, TrainResult)
    return turns, result


def agree(world: World, steps: int = 4) -> float:
    """Train both without dropout: their losses must be equal, and their tensors must have moved alike. The largest difference of losses.

    Tensors are compared over all entries together: where a gradient is rounding alone, AdamW makes a step of it all the same.
    """
    turns, result = in_turn(world, steps, dropout=False)
    apart = 0.0
    for name in turns.losses[0]:
        total, number = result.losses[name]
        ours, theirs = total / number, sum(losses[name] for losses in turns.losses) / steps
        apart = max(apart, abs(ours - theirs) / abs(theirs))
    if apart > 1e-4:
        raise SystemExit(f"{world.name}: the two networks are not the same: losses differ by {apart:.1e}")
    start = {name: tensor for name, tensor in _start(world).items() if name in result.tensors}
    moved = torch.cat([(turns.other.tensors[name].detach() - tensor).flatten() for name, tensor in start.items()])
    gap = torch.cat([(turns.other.tensors[name].detach() - result.tensors[name]).flatten() for name in start])
    share = float(gap.norm() / moved.norm())
    if share > 1e-2:
        raise SystemExit(f"{world.name}: the two networks are not the same: tensors differ by {share:.1e} of the way they went")
    return apart


def _start(world: World) -> dict[str, Tensor]:
    return initial_client_tensors(world.parties(1, dropout=False).blueprint)


# --- figures ------------------------------------------------------------------------------------------------------------------------


def measure(world: World, steps: int, warm_up: int) -> dict[str, Any]:
    """Both kinds of step in turn; seconds by the wall and of the processor, and their ratios pair by pair."""
    apart = agree(world)
    turns, _ = in_turn(world, steps + warm_up + 1)
    # The split step that follows the i-th of the others.
    ours, theirs = turns.split[warm_up:], turns.one_place[warm_up : len(turns.split)]
    record: dict[str, Any] = {"steps": len(ours), "batch": len(world.samples.labels), "losses differ by": apart}
    for column, clock in enumerate(("wall", "cpu")):
        a, b = [times[column] for times in ours], [times[column] for times in theirs]
        record[clock] = {
            "split": spread(a)._asdict(),
            "one_place": spread(b)._asdict(),
            "ratio": ratios(a, b)._asdict(),
            "ratio_of_medians": spread(a).median / spread(b).median,
            "ratio_of_least": min(a) / min(b),
        }
    return record


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=("base", "digits"), default=["digits", "base"])
    parser.add_argument("--steps", type=int, help="timed pairs of steps (20 at base size, 300 at the size of digits)")
    given = parser.parse_args(arguments)
    rows, record = [], {}
    with cpu_threads(1):
        for size in given.sizes:
            if size == "digits":
                world = digits(4 if given.quick else 32)
            else:
                world = base(1, num_hidden_layers=2, hidden_size=96, intermediate_size=192, vocab_size=1000) if given.quick else base()
            steps = given.steps or (3 if given.quick else {"base": 20, "digits": 300}[size])
            found = record[size] = measure(world, steps, warm_up=min(5, steps))
            for clock in ("wall", "cpu"):
                part = found[clock]
                a, b, ratio = Spread(**part["split"]), Spread(**part["one_place"]), Spread(**part["ratio"])
                middle = f"{part['ratio_of_medians']:.3f}"
                rows.append([world.name, found["batch"], found["steps"], clock, a.text(1000, 1), b.text(1000, 1), middle, ratio.text(1, 3)])
    print("ms: median (least … largest), on one thread; ratio of medians, and the ratios pair by pair\n")
    table(["size", "batch", "pairs", "clock", "split step", "in one place", "ratio", "pair by pair"], rows)
    print(f"\ngoal at base size: {GOAL}")
    return conclude({"benchmark": "step", "sizes": record, "goal": GOAL}, given.out)


if __name__ == "__main__":
    main()
