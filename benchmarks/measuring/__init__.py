"""What the benchmarks share: their options, spreads, tables, and the machine that a figure was measured on."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Least, median and largest of some measurements."""

    least: float
    median: float
    largest: float

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """`median (least … largest)`, each times `scale`."""
        least, median, largest = (f"{value * scale:.{digits}f}" for value in self)
        return f"{median} ({least} … {largest})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of one or more measurements."""
    return Spread(min(values), statistics.median(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The spread of what was measured in turn, one over the other, pair by pair."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def options(description: str | None) -> argparse.ArgumentParser:
    """Every benchmark's options; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a size of seconds, which shows that the benchmark runs and no more")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the measurements as JSON")
    return parser


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code. The load tells whether others used the machine."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor()
    )
    packages = {name: version(name) for name in ("m2fedsa", "torch", "transformers")}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **packages,
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that is valid Markdown."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines), flush=True)


def conclude(record: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """Say on what machine it was; write the record where a file was asked for."""
    whole = {"machine": machine(), **record}
    print(" · ".join(f"{name} {value}" for name, value in whole["machine"].items()))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(whole, indent=1) + "\n")
    return whole
