"""What to try next after a run, as commands; chosen from what happened."""

from typing import NamedTuple

from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.program import program, word
from m2fedsa.reporting.summary import LOST, NAMES, best_single, judged_by, score

MOST = 5


class Advice(NamedTuple):
    """A reason, and the command that follows from it."""

    why: str
    command: str


def advice(run: RunFiles) -> list[Advice]:
    """At most five, the most telling first."""
    again = f"{program()} run {word(run.path / 'config.toml')}"
    rounds = run.config.federation.rounds
    if run.result is None:
        return [Advice("This run is not finished. Go on where it stopped.", f"{program()} run --resume {word(run.path)}")]
    found = []
    what = NAMES[judged_by(run.result["metrics"])]
    curve = [(record["round"], value) for record in run.rounds if (value := score(record["metrics"], "fused")) is not None]
    late = [value for number, value in curve if number > 0.75 * rounds]
    early = [value for number, value in curve if number <= 0.75 * rounds]
    warm = score(run.warm_start["metrics"], "fused") if run.warm_start else None
    lost = warm is not None and bool(curve) and curve[-1][1] < warm - LOST
    if lost:
        slower = f"{again} --set optimizer.learning_rate={run.config.optimizer.learning_rate / 10:g}"
        found.append(Advice(f"Training has lost {what} that the warm start had: learn more slowly.", slower))
    elif late and early and max(late) > max(early) + 0.005:
        found.append(
            Advice(f"The fused {what} still rose in the last quarter of the rounds.", f"{again} --set federation.rounds={2 * rounds}")
        )
    elif len(curve) >= 4:
        best = max(value for _, value in curve)
        enough = next(number for number, value in curve if value >= best - 0.005)
        if enough <= rounds / 2:
            found.append(Advice(f"Round {enough} was as good as the last one.", f"{again} --set federation.rounds={enough}"))
    if not rounds:
        found.append(Advice("This is the warm start alone. What does training add?", f"{again} --set federation.rounds=20"))
    if run.config.data.labelled_fraction < 1:
        without = "--set transfer.start=never --set transfer.closed_form=false"
        found.append(Advice("What do the unlabelled samples give? The same without transfer:", f"{again} {without}"))
    fused, closed = score(run.result["metrics"], "fused"), score(run.result.get("closed_form"), "fused")
    if rounds and fused is not None and closed is not None and fused - closed < 0.01:
        found.append(Advice("The linear heads are as good as training: take them alone.", f"{again} --set federation.rounds=0"))
    single = best_single(run.result["metrics"])
    if fused is not None and single is not None and fused <= single[1] and not lost:
        found.append(
            Advice(f"Fusion is no better than {single[0]} alone: let it learn faster.", f"{again} --set optimizer.fusion_factor=30")
        )
    if run.config.federation.warm_start and rounds:
        found.append(Advice("What does the warm start save? The same without it:", f"{again} --set federation.warm_start=false"))
    found.append(Advice("One seed is one draw. Another, then both in one report:", f"{again} --set seed={run.config.seed + 1}"))
    if run.config.name == "digits":
        found.append(Advice("A task that no modality solves alone, so that fusion must learn:", f"{program()} run match"))
    found.append(Advice("Your own settings: take these as a start and edit them.", f"cp {word(run.path / 'config.toml')} mine.toml"))
    return found[:MOST]
