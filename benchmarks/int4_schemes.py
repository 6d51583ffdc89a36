"""Why int4 heads are stored as they are: four-bit schemes side by side, on the weights of your encoders.

    python benchmarks/int4_schemes.py --image DIR --audio DIR --text DIR

Without folders, the encoders that ship with the package. Per scheme: bits a number with its scales, relative error of the weights, of what
the head puts out and of the pooled output, on two inputs made from the encoder's configuration (noise, random words: `quantised.py` looks
at real ones). Cut where the recipes cut them. Every scheme but the last stores all matrices in four bits, convolutions too.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import conclude, options, table
from torch import Tensor, nn
from torch.nn import functional

from m2fedsa.models.cut import cut, plan, specify
from m2fedsa.models.encoders import load
from m2fedsa.models.examples import example_for
from m2fedsa.models.quantise import scheme
from m2fedsa.models.stored import LEVELS, Int4

BLOCKS = {"image": 10, "audio": 14, "text": 1}
EMBEDDED = {"image": "embedded:digits-image", "audio": "embedded:digits-audio", "text": "embedded:digits-text"}


def grouped(size: int, rows: Tensor, store: Callable[[Tensor], Tensor]) -> Tensor:
    """`rows` (R, C) after `store` has seen them in groups (R, G, size) of a row."""
    columns = rows.shape[1]
    groups = functional.pad(rows, (0, -columns % size)).reshape(len(rows), -1, size)
    return store(groups).flatten(1)[:, :columns]


def uniform(groups: Tensor) -> Tensor:
    """Fifteen even steps, the largest number at ±7."""
    scale = (groups.abs().amax(2, keepdim=True) / 7).clamp(min=1e-12)
    return (groups / scale).round() * scale


def affine(groups: Tensor) -> Tensor:
    """Sixteen even steps from the least to the largest number."""
    least, largest = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = ((largest - least) / 15).clamp(min=1e-12)
    return ((groups - least) / scale).round() * scale + least


def normal(groups: Tensor) -> Tensor:
    """NF4 as QLoRA has it: the largest number at ±1."""
    levels = torch.tensor(LEVELS)
    scale = groups.abs().amax(2, keepdim=True).clamp(min=1e-12)
    return levels[torch.bucketize((groups / scale).contiguous(), (levels[1:] + levels[:-1]) / 2)] * scale


SCHEMES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "even steps, one scale a row": ("4.0", lambda rows: uniform(rows.unsqueeze(1)).squeeze(1)),
    "even steps, a scale in 16 bits for 32": ("4.5", lambda rows: grouped(32, rows, uniform)),
    "even steps, scale and least in 16 bits for 32": ("5.0", lambda rows: grouped(32, rows, affine)),
    "NF4, a scale in 8 bits for 64 (QLoRA)": ("4.1", lambda rows: grouped(64, rows, normal)),
    "NF4, a scale in 16 bits for 32": ("4.5", lambda rows: grouped(32, rows, normal)),
    "NF4, least squares of four, 8 bits for 32": ("4.25", lambda rows: Int4.of(rows)()),
}
CHOSEN = "int4: the same, convolutions in 8 bits"


def off(ours: Tensor, theirs: Tensor) -> float:
    """Relative error in percent."""
    return 100 * float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def compared(model: nn.Module, block: int) -> dict[str, dict[str, Any]]:
    """Every scheme on the head of an encoder."""
    example = example_for(model)
    head, tail = cut(model, plan(model, example, block))
    modules = [one for one in head.encoder.modules() if "weight" in one._parameters and scheme(one, "int4") is not None]
    modules = [one for one in modules if not one.weight.is_meta]
    before = [one.weight for one in modules]
    rows = [weight.detach().reshape(len(weight), -1) for weight in before]
    mask, specs = example.get(head.mask_argument or ""), specify(example)
    hidden = head(example)
    pooled, found = tail(hidden, mask, specs), {}
    made = {name: (bits, [store(one) for one in rows]) for name, (bits, store) in SCHEMES.items()}
    chosen = [kind.of(weight) for kind, weight in zip((scheme(one, "int4") for one in modules), before, strict=True) if kind is not None]
    stored = 8 * sum(part.nbytes for one in chosen for part in one.parts.values()) / sum(weight.numel() for weight in before)
    made[CHOSEN] = (f"{stored:.2f}", [one().reshape(len(one()), -1) for one in chosen])
    for name, (bits, ours) in made.items():
        for module, weight, one in zip(modules, before, ours, strict=True):
            module.weight = nn.Parameter(one.reshape(weight.shape), requires_grad=False)
        mine = head(example)
        weights = off(torch.cat([one.flatten() for one in ours]), torch.cat([one.flatten() for one in rows]))
        found[name] = {"bits": bits, "weights": weights, "head": off(mine, hidden), "pooled": off(tail(mine, mask, specs), pooled)}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options(__doc__)
    for name in BLOCKS:
        parser.add_argument(f"--{name}", metavar="DIR", help="an encoder of yours")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    record = {}
    for name, block in BLOCKS.items():
        own = getattr(given, name)
        model = load(own or EMBEDDED[name])
        record[name] = compared(model, block if own else 1)
        print(f"\n{type(model).__name__}, {block if own else 1} blocks\n")
        lines = [[key, one["bits"], *(f"{one[part]:.2f}" for part in ("weights", "head", "pooled"))] for key, one in record[name].items()]
        table(["scheme", "bits", "weights off by %", "head off by %", "pooled off by %"], lines)
    conclude({"encoders": record}, given.out)


if __name__ == "__main__":
    main()
