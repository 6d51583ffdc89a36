"""Metrics over the union of clients from sums that merge.

A client sends a tally per subset of modalities, never a prediction; tallies add up, and what is computed from their sum is exact but for
ROC-AUC, which comes from scores in bins, with a bound on its error; where all samples lie with one client it is exact. (Section
"Evaluation".)
"""

from collections.abc import Mapping

from torch import Tensor

from m2fedsa.data.samples import Kind
from m2fedsa.metrics.classes import ClassTally
from m2fedsa.metrics.labels import LabelTally
from m2fedsa.metrics.numbers import NumberTally
from m2fedsa.metrics.tally import Tally, merged

__all__ = ["ClassTally", "LabelTally", "NumberTally", "Tally", "merged", "tally_of"]


def tally_of(kind: Kind, tensors: Mapping[str, Tensor]) -> Tally:
    """A tally out of a message."""
    if kind == "single_label":
        return ClassTally(**tensors)
    return LabelTally(**tensors) if kind == "multi_label" else NumberTally(**tensors)
