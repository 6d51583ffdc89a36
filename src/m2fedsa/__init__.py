"""Federated split fine-tuning of multimodal encoders.

    import m2fedsa

    result = m2fedsa.run(m2fedsa.recipes.digits(rounds=10), out="runs/mine")
    result.metrics["fused"]["accuracy"]
    logits = m2fedsa.load("runs/mine")({"image": {"pixel_values": pixels}})["fused"]

`run`, `load` and `recipes` load when they are first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2fedsa import recipes
    from m2fedsa.exported import load
    from m2fedsa.running import run

__version__ = "0.1.0"
__all__ = ["__version__", "load", "recipes", "run"]


def __getattr__(name: str) -> object:
    if name == "load":
        return importlib.import_module("m2fedsa.exported").load
    if name == "run":
        return importlib.import_module("m2fedsa.running").run
    if name == "recipes":
        return importlib.import_module("m2fedsa.recipes")
    raise AttributeError(f"module 'm2fedsa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
