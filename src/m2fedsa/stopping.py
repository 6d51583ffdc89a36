"""Which round was the best so far, and whether it is time to stop: functions of the history alone, so that a run that goes on after a
crash decides as one that was never interrupted. (What `rounds.jsonl` holds is read back to the same bits.)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from m2fedsa.config import METRICS, Config
from m2fedsa.errors import ConfigError
from m2fedsa.reporting.records import Metrics, RoundRecord
from m2fedsa.reporting.summary import score

FUSED = "fused"
_LESS_IS_BETTER = ("loss", "mae", "rmse")


class Judged(NamedTuple):
    """A round whose validation samples were looked at."""

    round: int
    value: float
    """the larger the better"""


def judged(history: Iterable[RoundRecord], metric: str, start: Metrics | None = None) -> list[Judged]:
    """The rounds that can be compared, in their order. start: metrics of round 0, the warm start."""
    rounds = [(0, start), *((record["round"], record["metrics"]) for record in history)]
    values = ((number, score(metrics, FUSED, metric)) for number, metrics in rounds)
    return [Judged(number, -value if metric in _LESS_IS_BETTER else value) for number, value in values if value is not None]


def best_round(history: Sequence[RoundRecord], metric: str, start: Metrics | None = None) -> int | None:
    """The round of the best value, the first of several, 0 for the warm start; None where none was judged."""
    rounds = judged(history, metric, start)
    return max(rounds, key=lambda one: (one.value, -one.round)).round if rounds else None


def out_of_patience(history: Sequence[RoundRecord], metric: str, patience: int | None, start: Metrics | None = None) -> bool:
    """Whether so many rounds were judged since the best one."""
    best = best_round(history, metric, start)
    return patience is not None and best is not None and sum(one.round > best for one in judged(history, metric)) >= patience


def metric_of(config: Config) -> str:
    """What rounds are compared by: the one that the settings name, or that of the task; where all classes are to count alike, UAR."""
    alike = config.data.task == "single_label" and config.loss.balance != "none"
    return config.evaluation.metric or ("uar" if alike else METRICS[config.data.task][0])


def check_stopping(config: Config, validated: bool) -> None:
    """`ConfigError` unless what rounds are compared by is there. validated: whether any client has validation samples."""
    settings = config.evaluation
    if not validated and (settings.patience is not None or settings.keep_best):
        key = "patience" if settings.patience is not None else "keep_best"
        raise ConfigError(
            f"evaluation.{key} compares rounds on validation samples, but no client has any. Give some a `validation`, with "
            'data.evaluation = "clients" for instance, or leave the key out.'
        )
