"""The commands that run many runs and put them side by side: `compare` and `sweep`."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from m2fedsa.cli_options import Debug, Settings, settings_of
from m2fedsa.errors import RunError

if TYPE_CHECKING:
    from m2fedsa.comparing.outcome import Stored
    from m2fedsa.comparing.study import Grid, Job, Study
    from m2fedsa.comparing.whole import Look

Jobs = Annotated[int | None, typer.Option(metavar="N", min=1, help="Runs at once; as many as the cores allow if not given.")]
Budget = Annotated[str, typer.Option(click_type=click.Choice(["bytes", "flops", "rounds"]), help="Compare at equal cost of this kind.")]
Metric = Annotated[
    str | None, typer.Option(metavar="NAME", help="accuracy, uar, macro_f1, auc, r2, ...; if not given, what the settings judge by.")
]
Target = Annotated[float | None, typer.Option("--target", metavar="X", help="Count rounds to this; else to what the first row ends with.")]
Place = Annotated[Path | None, typer.Option(metavar="DIR", help="For runs, table and page; runs/compare-NAME if not given.")]


def compare(
    target: Annotated[str | None, typer.Argument(metavar="[RECIPE | FILE.toml]", help="What to run; see `m2fedsa recipes`.")] = None,
    methods: Annotated[str, typer.Option(metavar="A,B,...", help="See --list; the first is what the others are compared with.")] = (
        "m2fedsa,closed_form,fedpeft,late_fusion"
    ),
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds, from that of the settings on, the same for all.")] = 5,
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V", help="Search over a setting, for all alike; validation samples choose. Repeatable."),
    ] = None,
    budget: Budget = "bytes",
    metric: Metric = None,
    goal: Target = None,
    settings: Settings = None,
    out: Place = None,
    jobs: Jobs = None,
    stored: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Make the table of a study.json once more.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List methods and ablations, and exit.")] = False,
    debug: Debug = False,
) -> None:
    """Run methods on the same seeds, and put them side by side: one table, one page.

    What was run before is not run again: the same command goes on where it was stopped.
    """
    if listed:
        _list()
        return
    from m2fedsa.comparing.outcome import read
    from m2fedsa.comparing.study import grid_of, of_methods
    from m2fedsa.comparing.whole import Look

    look = Look(metric, _known(budget), goal)
    if stored is not None:
        _show(read(stored), out or stored.parent, look)
        return
    over = grid_of(search or [], "--search")
    study = of_methods(settings_of(target, settings), [name.strip() for name in methods.split(",")], over, seeds)
    _run(study, over, target or "", out, jobs, look)


def sweep(
    target: Annotated[str, typer.Argument(metavar="RECIPE | FILE.toml", help="What to run; see `m2fedsa recipes`.")],
    grid: Annotated[list[str], typer.Option(metavar="KEY=V,V", help="A setting and its values; repeat for all combinations.")],
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds, from that of the settings on, the same for all.")] = 3,
    budget: Budget = "bytes",
    metric: Metric = None,
    goal: Target = None,
    settings: Settings = None,
    out: Place = None,
    jobs: Jobs = None,
    debug: Debug = False,
) -> None:
    """Run every combination of some settings on the same seeds, and put them side by side."""
    from m2fedsa.comparing.study import grid_of, of_grid
    from m2fedsa.comparing.whole import Look

    study = of_grid(settings_of(target, settings), grid_of(grid, "--grid"), seeds)
    _run(study, {}, target, out, jobs, Look(metric, _known(budget), goal))


def _known(budget: str) -> Any:
    """One of the choices: the parser has seen to that."""
    return budget


def _list() -> None:
    from m2fedsa.baselines.methods import ABLATIONS, METHODS

    for title, known in (("methods", METHODS), ("ablations, for --methods too", ABLATIONS)):
        print(f"{title}:")
        for name, method in known.items():
            print(f"  {name:<{max(map(len, known))}}  {method.summary}")


def _run(study: "Study", search: "Grid", target: str, out: Path | None, jobs: int | None, look: "Look") -> None:
    """Run a study, show what came of it. `RunError` if some runs failed, after the table of the others."""
    from m2fedsa.comparing.whole import run_study
    from m2fedsa.reporting.run_directory import ROOT

    place = out or ROOT / f"compare-{Path(target).stem}"

    def told(done: int, total: int, job: "Job", what: str) -> None:
        print(f"{done}/{total}  {job.place}  {what}", flush=True)

    stored = run_study(study, search, target, _command(), place, jobs, told)
    _show(stored, place, look)
    if failed := stored.get("failed"):
        first, why = next(iter(failed.items()))
        raise RunError(f"{len(failed)} of {len(list(study.jobs()))} runs failed. The first, {first}: {why}")


def _command() -> str:
    """The command as it was given, for the record; where it came from a program, its name alone."""
    given = [word for word in sys.argv[1:] if word != "--debug"]
    return f"m2fedsa {shlex.join(given)}" if given and given[0] in ("compare", "sweep") else "m2fedsa compare"


def _show(stored: "Stored", place: Path, look: "Look") -> None:
    from m2fedsa.comparing.whole import PAGE, TABLE, written

    print()
    print(written(stored, place, look, shutil.get_terminal_size((120, 40)).columns))
    print()
    print(f"page: {place / PAGE}      table: {place / TABLE}")
