"""Which round was the best so far, and whether it is time to stop: functions of the history alone, so that a run that goes on after a
crash decides as one that was never interrupted. (What `rounds.jsonl` holds is read back to the same bits.)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from m2fedsa.config import METRICS, Config
from m2fedsa.errors import ConfigError
from m2fedsa.reporting.records import RoundRecord
from m2fedsa.reporting.summary import score

FUSED = "fused"
_LESS_IS_BETTER = ("loss", "mae", "rmse")


class Judged(NamedTuple):
    """A round whose validation samples were looked at."""

    round: int
    value: float
    """the larger the better"""


def judged(history: Iterable[RoundRecord], metric: str) -> list[Judged]:
    """The rounds that can be compared, in their order."""
    values = ((record["round"], score(record["metrics"], FUSED, metric)) for record in history)
    return [Judged(number, -value if metric in _LESS_IS_BETTER else value) for number, value in values if value is not None]


def best_round(history: Sequence[RoundRecord], metric: str) -> int | None:
    """The round of the best value, the first of several; None where none was judged."""
    rounds = judged(history, metric)
    return max(rounds, key=lambda one: (one.value, -one.round)).round if rounds else None


def out_of_patience(history: Sequence[RoundRecord], metric: str, patience: int | None) -> bool:
    """Whether so many rounds were judged since the best one."""
    best = best_round(history, metric)
    return patience is not None and best is not None and sum(one.round > best for one in judged(history, metric)) >= patience


def metric_of(config: Config) -> str:
    """What rounds are compared by: the one that the settings name, or that of the task."""
    return config.evaluation.metric or METRICS[config.data.task][0]


def check_stopping(config: Config, validated: bool) -> None:
    """`ConfigError` unless what rounds are compared by is there. validated: whether any client has validation samples."""
    settings = config.evaluation
    if not validated and (settings.patience is not None or settings.keep_best):
        key = "patience" if settings.patience is not None else "keep_best"
        raise ConfigError(
            f"evaluation.{key} compares rounds on validation samples, but no client has any. Give some a `validation`, with "
            'data.evaluation = "clients" for instance, or leave the key out.'
        )
