"""The parts of a report on one run below its first screen, each a function from what the run directory says to HTML."""

from html import escape
from typing import cast

from m2fedsa.reporting.advice import advice
from m2fedsa.reporting.cards import note, row, section
from m2fedsa.reporting.charts import FUSED, Bar, Series, bars, cell, colours, curves, matrix, table
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.program import program, word
from m2fedsa.reporting.records import ClientFacts, Metrics
from m2fedsa.reporting.summary import NAMES, judged_by, score
from m2fedsa.reporting.units import plural, spread

LOSSES = {"single_label": "cross-entropy", "multi_label": "binary cross-entropy", "regression": "half of the squared error, standardised"}
MOST_CLIENTS = 60
"""Of bars."""
MOST_ROWS = 200
"""Of the picture of who holds what."""
DENSE = 30
"""With more clients its rows are half as high."""
SEVERAL = "#93b4f5"


def learning(run: RunFiles) -> str:
    """Accuracy and loss over the rounds."""
    colour = colours(run.modalities)
    subsets = ["fused", *run.modalities]
    warm = run.warm_start["metrics"] if run.warm_start else None
    start: list[tuple[float, Metrics | None]] = [(0, warm)] if warm else []
    history = [*start, *((record["round"], record["metrics"]) for record in run.rounds)]
    accuracy = [
        Series(subset, [(number, score(metrics, subset)) for number, metrics in history], colour[subset], wide=subset == "fused")
        for subset in subsets
    ]
    loss = [
        Series(subset, [(record["round"], record["loss"].get(subset)) for record in run.rounds], colour[subset], wide=subset == "fused")
        for subset in subsets
    ]
    name = NAMES[judged_by(next((metrics for _, metrics in history if metrics), None))]
    since = run.transfer_since()
    mark = (float(since), "transfer begins") if since else None
    remark = "On validation samples. Round 0 is the warm start: linear heads on frozen features." if warm else "On validation samples."
    what = LOSSES[run.config.data.task]
    return row(
        section(name[0].upper() + name[1:], curves(accuracy, "round", name, mark), note(remark)),
        section(f"Training loss ({what})", curves(loss, "round", "loss", mark), note("Mean over the samples of a round.")),
        kind="two",
    )


def who_holds_what(run: RunFiles) -> str:
    """Clients by modalities and classes."""
    if run.facts is None:
        return ""
    colour, classes = colours(run.modalities), run.facts["classes"]
    clients = sorted(run.facts["clients"].items(), key=lambda entry: (not entry[1]["train"], -len(entry[1]["modalities"])))
    full = max((count for _, client in clients for count in client.get("classes", [])), default=1)
    shown = classes if any(client.get("classes") for _, client in clients) else []
    numbers = any("mean" in client for _, client in clients)
    shown = classes if numbers else shown
    heads = [*run.modalities, *(name if len(name) <= 9 else f"{name[:8]}…" for name in shown), "train", "test"]
    lines = []
    for name, client in clients[:MOST_ROWS]:
        cells = [_held(client, modality, colour[modality]) for modality in run.modalities]
        cells += [
            cell(count, full, str(count) if count else "") for count in client.get("classes", [0] * len(shown) if not numbers else [])
        ]
        if numbers:
            told = zip(client.get("mean", []), client.get("deviation", []), strict=True)
            spreads = [spread(mean, deviation) for mean, deviation in told] or ["–"] * len(classes)
            cells += [f'<td class="figure">{text}</td>' for text in spreads]
        tested = client.get("test", 0) + client.get("validation", 0)
        cells += [f'<td class="figure">{client["train"] or "–"}</td><td class="figure">{tested or "–"}</td>']
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    more = len(clients) - MOST_ROWS
    what = "Mean and deviation of training labels" if numbers else "Labelled training samples per class"
    remark = f"{what}; test: samples for validation and test. The paler a modality, the more of the client's samples lack it." + (
        f" {more} more clients not shown." if more > 0 else ""
    )
    kind = "cells many" if len(clients) > DENSE else "cells"
    picture = (
        f'<div class="scroll"><table class="{kind}"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
    return section("Who holds what", picture, note(remark))


def _held(client: ClientFacts, modality: str, colour: str) -> str:
    """A cell that says whether a client holds a modality, and how many of its training samples have it."""
    if modality not in client["modalities"]:
        return '<td class="cell none"></td>'
    having, train = client.get("having", {}).get(modality), client["train"]
    strength = 1.0 if having is None or not train else 0.2 + 0.8 * having / train
    told = f"{modality}: {having:,} of {train:,} samples" if having is not None and train else modality
    return f'<td class="cell" style="background:{colour};opacity:{strength:.2f}" title="{escape(told)}"></td>'


def subsets(run: RunFiles) -> str:
    """All metrics of all subsets of the modalities."""
    if run.result is None:
        return ""
    shown = [key for key in NAMES if any(entry.get(key) is not None for entry in run.result["metrics"].values())]
    rows = []
    for name, entry in run.result["metrics"].items():
        scores = cast("dict[str, float | None]", entry)
        told = "all that a sample has" if name == "fused" else f"{name} alone" if "+" not in name else name.replace("+", " + ")
        rows.append([told, *("–" if (value := scores.get(key)) is None else f"{value:.3f}" for key in shown)])
    remark = "A single modality is judged by its own classifier, several by the fused one."
    return section("Every subset of the modalities, on test samples", table(["given", *(NAMES[key] for key in shown)], rows), note(remark))


def confusion(run: RunFiles) -> str:
    """Which classes are taken for which."""
    counts = run.confusion()
    if not counts:
        return ""
    names = run.facts["classes"] if run.facts else [str(place) for place in range(len(counts))]
    return section("Confusions of the fused model", matrix(names, counts), note("Test samples; shaded by the share of their true class."))


def per_client(run: RunFiles) -> str:
    """How it went for each client."""
    clients = run.result["per_client"] if run.result else {}
    if not clients:
        return ""
    colour = colours(run.modalities)
    accurate = [(name, value) for name, client in clients.items() if (value := score(client.get("metrics"), "fused")) is not None]
    parts = []
    if accurate:
        name = NAMES[judged_by(run.result["metrics"] if run.result else None)]
        parts.append(f"<h3>{escape(name)} on the client's own test samples</h3>")
        parts.append(bars([Bar(name, value, f"{value:.3f}", FUSED) for name, value in accurate[:MOST_CLIENTS]], 1.0))
    trained = [(name, client) for name, client in clients.items() if client.get("loss") is not None]
    if trained:
        parts.append("<h3>fused loss on its training samples, when it last took part</h3>")
        rows = []
        for name, client in trained[:MOST_CLIENTS]:
            loss, held = client.get("loss") or 0.0, client["modalities"]
            hue = FUSED if len(held) == len(run.modalities) else colour[held[0]] if len(held) == 1 else SEVERAL
            rows.append(Bar(name, loss, f"{loss:.2f}", hue))
        parts += [bars(rows), note("Blue: all modalities; pale: several; another colour: that one alone.")]
    more = max(len(accurate), len(trained)) - MOST_CLIENTS
    return section("Per client", *parts, note(f"{more} more clients not shown.") if more > 0 else "") if parts else ""


def failures(run: RunFiles) -> str:
    """Clients whose round did not count, and why."""
    told = [("warm start", failure) for failure in (run.warm_start.get("failures", []) if run.warm_start else [])]
    told += [(f"round {record['round']}", failure) for record in run.rounds for failure in record.get("failures", [])]
    # The last round's validation is that of the end as well: told once.
    known = [failure for _, failure in told]
    told += [("the end", failure) for failure in (run.result.get("failures", []) if run.result else []) if failure not in known]
    lines = [f"<li>{when}, {escape(failure['client'])}: {escape(failure['message'])}</li>" for when, failure in told]
    if not lines:
        return ""
    more = f"<li>{len(lines) - 20} more in rounds.jsonl</li>" if len(lines) > 20 else ""
    return section(f"{plural(len(lines), 'time')} a client could not do its part", f"<ul>{''.join(lines[:20])}{more}</ul>", kind="warn")


def notes(run: RunFiles) -> str:
    """What the data's readers noted: what was left out, shortened, drawn, or is lopsided."""
    told = run.facts.get("notes", []) if run.facts else []
    return section("Noted about the data", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in told)}</ul>") if told else ""


def next_steps(run: RunFiles) -> str:
    """What to try next, as commands."""
    return section("What to try next", *(f"<p>{escape(one.why)}</p><pre>{escape(one.command)}</pre>" for one in advice(run)))


def provenance(run: RunFiles) -> str:
    """How to get the same again."""
    again = escape(f"{program()} run {word(run.path / 'config.toml')}")
    parts = [f"<p>The same again, to the same bits on the same machine and build:</p><pre>{again}</pre>"]
    if run.result:
        versions = ", ".join(f"{name} {version}" for name, version in run.result["versions"].items())
        parts.append(f"<p class='quiet'><small>digest <code>{escape(run.result['digest'])}</code><br>{escape(versions)}</small></p>")
    parts.append(f"<details><summary>all settings</summary><pre>{escape(run.config.to_toml())}</pre></details>")
    return section("Do it again", *parts)
