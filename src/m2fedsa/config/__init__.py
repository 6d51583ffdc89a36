"""All settings of a run; see `config.config`."""

from m2fedsa.config.averaging import DEFAULT_RULES, Averaging, AveragingRule
from m2fedsa.config.config import Config, flat
from m2fedsa.config.data import MANIFEST, Columns, Data
from m2fedsa.config.learning import Federation, Loss, Optimizer, Transfer, WarmStart
from m2fedsa.config.networks import MODALITY_NAME, RESERVED_NAMES, Fusion, Modality
from m2fedsa.config.running import METRICS, Compute, Evaluation, Kept, Objects, Width, Wire
from m2fedsa.config.section import Section

__all__ = [
    "DEFAULT_RULES",
    "MANIFEST",
    "METRICS",
    "MODALITY_NAME",
    "RESERVED_NAMES",
    "Averaging",
    "AveragingRule",
    "Columns",
    "Compute",
    "Config",
    "Data",
    "Evaluation",
    "Federation",
    "Fusion",
    "Kept",
    "Loss",
    "Modality",
    "Objects",
    "Optimizer",
    "Section",
    "Transfer",
    "WarmStart",
    "Width",
    "Wire",
    "flat",
]
