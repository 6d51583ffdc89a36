"""How much faster a client's step is than a plain float32 implementation of it, and what each trick gives.

Swin-T at 224 pixels and RoBERTa-base, texts padded to 64 tokens of which 32 are real, batch 8, both cores. Plain: whole encoders held in
one place, every layer computed in every step (`measuring/plain.py`). Ours: the step over the link to the main server in the same process,
encode to adapt. Both are timed in turn, pair by pair, as in `step.py`; tricks are added one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from measuring import Spread, conclude, options, ratios, spread, table
from measuring.plain import Plain
from step import CLIENT, Turns, World
from transformers import PreTrainedModel, RobertaConfig, RobertaModel, SwinConfig, SwinModel

from m2fedsa.assembly import cpu_threads
from m2fedsa.client import Client
from m2fedsa.config import Config
from m2fedsa.data.samples import InMemorySamples

GOAL = 3.3
BATCH, TOKENS, REAL = 8, 64, 32
TRICKS = {
    "cut, head outputs kept": ("compute.shorten=false",),
    "+ texts cut to their length": (),
    "+ bfloat16, fused attention": ("compute.precision=bfloat16", "compute.attention=sdpa"),
    "+ bfloat16, plain attention": ("compute.precision=bfloat16", "compute.attention=eager"),
    "+ last part for the pooled token": ("compute.precision=bfloat16", "compute.last_block=pooled"),
}
DEFAULT = "+ bfloat16, plain attention"
"""What `paper_shapes` and every recipe of that size asks for."""


def encoders(quick: bool) -> dict[str, PreTrainedModel]:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    swin = SwinConfig(embed_dim=24, depths=[1, 1], num_heads=[2, 4]) if quick else SwinConfig()
    text = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192, "vocab_size": 1000} if quick else {}
    made = {"image": SwinModel(swin), "text": RobertaModel(RobertaConfig(**text), add_pooling_layer=False)}
    return {name: model.eval().requires_grad_(False) for name, model in made.items()}


def world(settings: Sequence[str], quick: bool) -> World:
    """The batch, the encoders and the settings of one variant."""
    torch.manual_seed(1)
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.int64)
    mask[:, :REAL] = 1
    columns = {
        "image": {"pixel_values": torch.randn(BATCH, 3, 224, 224)},
        "text": {"input_ids": torch.where(mask.bool(), torch.randint(3, 1_000, (BATCH, TOKENS)), 1), "attention_mask": mask},
    }
    modalities = {"image": {"encoder": "object", "block": 1 if quick else 2}, "text": {"encoder": "object", "block": 1}}
    config = Config.from_mapping({"modalities": modalities, "data": {"source": "object", "clients": 1}}).override(settings)
    return World("Swin-T + RoBERTa-base", config, encoders(quick), InMemorySamples.whole(columns, torch.arange(BATCH) % 2), 2)


def in_turn(settings: Sequence[str], steps: int, quick: bool) -> tuple[list[float], list[float]]:
    """Seconds of our steps and of the plain ones, in turn."""
    ours = world(settings, quick)
    parties = ours.parties(steps + 1, dropout=True)
    everything = torch.arange(BATCH)
    inputs = {name: ours.samples.inputs(name, everything) for name in ours.encoders}
    turns = Turns(parties.coordination, Plain(parties.blueprint, encoders(quick), inputs, ours.samples.labels))
    client = Client(CLIENT, parties.data.clients[CLIENT], parties.shared, turns)
    plan, tasks = parties.fed_server.begin_round()
    parties.coordination.begin(plan)
    client.perform(tasks[0])
    return [wall for wall, _ in turns.split], [wall for wall, _ in turns.one_place[: len(turns.split)]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, help="timed pairs of steps (12)")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    steps, warm_up = given.steps or (2 if given.quick else 12), 1 if given.quick else 3
    record, rows = {}, []
    with cpu_threads(given.threads):
        for name, settings in TRICKS.items():
            ours, plain = (times[warm_up:] for times in in_turn(settings, steps + warm_up, given.quick))
            faster = ratios(plain, ours)
            record[name] = {
                "ours": spread(ours)._asdict(),
                "plain": spread(plain)._asdict(),
                "faster": faster._asdict(),
                "steps": len(ours),
            }
            rows.append([name, spread(plain).text(1000, 0), spread(ours).text(1000, 0), Spread(*faster).text(1, 2)])
    print(f"ms a step, batch {BATCH}, {given.threads} threads: median (least … largest) of {steps} pairs\n")
    table(["step", "plain", "ours", "times faster"], rows)
    print(f"\ngoal, with the settings of the recipes of this size: {GOAL}")
    return conclude({"benchmark": "client_step", "tricks": record, "goal": GOAL}, given.out)


if __name__ == "__main__":
    main()
