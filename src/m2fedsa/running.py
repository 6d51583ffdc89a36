"""Runs from beginning to end: what the library's `run`, the command line and a deployment begin; and what is said when one stops."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2fedsa.assembly import Extensions, assemble, cpu_threads
from m2fedsa.averaging import Average, weighted_mean
from m2fedsa.config import Config
from m2fedsa.data.samples import FederatedData
from m2fedsa.errors import Interrupted, StorageError
from m2fedsa.fed_server import Sampler, uniform_sampler
from m2fedsa.losses import Loss, step_loss
from m2fedsa.parties import Company
from m2fedsa.reporting.progress import Progress, Silent
from m2fedsa.reporting.run_directory import RunDirectory
from m2fedsa.reporting.trackers import Tracker, Tracking
from m2fedsa.result import Result
from m2fedsa.training import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(
    config: Config,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    trackers: Sequence[Tracker] = (),
    data: FederatedData | None = None,
    encoders: "Mapping[str, PreTrainedModel] | None" = None,
    loss: Loss = step_loss,
    average: Average = weighted_mean,
    sampler: Sampler = uniform_sampler,
) -> Result:
    """Run a federation in this process.

    `out`: the run directory; None keeps nothing on disk. `resume`: go on from the checkpoint in `out`. `progress`: who is told how it
    goes. `trackers`: where its figures go as well. The others replace a part by a researcher's own; see `data.samples.FederatedData`,
    `losses.Loss`, `averaging.Average`, `fed_server.Sampler`.

    Raises `InputError` for what cannot be used, before any training and without leaving a directory behind; `Interrupted` on Ctrl-C,
    after which `out` can be resumed; `RunError` if the run cannot go on.
    """
    extensions = Extensions(data, encoders, loss, average, sampler)
    config = extensions.named_in(config)
    directory = None
    if out is not None:
        directory = RunDirectory.resume(out, config) if resume else RunDirectory.create(config, out)
    tracking = Tracking(config, directory, trackers, progress or Silent())
    try:
        return run_in(directory, config, extensions, tracking, resume)
    finally:
        tracking.close()


def run_in(directory: RunDirectory | None, config: Config, extensions: Extensions, progress: Progress, resume: bool = False) -> Result:
    """Run, or go on, in a directory that was checked before; see `run`."""
    return conduct(directory, config, lambda: assemble(config, extensions), progress, resume)


def conduct(
    directory: RunDirectory | None, config: Config, gather: Callable[[], Company], progress: Progress, resume: bool = False
) -> Result:
    """Run, or go on, with the parties that `gather` brings together, wherever they are; errors are those of `run`."""
    try:
        with cpu_threads(config.compute.threads):
            training = Training(gather(), progress, directory)
            try:
                return training.through(resume)
            except (KeyboardInterrupt, BrokenPipeError):  # a person, or whoever read the output, has left
                training.stop()
                raise Interrupted(f"stopped {training.what_is_kept()}") from None
            except StorageError as error:
                raise StorageError(f"{error} Make room; the run stopped {training.what_is_kept()}") from error
            finally:
                training.close()
    finally:
        if directory is not None:
            directory.close()
