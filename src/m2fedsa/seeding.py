"""Randomness: every draw comes from a generator derived from the run's seed and a path of names.

Two draws never share a generator, so none depends on what was drawn before it, on the order of clients or on the process.
"""

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the draw that `names` names, e.g. `derive_seed(0, "round", 7, "client-3")`."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derive(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for the draw that `names` names."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
