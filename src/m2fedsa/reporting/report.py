"""The HTML report: one file that needs no network, made from the files of one or several run directories and nothing else."""

from collections.abc import Sequence
from html import escape
from importlib import resources
from os.path import commonpath
from pathlib import Path
from string import Template

from m2fedsa.durable import write_atomically
from m2fedsa.reporting import comparison, costs, first_screen, sections
from m2fedsa.reporting.cards import row
from m2fedsa.reporting.files import REPORT, RunFiles


def write_report(directories: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report on one run, or the comparison of several; where it was written.

    One run: `report.html` in its directory. Several: `report.html` in the directory that they share. `RunDirectoryError` if one of them
    holds no run.
    """
    runs = [RunFiles.read(directory) for directory in dict.fromkeys(Path(directory) for directory in directories)]
    if out is not None:
        target = Path(out)
    elif len(runs) == 1:
        target = runs[0].path / REPORT
    else:
        target = Path(commonpath([run.path.absolute().parent for run in runs])) / REPORT
    text = single(runs[0]) if len(runs) == 1 else several(runs)
    write_atomically(target, text.encode())
    return target


def single(run: RunFiles) -> str:
    """The report on one run."""
    body = [
        first_screen.headline(run),
        row(first_screen.asked(run), first_screen.came_out(run), first_screen.against(run)),
        sections.failures(run),
        sections.learning(run),
        sections.notes(run),
        row(sections.who_holds_what(run), sections.per_client(run), kind="uneven"),
        row(sections.confusion(run), sections.subsets(run), kind="two"),
        costs.cost(run),
        row(sections.next_steps(run), sections.provenance(run), kind="two"),
    ]
    return page(f"{run.config.name} · m2fedsa", body)


def several(runs: Sequence[RunFiles]) -> str:
    """Several runs side by side."""
    return page(f"{len(runs)} runs · m2fedsa", comparison.parts(runs))


def page(title: str, body: Sequence[str]) -> str:
    """A page of its own from its parts."""
    template = Template(resources.files("m2fedsa.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body="\n".join(part for part in body if part))
