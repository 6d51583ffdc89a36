"""How a large manifest begins: 10,000, 30,000 and 100,000 rows of a picture each, a text and a record, and the memory that a row costs.

`m2fedsa run` is started as people start it, with nothing remembered of the files. It is ready when it names its clients: until then the
manifest is read, every file is found and 2,000 heads are read, and the encoders are loaded. The run is stopped when the first round is
told, of one client with 100 samples of its own, however many others there are. Memory is what the process has had resident at most. Linux.
"""

import csv
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from measuring import conclude, options, spread, table
from PIL import Image

GOAL = 10.0
"""Seconds from the command to the clients, of a hundred thousand rows."""
SIZES = (10_000, 30_000, 100_000)
QUICK = (200, 400)
A_CLIENT = 100
"""Rows of a client."""
MOMENTS = {"ready": "clients ", "first round": "round "}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTINGS = """
name = "rows"
[data]
manifest = "{folder}/{rows}.csv"
[modalities.photo]
kind = "image"
encoder = "embedded:digits-image"
[modalities.title]
kind = "text"
encoder = "embedded:digits-text"
[modalities.record]
kind = "tabular"
encoder = "{folder}/record"
[federation]
rounds = 3
clients_per_round = 1
local_steps = 1
warm_start = false
[kept]
folder = "{folder}/kept"
[compute]
threads = 1
"""


def write_files(folder: Path, rows: int) -> None:
    """A file for each row: a small picture of its own."""
    for row in range(rows):
        photo = folder / _photo(row)
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (28, 28), row.to_bytes(4, "big") * 196).save(photo, compress_level=0)


def write_manifest(folder: Path, rows: int) -> None:
    """The first so many of them; every tenth client has what validates."""
    with (folder / f"{rows}.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "photo", "title", "age", "weight", "place", "label", "client", "split"])
        for row in range(rows):
            client, digit = row // A_CLIENT, row % 10
            record = [20 + row % 60, f"{row % 97 / 10:.1f}", "abc"[row % 3]]
            split = "val" if client % 100 == 1 else "train"
            lines.writerow([f"r{row:06d}", _photo(row), WORDS[digit], *record, digit, f"c{client:04d}", split])


def _photo(row: int) -> str:
    return f"photos/{row // 1000:03d}/{row % 1000:03d}.png"


def start(folder: Path, rows: int, cache: Path) -> dict[str, Any]:
    """Start a run; seconds, CPU seconds and peak memory at each of the moments. Then the run is stopped."""
    (folder / f"{rows}.toml").write_text(SETTINGS.format(folder=folder, rows=rows))
    words = [sys.executable, "-m", "m2fedsa", "run", str(folder / f"{rows}.toml"), "--out", str(cache / "run")]
    environment = {**os.environ, "HOME": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    began, found = perf_counter(), {}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment)
    assert child.stdout is not None
    for line in child.stdout:
        for name, beginning in MOMENTS.items():
            if name not in found and line.startswith(beginning):
                found[name] = {"wall": perf_counter() - began, "cpu": _cpu(child.pid), "peak": _peak(child.pid)}
        if len(found) == len(MOMENTS):
            child.send_signal(signal.SIGKILL)
            break
    child.communicate()
    if len(found) < len(MOMENTS):
        raise SystemExit(f"{' '.join(words)}: ended with exit status {child.returncode} before its first round")
    return found


def _cpu(process: int) -> float:
    """User and system seconds of all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(process: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, help="starts at each size, in turn (3)")
    given = parser.parse_args(arguments)
    sizes, repeats = (QUICK, 1) if given.quick else (SIZES, 3)
    repeats = given.repeats or repeats
    found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in sizes}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_files(folder, max(sizes))
        for rows in sizes:
            write_manifest(folder, rows)
        record = ["encoder", "tabular", "--manifest", str(folder / f"{sizes[0]}.csv"), "--columns", "age,weight,place", "--epochs", "0"]
        subprocess.run([sys.executable, "-m", "m2fedsa", *record, "--out", str(folder / "record")], check=True, capture_output=True)
        for _ in range(repeats):
            for rows in sizes:
                with tempfile.TemporaryDirectory() as cache:  # nothing is remembered of the files
                    found[rows].append(start(folder, rows, Path(cache)))
    few, many = sizes[0], sizes[-1]
    lines, growth = [], {}
    for moment in MOMENTS:
        for rows, starts in found.items():
            times = [spread([one[moment][clock] for one in starts]).text() for clock in ("wall", "cpu")]
            lines.append([f"{rows:,}", moment, *times, spread([one[moment]["peak"] for one in starts]).text(1e-6, 0)])
        peaks = {rows: spread([one[moment]["peak"] for one in found[rows]]).median for rows in (few, many)}
        growth[moment] = (peaks[many] - peaks[few]) / (many - few)
    print(f"m2fedsa run, {repeats} of each: median (least … largest), counted from the command on\n")
    table(["rows", "until", "wall, s", "cpu, s", "peak memory, MB"], lines)
    told = ", ".join(f"{growth[moment]:,.0f} bytes ({moment})" for moment in MOMENTS)
    print(f"\na row more costs, from {few:,} to {many:,}: {told}\ngoal: {GOAL:.0f} s until 100,000 rows are ready")
    starts_of = {str(rows): starts for rows, starts in found.items()}
    return conclude({"benchmark": "many_rows", "starts": starts_of, "bytes a row": growth, "goal": GOAL}, given.out)


if __name__ == "__main__":
    main()
