"""What a tail gains by remembering many shapes: a step over batches of all sizes and lengths, with 1,024 remembered and with 64.

A part of a tail that is elsewhere answers with the right shape, and finds it by running its own code without data (`models/shadow.py`),
once for each shape. Federations have many: each client's last batch has a size of its own, a missing modality makes it smaller, texts
differ in length. MiniLM's sizes cut before its fifth of six blocks, texts of 4 to 28 tokens in batches of 1 to 16; forward and backward.
Both tails are timed in turn, batch by batch, over 112 shapes in a new order each time; the first pass, in which both ask for everything,
does not count.
"""

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from measuring import conclude, options, ratios, spread, table
from torch import Tensor
from transformers import BertConfig, BertModel

from m2fedsa.models import shadow
from m2fedsa.models.cut import cut, plan, specify
from m2fedsa.models.tail import Tail

MEMORIES = {"few": 64, "many": shadow._REMEMBERED}
GROUP = 28
"""Batches whose times are added up before they are compared."""


def encoder(quick: bool) -> BertModel:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32} if quick else {"num_hidden_layers": 6, "hidden_size": 384}
    heads, inner = (2, 64) if quick else (12, 1536)
    config = BertConfig(**sizes, num_attention_heads=heads, intermediate_size=inner, vocab_size=1000)
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def batch(rows: int, length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 1000, (rows, length)), "attention_mask": torch.ones(rows, length, dtype=torch.int64)}


def seconds(tail: Tail, hidden: Tensor, inputs: Mapping[str, Tensor], remembered: int) -> float:
    """Of one forward and backward."""
    before, shadow._REMEMBERED = shadow._REMEMBERED, remembered
    leaf = hidden.detach().requires_grad_()
    begun = time.perf_counter()
    try:
        tail(leaf, inputs["attention_mask"], specify(inputs)).sum().backward()
    finally:
        shadow._REMEMBERED = before
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--passes", type=int, help="over all shapes, the first not counted (4)")
    given = parser.parse_args(arguments)
    passes = given.passes or (2 if given.quick else 4)
    torch.set_num_threads(1)
    block = 1 if given.quick else 4
    sizes = [(rows, length) for rows in range(1, 17) for length in ((4, 8) if given.quick else range(4, 32, 4))]
    tails, heads = {}, {}
    for name in MEMORIES:
        model = encoder(given.quick)
        heads[name], tails[name] = cut(model, plan(model, batch(2, 8), block), "mean")
    order = random.Random(0)
    measured: dict[str, list[float]] = {name: [] for name in MEMORIES}
    for turn in range(passes):
        order.shuffle(sizes)
        sums = dict.fromkeys(MEMORIES, 0.0)
        for number, (rows, length) in enumerate(sizes, 1):
            inputs = batch(rows, length)
            hidden = heads["few"](inputs)
            for name in order.sample(list(MEMORIES), 2):
                sums[name] += seconds(tails[name], hidden, inputs, MEMORIES[name])
            if number % GROUP == 0:
                if turn:
                    for name, total in sums.items():
                        measured[name].append(total / GROUP)
                sums = dict.fromkeys(MEMORIES, 0.0)
    ratio = ratios(measured["few"], measured["many"])
    lines = [[f"{MEMORIES[name]} remembered", spread(times).text(1000, 2)] for name, times in measured.items()]
    print(f"ms a step: median (least … largest) of {len(measured['few'])} groups of {GROUP} batches, {len(sizes)} shapes\n")
    table(["tail", "ms"], [*lines, ["times faster", ratio.text(1, 2)]])
    found = {name: spread(times)._asdict() for name, times in measured.items()}
    return conclude({"benchmark": "shapes", **found, "faster": ratio._asdict()}, given.out)


if __name__ == "__main__":
    main()
