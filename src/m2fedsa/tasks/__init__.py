"""What there is to be told of a sample: one class, any number of classes, or numbers. All that differs between them is here."""

from collections.abc import Sequence

from m2fedsa.data.samples import Kind
from m2fedsa.tasks.multi_label import MultiLabel
from m2fedsa.tasks.regression import Regression
from m2fedsa.tasks.single_label import SingleLabel
from m2fedsa.tasks.task import Task

__all__ = ["MultiLabel", "Regression", "SingleLabel", "Task", "task_of"]


def task_of(kind: Kind, outputs: int, modalities: Sequence[str]) -> Task:
    """The task of a run of K `outputs` (classes, or targets) over these modalities, in their order."""
    if kind == "single_label":
        return SingleLabel(outputs)
    return MultiLabel(outputs) if kind == "multi_label" else Regression(outputs, tuple(modalities))
