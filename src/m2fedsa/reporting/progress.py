"""What a person sees while a run goes on: one line a round, and on a terminal a bar that moves within the round.

The training loop tells a `Progress` what happened and asks for nothing back. `view` gives the one that fits where the output goes.
"""

import os
import statistics
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

from m2fedsa.config import Config
from m2fedsa.reporting.program import program, word
from m2fedsa.reporting.records import Facts, FailureRecord, Metrics, ResultRecord, RoundRecord, WarmStartRecord
from m2fedsa.reporting.summary import NAMES, holdings, judged_by, ledger_lines, result_sentences, samples, score
from m2fedsa.reporting.units import count, duration, plural, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LABEL_WIDTH = len("warm start ")


class Progress(Protocol):
    """Whoever wants to know how a run goes. All methods return at once."""

    def started(self, facts: Facts, after: int = 0) -> None:
        """Data and encoders are there. `after`: the last round of the checkpoint that the run goes on from."""

    def warm_started(self, record: WarmStartRecord) -> None:
        """The closed form is there."""

    def client_done(self, done: int, total: int, task: str = "training") -> None:
        """`done` of the `total` clients of this round have answered this kind of task."""

    def round_done(self, record: RoundRecord) -> None:
        """A round has ended."""

    def finished(self, result: ResultRecord, directory: Path | None = None) -> None:
        """The run has ended."""


class Part(NamedTuple):
    """A piece of a line; where the line is too long, pieces of higher rank are left out first."""

    text: str
    rank: int = 0
    style: str = ""


class Lines:
    """Progress as plain lines, for files, pipes and dumb terminals."""

    def __init__(self, config: Config, stream: TextIO | None = None) -> None:
        """Speaks at once: the first line tells what was asked for."""
        self.config = config
        self.stream = stream or sys.stdout
        self.total = config.federation.rounds
        self.recent: deque[float] = deque(maxlen=5)
        self.phase: str | None = None
        self.failures: list[FailureRecord] = []
        self.seconds = 0.0
        self.width: int | None = None
        self.open()
        self.say(self._header())

    def open(self) -> None:
        """Prepare the output."""

    def close(self) -> None:
        """Leave the output in order, whatever happened."""

    def say(self, parts: Iterable[Part]) -> None:
        """Print one line."""
        print("".join(part.text for part in fitting(list(parts), self.width)).rstrip(), file=self.stream, flush=True)

    def started(self, facts: Facts, after: int = 0) -> None:
        """See `Progress`."""
        self.say([Part(self._label("clients")), Part(f"  {holdings(facts)}"), Part(f" · {samples(facts)}", 1)])
        for note in facts.get("notes", []):
            self.note(note)
        if after:
            self.say([Part(self._label("resumed")), Part(f"  after round {after} of {self.total}")])

    def warm_started(self, record: WarmStartRecord) -> None:
        """See `Progress`."""
        cost = f"{plural(record['samples'], 'sample')} once, {size(record['bytes']['up'])} up"
        self.say([Part(self._label("warm start"), style="bold"), *self._scores(record["metrics"]), Part(f"   {cost}", 2, "dim")])
        self._without(record.get("failures", []))

    def note(self, text: str) -> None:
        """Something that people should know and that is no part of the run's records."""
        self.say([Part(self._label("note")), Part(f"  {text}", style="yellow")])

    def client_done(self, done: int, total: int, task: str = "training") -> None:
        """See `Progress`; a line would be too much."""

    def round_done(self, record: RoundRecord) -> None:
        """See `Progress`."""
        self.recent.append(record["seconds"])
        if record["phase"] == "transfer" and self.phase == "fusion":
            self.say([Part(self._label("transfer")), Part("  begins: fusion is frozen and teaches the single modalities")])
        self.phase = record["phase"]
        loss = record["loss"]
        details = "  ".join(f"{name} {value:.2f}" for name, value in loss.items() if name != "fused" and value is not None)
        fused = loss.get("fused")
        self.say(
            [
                Part(self._label(f"round {record['round']:>{len(str(self.total))}}/{self.total}"), style="bold"),
                *self._scores(record["metrics"]),
                Part(f"   loss {fused:.2f}" if fused is not None else "   loss  –  ", 2),
                Part(f" ({details})" if details else "", 8, "dim"),
                Part(f"   {record['phase']:<8}", 7, "dim"),
                Part(f"   up {size(record['bytes']['up']):>7}", 3, "dim"),
                Part(f"  down {size(record['bytes']['down']):>7}", 6, "dim"),
                Part(f"   {duration(record['seconds']):>6}", 4, "dim"),
                Part(f"{self._time_left(record['round']):<20}", 5),
            ]
        )
        self._without(record.get("failures", []))

    def finished(self, result: ResultRecord, directory: Path | None = None) -> None:
        """See `Progress`."""
        self.close()
        # The last round's validation is that of the end as well: told once.
        self._without([failure for failure in result.get("failures", []) if failure not in self.failures])
        first, *others = [*result_sentences(result, self.config), ""]
        self.say([Part(f"done in {duration(result['seconds'])}. ", style="bold"), Part(first)])
        for sentence in others:
            if sentence:
                self.say([Part(sentence)])
        for modality, line in ledger_lines(result, self.config).items():
            self.say([Part(self._label(modality)), Part(f"  {line}", style="dim")])
        if directory is not None:
            again = f"{program()} run {word(directory / 'config.toml')}"
            self.say([Part(f"report: {directory / 'report.html'}"), Part(f"      again: {again}", style="dim")])

    def _header(self) -> list[Part]:
        config = self.config
        blocks = {modality.block for modality in config.modalities.values()}
        cut = f"cut after block {blocks.pop()}" if len(blocks) == 1 else "cut in two"
        manifest, sampled = config.data.manifest, config.federation.clients_per_round
        # Who the clients of a manifest are is known when it has been read.
        clients = plural(config.data.clients, "client") if manifest is None else Path(manifest).name
        if sampled is not None and (manifest is not None or sampled < config.data.clients):
            clients += f", {sampled} a round"
        encoders = f"{plural(len(config.modalities), 'frozen encoder')} {cut}"
        return [
            Part("m2fedsa", style="bold"),
            Part(f"{' ' * (LABEL_WIDTH - len('m2fedsa'))}  {config.name} · {clients} · {encoders}"),
            Part(f" ({', '.join(config.modalities)})", 3),
            Part(f" · {plural(self.total, 'round')}", 1),
            Part(f" · seed {config.seed}", 2),
        ]

    def _without(self, failures: list[FailureRecord]) -> None:
        """Who could not do its part, and why."""
        self.failures = failures
        for failure in failures:
            self.say([Part(self._label("")), Part(f"  without {failure['client']}: {failure['message']}", style="yellow")])

    def _label(self, text: str) -> str:
        width = max(LABEL_WIDTH, len(f"round {self.total}/{self.total}"))
        return f"{text:<{width}}"

    def _scores(self, metrics: Metrics | None) -> list[Part]:
        def text(subset: str) -> str:
            value = score(metrics, subset)
            return f"{subset} {value:.2f}" if value is not None else f"{subset}  –  "

        metric = judged_by(metrics) if metrics else "accuracy"
        named = [] if metric == "accuracy" else [Part(f"  {NAMES[metric]}", 1)]
        return [*named, Part(f"  {text('fused')} ", style="bold green"), *(Part(f"  {text(name)}", 1) for name in self.config.modalities)]

    def _time_left(self, number: int) -> str:
        left = (self.total - number) * statistics.median(self.recent)
        return f"   ~{duration(max(left, 10)) if left >= 9.95 else f'{left:.0f} s'} left" if number < self.total else ""


class Live(Lines):
    """Progress on a terminal: the same lines, and below them a bar that moves within the round."""

    console: "Console"
    bar: "Bar | None" = None
    task: "TaskID"

    def open(self) -> None:
        """Start the bar before anything heavy is imported."""
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.console = Console(file=self.stream, highlight=False, soft_wrap=True)
        self.width = self.console.width
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bar = Bar(*columns, console=self.console, transient=True, refresh_per_second=8)
        self.task = self.bar.add_task("loading encoders and samples", total=None, left="")
        self.bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, parts: Iterable[Part]) -> None:
        """Print one line above the bar."""
        from rich.text import Text

        text = Text()
        for part in fitting(list(parts), self.width):
            text.append(part.text, style=part.style or None)
        text.rstrip()
        self.console.print(text)

    def started(self, facts: Facts, after: int = 0) -> None:
        """See `Progress`."""
        super().started(facts, after)
        self._next(after + 1 if after else 0)

    def warm_started(self, record: WarmStartRecord) -> None:
        """See `Progress`."""
        super().warm_started(record)
        self._next(1)

    def client_done(self, done: int, total: int, task: str = "training") -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(
                self.task, completed=done, total=total, description=f"{self.doing}{task}, {count(done)} of {plural(total, 'client')}"
            )

    def round_done(self, record: RoundRecord) -> None:
        """See `Progress`."""
        super().round_done(record)
        if record["round"] < self.total:
            self._next(record["round"] + 1, self._time_left(record["round"]).strip())

    doing = ""

    def _next(self, number: int, left: str = "") -> None:
        self.doing = f"round {number}/{self.total}: " if number else ""
        if self.bar is not None:
            self.bar.reset(self.task, total=None, description=f"round {number}/{self.total}" if number else "warm start", left=left)


def fitting(parts: list[Part], width: int | None) -> list[Part]:
    """The parts that fit into the width, those of higher rank left out first; the order stays."""
    if width is None:
        return parts
    kept = list(parts)
    while sum(len(part.text) for part in kept) > width and max(part.rank for part in kept) > 0:
        kept.remove(max(reversed(kept), key=lambda part: part.rank))
    return kept


def view(config: Config, stream: TextIO | None = None) -> Lines:
    """A live view on a terminal, plain lines elsewhere. `close` it when the run has ended, however that came."""
    stream = stream or sys.stdout
    return Live(config, stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else Lines(config, stream)


class Silent:
    """Progress that nobody looks at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None
