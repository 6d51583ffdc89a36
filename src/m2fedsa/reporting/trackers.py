"""Where the figures of a run go as well: TensorBoard, MLflow, Weights & Biases, or what a program passes.

A tracker sees what the terminal sees, as named numbers per round, and decides nothing: one that fails is told of once, and the run goes on
without it.

    warm start, step 0    validation/fused/accuracy …
    round n, step n       loss/image, loss/fused, validation/fused/accuracy …, bytes/up, bytes/down, seconds, clients, failures, transfer
    end                   test/fused/accuracy … , seconds
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from m2fedsa.config import Config, flat
from m2fedsa.durable import write_atomically
from m2fedsa.errors import ConfigError, StorageError
from m2fedsa.reporting.progress import Progress
from m2fedsa.reporting.records import Facts, Metrics, ResultRecord, RoundRecord, WarmStartRecord
from m2fedsa.reporting.run_directory import RunDirectory

KEPT = "trackers.json"
"""In the run directory: what trackers call this run, so that a resumed one goes on in the same place."""
Setting = str | int | float | bool | None


class Tracker(Protocol):
    """Whatever keeps figures of runs. Errors of its own may pass: they end it, not the run."""

    def begin(self, name: str, settings: Mapping[str, Setting], directory: Path | None, known: str | None, after: int) -> str | None:
        """A run of this name and these settings begins, or goes on after a round, then with what `begin` answered the first time.

        directory: the run's, None where nothing is kept. Returns how the tracker calls this run, None if it has no name for it.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of a round; 0 is the warm start."""

    def end(self, values: Mapping[str, float]) -> None:
        """The figures of the whole run."""

    def close(self) -> None:
        """Nothing more comes, whatever happened."""


class TensorBoard:
    """Event files, which `tensorboard --logdir` shows: in `tensorboard/` of the run directory unless another place is named."""

    def __init__(self, directory: Path | str | None = None) -> None:
        _need("tensorboard")
        self._place = None if directory is None else Path(directory)
        self._writer: Any = None
        self._last = 0

    def begin(self, name: str, settings: Mapping[str, Setting], directory: Path | None, known: str | None, after: int) -> str | None:
        """See `Tracker`. What was written of rounds after the checkpoint disappears."""
        from torch.utils.tensorboard import SummaryWriter

        place = self._place or (directory and directory / "tensorboard")
        if place is None:
            raise ConfigError("TensorBoard has no place for its files: there is no run directory. Name one: TensorBoard(directory).")
        self._writer = SummaryWriter(str(place), purge_step=after + 1 if known else None)
        if not known:
            told = "".join(f"    {key} = {value}\n" for key, value in settings.items())
            self._writer.add_text("settings", f"**{name}**\n\n{told}")
        return str(place)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._last = step
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def end(self, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.log(self._last, values)

    def close(self) -> None:
        """See `Tracker`."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run in the experiment of the run's name, at MLFLOW_TRACKING_URI; without it MLflow keeps a database in the working directory."""

    def __init__(self) -> None:
        _need("mlflow")

    def begin(self, name: str, settings: Mapping[str, Setting], directory: Path | None, known: str | None, after: int) -> str | None:  # noqa: ARG002  (see `Tracker`)
        """See `Tracker`."""
        import mlflow

        mlflow.set_experiment(name)
        run = mlflow.start_run(run_id=known, run_name=None if directory is None else directory.name)
        if known is None:
            mlflow.log_params(dict(settings))
        return str(run.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.log_metrics(_named(values), step=step)

    def end(self, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.log_metrics(_named(values))

    def close(self) -> None:
        """See `Tracker`."""
        import mlflow

        mlflow.end_run()


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """By names that MLflow takes: `image-text` for `image+text`."""
    return {name.replace("+", "-"): value for name, value in values.items()}


class WeightsAndBiases:
    """A run in the project of the run's name; WANDB_MODE and the like say where."""

    def __init__(self) -> None:
        _need("wandb")
        self._run: Any = None

    def begin(self, name: str, settings: Mapping[str, Setting], directory: Path | None, known: str | None, after: int) -> str | None:  # noqa: ARG002  (see `Tracker`)
        """See `Tracker`."""
        import wandb

        self._run = wandb.init(
            project=name,
            name=None if directory is None else directory.name,
            dir=None if directory is None else str(directory),
            id=known,
            resume="allow" if known else None,
            config=dict(settings),
        )
        return str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def end(self, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """See `Tracker`."""
        if self._run is not None:
            self._run.finish()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}
"""By the names of the command line, which are those of the packages and of this package's extras."""


def trackers(names: Sequence[str]) -> list[Tracker]:
    """Trackers by name. `ConfigError` for one that is not known, or whose package is not installed."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ConfigError(f"--track {unknown[0]}: there is no such tracker. There are {', '.join(TRACKERS)}.")
    return [TRACKERS[name]() for name in dict.fromkeys(names)]


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"the package {package} is not installed, so nothing can be tracked there. Install m2fedsa[{package}].")


class Tracking:
    """Progress that tells trackers, and another progress."""

    def __init__(self, config: Config, directory: RunDirectory | None, trackers: Sequence[Tracker], progress: Progress) -> None:
        """Nothing is begun before data and encoders are there."""
        self._config, self._directory, self._progress = config, directory, progress
        self._trackers = {f"{place}-{type(one).__name__}": one for place, one in enumerate(trackers)}

    def started(self, facts: Facts, after: int = 0) -> None:
        """See `Progress`."""
        self._progress.started(facts, after)
        path = None if self._directory is None else self._directory.path
        known = _known(path) if after else {}
        settings = flat(self._config.model_dump(mode="json", exclude_none=True))
        named: dict[str, str] = {}
        for place, one in list(self._trackers.items()):
            answered = self._tell(place, partial(one.begin, self._config.name, settings, path, known.get(place), after))
            if answered is not None:
                named[place] = answered
        if path is not None and named:
            write_atomically(path / KEPT, (json.dumps(named, indent=1) + "\n").encode())

    def warm_started(self, record: WarmStartRecord) -> None:
        """See `Progress`."""
        self._progress.warm_started(record)
        self._log(0, _scores("validation", record["metrics"]))

    def client_done(self, done: int, total: int, task: str = "training") -> None:
        """See `Progress`."""
        self._progress.client_done(done, total, task)

    def round_done(self, record: RoundRecord) -> None:
        """See `Progress`."""
        self._progress.round_done(record)
        values = {f"loss/{name}": value for name, value in record["loss"].items() if value is not None}
        values |= _scores("validation", record["metrics"])
        values |= {"bytes/up": float(record["bytes"]["up"]), "bytes/down": float(record["bytes"]["down"])}
        values |= {"seconds": record["seconds"], "clients": float(len(record["clients"]))}
        values |= {"failures": float(len(record.get("failures", []))), "transfer": float(record["phase"] == "transfer")}
        self._log(record["round"], values)

    def finished(self, result: ResultRecord, directory: Path | None = None) -> None:
        """See `Progress`."""
        self._progress.finished(result, directory)
        values = {**_scores("test", result["metrics"]), "seconds/all": result["seconds"]}
        for place, one in list(self._trackers.items()):
            self._tell(place, partial(one.end, values))

    def close(self) -> None:
        """Let all trackers finish."""
        for place, one in list(self._trackers.items()):
            self._tell(place, one.close)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for place, one in list(self._trackers.items()):
            self._tell(place, partial(one.log, step, values))

    def _tell(self, place: str, what: Callable[[], Any]) -> Any:
        """Tell a tracker; one that fails is told of, closed, and asked no more."""
        try:
            return what()
        except (ConfigError, StorageError):
            raise
        except Exception as error:
            failed = self._trackers.pop(place)
            name = place.partition("-")[2]
            told = f"warning: {name} failed and is told nothing more ({type(error).__name__}: {error}). The run goes on.\n"
            sys.stderr.write(told)
            with suppress(Exception):
                failed.close()
            return None


def _scores(split: str, metrics: Metrics | None) -> dict[str, float]:
    """`test/image+text/accuracy` and so on."""
    return {
        f"{split}/{subset}/{name}": float(value)
        for subset, scores in (metrics or {}).items()
        for name, value in scores.items()
        if isinstance(value, int | float)
    }


def _known(directory: Path | None) -> dict[str, str]:
    """What trackers called the run before; a file that cannot be read costs a new name."""
    try:
        found: Any = json.loads((directory / KEPT).read_text(encoding="utf-8")) if directory else {}
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
