"""From a study to its files: runs what is due, keeps what came of it, writes table and page."""

from dataclasses import dataclass
from pathlib import Path

from m2fedsa.comparing.jobs import Told, run_all
from m2fedsa.comparing.outcome import Stored, outcome, write
from m2fedsa.comparing.page import html
from m2fedsa.comparing.rows import Budget, compare
from m2fedsa.comparing.study import Grid, Study
from m2fedsa.comparing.tables import markdown, terminal
from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunError
from m2fedsa.reporting.files import RESULT
from m2fedsa.stopping import metric_of

STORED, TABLE, PAGE = "study.json", "comparison.md", "comparison.html"


@dataclass(frozen=True)
class Look:
    """How a study is looked at."""

    metric: str | None = None
    budget: Budget = "bytes"
    target: float | None = None


def run_study(study: Study, search: Grid, target: str, command: str, out: Path, processes: int | None, told: Told) -> Stored:
    """Run or go on; the outcomes, also in `study.json`. `RunError` if no run came to its end."""
    jobs = list(study.jobs())
    out.mkdir(parents=True, exist_ok=True)
    failed = run_all(jobs, out, processes, told)
    stored: Stored = {
        "command": command,
        "target": target,
        "arms": [arm.name for arm in study.arms],
        "search": {key: list(values) for key, values in search.items()},
        "seeds": list(study.seeds),
        "outcomes": [outcome(job, out) for job in jobs if (out / job.place / RESULT).exists()],
        "metric": metric_of(jobs[0].config),
    }
    if failed:
        stored["failed"] = {place.as_posix(): why for place, why in failed.items()}
    if not stored["outcomes"]:
        raise RunError(f"no run came to its end. The first said: {next(iter(failed.values()))}")
    write(out / STORED, stored)
    return stored


def written(stored: Stored, out: Path, look: Look, columns: int = 100) -> str:
    """Write table and page; the table for a terminal of this many columns."""
    found = compare(stored, look.metric, look.budget, look.target)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / TABLE, markdown(found).encode())
    write_atomically(out / PAGE, html(found).encode())
    return terminal(found, columns)
