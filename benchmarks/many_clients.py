"""What 10,000 clients cost when 20 take part in a round: memory of an idle one, and time of a round against that of 100 and 1,000 clients.

Generated samples (`synthetic`), tiny encoders with random weights. Time: federations of all sizes in one process play a round in turn, with
a run directory each; then once more with the books of a long run, in which every client has taken part once. Memory: what an idle client
costs is the difference between two sizes, each in a process of its own, without that of the data themselves; as Python counts it
(tracemalloc: its own objects), the C library (mallinfo2: all that is in use) and the system (resident pages, holes between them included).
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Spread, conclude, options, spread, table
from transformers import BertConfig, BertModel, PreTrainedModel, ViTConfig, ViTModel

from m2fedsa.assembly import Extensions, assemble, cpu_threads
from m2fedsa.config import Config
from m2fedsa.data.samples import FederatedData
from m2fedsa.data.synthetic import CHARACTERS, IMAGE_SHAPE, VOCABULARY, synthetic
from m2fedsa.fed_server import uniform_sampler
from m2fedsa.messages import ClientInfo, Traffic, TrainResult
from m2fedsa.reporting.progress import Silent
from m2fedsa.reporting.run_directory import RunDirectory
from m2fedsa.training import Training

GOAL = 20_000
"""bytes of an idle client, at most"""
PER_ROUND = 20
SAMPLES = 8
WIDTH = 16


def encoders() -> dict[str, PreTrainedModel]:
    """Two blocks of width 16."""
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vit = ViTConfig(image_size=IMAGE_SHAPE[1], patch_size=4, num_channels=1, **size)
    bert = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=CHARACTERS, **size)
    return {"image": ViTModel(vit, add_pooling_layer=False), "text": BertModel(bert, add_pooling_layer=False)}


def settings(clients: int) -> Config:
    """20 clients a round, one step each; validation after every round."""
    return Config.from_mapping(
        {
            "modalities": {name: {"encoder": "object", "pooling": "mean", "adapter_width": 8} for name in ("image", "text")},
            "data": {"source": "object", "clients": clients},
            "fusion": {"width": 16, "heads": 2, "feed_forward": 32},
            "federation": {
                "rounds": 1_000_000,
                "clients_per_round": min(PER_ROUND, clients),
                "batch_size": SAMPLES,
                "warm_start": False,
            },
        }
    )


def data(clients: int) -> FederatedData:
    """Eight samples a client."""
    return synthetic(clients=clients, samples_per_client=SAMPLES, seed=0)


def in_rotation(round_number: int, eligible: Sequence[ClientInfo], number: int | None, generator: torch.Generator) -> Sequence[str]:
    """The next 20 of the first 100 clients, after a uniform draw out of all.

    A client that takes part for the first time computes its head outputs. In rotation, after five rounds nobody does in any federation,
    and what is left to differ is the number of those who wait.
    """
    uniform_sampler(round_number, eligible, number, generator)
    few = eligible[: min(len(eligible), 5 * PER_ROUND)]
    begin = (round_number - 1) * PER_ROUND
    return [few[place % len(few)].name for place in range(begin, begin + min(PER_ROUND, len(few)))]


def training(held: FederatedData, clients: int, folder: Path, warm_start: bool = False) -> Training:
    """A federation before its first round, with its run directory."""
    config = settings(clients).override([f"federation.warm_start={str(warm_start).lower()}"])
    directory = RunDirectory.create(config, folder / f"run-{clients}")
    made = Training(assemble(config, Extensions(held, encoders(), sampler=in_rotation)), Silent(), directory)
    made.begin()
    return made


def fill_the_books(training: Training) -> None:
    """As after a long run: every client has taken part once."""
    names = [client.name for client in training.parties.fed_server.clients.values() if client.train]
    training.keeping.accounts.book([TrainResult(name, {}, {}, {"fused": (1.0, SAMPLES)}, 1, Traffic(9_000, 8_000)) for name in names])


# --- time ---------------------------------------------------------------------------------------------------------------------------

PARTS = {
    "plan the round and draw its clients": lambda made: (made.parties.fed_server, "begin_round"),
    "find who validates": lambda made: (made.parties.fed_server, "evaluation"),
    "write the round down": lambda made: (made, "_book"),
    "checkpoint": lambda made: (made.keeping, "write"),
}
"""Where a round could touch clients that are not in it."""


class Stopwatch:
    """Sums the seconds of some methods of a training, by the name of the part."""

    def __init__(self, watched: Training) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        for name, place in PARTS.items():
            owner, method = place(watched)
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed

    def take(self) -> dict[str, float]:
        """The seconds since the last time."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken


def rounds_in_turn(sizes: Sequence[int], rounds: int, folder: Path, warm_up: int = 5) -> dict[str, Any]:
    """Seconds of a round at each size, with new books and with full ones; and of its parts."""
    federations = {size: training(data(size), size, folder) for size in sizes}
    watches = {size: Stopwatch(made) for size, made in federations.items()}
    record: dict[str, Any] = {}
    for books in ("new", "full"):
        if books == "full":
            for made in federations.values():
                fill_the_books(made)
        wall: dict[int, list[float]] = {size: [] for size in sizes}
        cpu: dict[int, list[float]] = {size: [] for size in sizes}
        parts: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for number in range(warm_up + rounds):
            for size, made in federations.items():
                began = time.perf_counter(), time.thread_time()
                made.next_round()
                taken = watches[size].take()
                if number >= warm_up:
                    wall[size].append(time.perf_counter() - began[0])
                    cpu[size].append(time.thread_time() - began[1])
                    parts[size].append(taken)
        record[books] = {
            str(size): {
                "wall": spread(wall[size])._asdict(),
                "cpu": spread(cpu[size])._asdict(),
                "parts": {name: spread([one[name] for one in parts[size]]).median for name in PARTS},
            }
            for size in sizes
        }
    return record


# --- memory -------------------------------------------------------------------------------------------------------------------------


Count = Callable[[], dict[str, int]]


class InUse(ctypes.Structure):
    """What the C library's `mallinfo2` answers."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "small", "free", "keepcost")
    ]


def of_system() -> dict[str, int]:
    """Bytes in use by the C library, and bytes resident after everything that can be given back was."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = InUse
    heap = libc.mallinfo2()
    return {"allocated": heap.small + heap.mapped, "resident": int(Path("/proc/self/statm").read_text().split()[1]) * 4096}


def of_python() -> dict[str, int]:
    """Bytes of Python's own objects."""
    gc.collect()
    return {"traced": tracemalloc.get_traced_memory()[0]}


Stages = dict[str, dict[str, int]]


def stages(clients: int, count: Count, warm_start: bool) -> Stages:
    """Bytes in use with the data alone, with an idle federation, and after rounds with full books; and the payload of kept outputs."""
    held = data(clients)
    found = {"data": count()}
    with tempfile.TemporaryDirectory() as folder:
        made = training(held, clients, Path(folder), warm_start)
        found["idle"] = count()
        fill_the_books(made)
        for _ in range(2):
            made.next_round()
        found["after rounds"] = count()
        everything = [one for client in made.parties.federation._clients.values() for one in client.kept._kept.values()]
        tensors = [tensor for one in everything for tensor in (one.outputs.hidden, one.outputs.mask) if tensor is not None]
        found["kept outputs"] = {"payload": sum(tensor.numel() * tensor.element_size() for tensor in tensors)}
    return found


def traced(clients: int, warm_start: bool) -> Stages:
    """`stages` as Python counts."""
    tracemalloc.start()
    try:
        return stages(clients, of_python, warm_start)
    finally:
        tracemalloc.stop()


def in_process(clients: int, kind: str, warm_start: bool) -> Stages:
    """`stages` in a process of its own."""
    words = [sys.executable, __file__, "--child", kind, "--clients", str(clients), *(["--warm-start"] if warm_start else [])]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def child(given: argparse.Namespace) -> None:
    """Measure one size and print it."""
    clients = given.clients[0]
    with cpu_threads(1):
        found = traced(clients, given.warm_start) if given.child == "traced" else stages(clients, of_system, given.warm_start)
    print(json.dumps(found))


def per_client(few: Stages, many: Stages, clients: int) -> dict[str, dict[str, float]]:
    """Bytes a client beyond its data and kept outputs, by each count and at each stage."""
    made = {}
    for count in few["data"]:
        # Python does not count what tensors hold.
        kept = 0 if count == "traced" else many["kept outputs"]["payload"] - few["kept outputs"]["payload"]
        growth = {stage: many[stage][count] - few[stage][count] for stage in ("data", "idle", "after rounds")}
        made[count] = {stage: (growth[stage] - growth["data"] - kept) / clients for stage in ("idle", "after rounds")}
    return made


def memory(sizes: tuple[int, int], warm_start: bool) -> dict[str, dict[str, float]]:
    """Bytes a client by all counts."""
    found = {}
    for kind in ("traced", "system"):
        few, many = (in_process(size, kind, warm_start) for size in sizes)
        found |= per_client(few, many, sizes[1] - sizes[0])
    return found


# --- figures ------------------------------------------------------------------------------------------------------------------------


def time_rows(record: Mapping[str, Any], sizes: Sequence[int]) -> list[list[object]]:
    """A line per size and state of the books."""
    rows = []
    for books, found in record.items():
        for size in sizes:
            one, first = found[str(size)], found[str(sizes[0])]
            wall, cpu = Spread(**one["wall"]), Spread(**one["cpu"])
            ratio = f"{cpu.median / first['cpu']['median']:.2f}"
            parts = [f"{seconds * 1000:.1f}" for seconds in one["parts"].values()]
            rows.append([f"{size:,}", books, wall.text(1000, 0), cpu.text(1000, 0), ratio, *parts])
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--clients", type=int, nargs="+", help="sizes of the federations (100 1000 10000)")
    parser.add_argument("--rounds", type=int, help="timed rounds of each size (20)")
    parser.add_argument("--child", choices=("traced", "system"), help=argparse.SUPPRESS)
    parser.add_argument("--warm-start", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(given)
        return None
    sizes = given.clients or ([4, 8] if given.quick else [100, 1_000, 10_000])
    rounds = given.rounds or (1 if given.quick else 20)
    with cpu_threads(1), tempfile.TemporaryDirectory() as folder:
        seconds = rounds_in_turn(sizes, rounds, Path(folder), 0 if given.quick else 5)
        print(f"a round with {min(PER_ROUND, *sizes)} clients, ms: median (least … largest) of {rounds}; its parts: medians\n")
        table(["clients", "books", "wall", "cpu", "ratio of cpu", *PARTS], time_rows(seconds, sizes))
        if given.quick:
            few, many = (traced(size, warm_start=False) for size in (sizes[0], sizes[-1]))
            bytes_ = {"without": per_client(few, many, sizes[-1] - sizes[0])}
        else:
            # With a warm start everybody takes part in it: its time grows with all clients, and so fewer must do.
            bytes_ = {"without": memory((sizes[0], sizes[-1]), False), "with": memory((sizes[0], sizes[1]), True)}
    print(f"\nan idle client beyond its data and kept outputs, bytes (goal: {GOAL:,})\n")
    rows = [
        [warm, count, *(f"{value:,.0f}" for value in values.values())] for warm, found in bytes_.items() for count, values in found.items()
    ]
    table(["warm start", "counted", "before the first round", "after rounds, books full"], rows)
    return conclude({"benchmark": "many_clients", "rounds": seconds, "bytes": bytes_, "goal": GOAL}, given.out)


if __name__ == "__main__":
    main()
