"""The first screen of a report: what was asked, what came out, against what."""

import math
from html import escape

from m2fedsa.reporting.cards import note, section
from m2fedsa.reporting.charts import FUSED, REFERENCE, Bar, bars, colours
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.summary import NAMES, best_single, compute, holdings, judged_by, samples, score, storage, trainers
from m2fedsa.reporting.units import duration, percent, plural, size


def interval(fraction: float, number: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a fraction of `number` samples."""
    z = 1.96
    middle = (fraction + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(fraction * (1 - fraction) / number + z * z / (4 * number * number))
    return middle - half, middle + half


def chance_difference(fraction: float, number: int) -> float:
    """The least difference between two fractions near this one, each of `number` samples, that is no chance at 95 %.

    Both runs may have the same samples: then their difference varies less, and this is on the safe side. At 0 and 1, where nothing would
    vary, one sample more or less is taken for the variance.
    """
    spread = max(fraction * (1 - fraction), (1 - 1 / number) / number)
    return 1.96 * math.sqrt(2 * spread / number)


def headline(run: RunFiles) -> str:
    """The one sentence above everything."""
    fused = score(run.result["metrics"], "fused") if run.result else None
    single = best_single(run.result["metrics"]) if run.result else None
    if fused is None:
        text = f"{run.config.name}: {len(run.rounds)} of {plural(run.config.federation.rounds, 'round')}, not finished"
    elif judged_by(run.result["metrics"] if run.result else None) != "accuracy":
        name = NAMES[judged_by(run.result["metrics"] if run.result else None)]
        text = f"{run.config.name}: {name} {fused:.3f}{f' together, {single[1]:.3f} {single[0]} alone' if single else ''}"
    elif single is None:
        text = f"{run.config.name}: {100 * fused:.1f} % right"
    else:
        text = f"{run.config.name}: together {100 * fused:.1f} % right, {single[0]} alone {100 * single[1]:.1f} %"
    began = f"seed {run.config.seed} · {run.path.name}"
    return f'<header><p class="kicker">m2fedsa · {escape(began)}</p><h1>{escape(text)}</h1></header>'


def asked(run: RunFiles) -> str:
    """What the run was asked to do."""
    config = run.config
    lines = []
    if run.facts:
        lines += [f"{holdings(run.facts)}", samples(run.facts)]
    else:
        lines.append(plural(config.data.clients, "client"))
    lines.append(f"{plural(len(config.modalities), 'frozen encoder')} that no client holds whole:")
    encoders = "".join(
        f"<li><small>{escape(name)}: {escape(modality.encoder)}, cut after block {modality.block}</small></li>"
        for name, modality in config.modalities.items()
    )
    federation = config.federation
    local = plural(federation.local_steps, "step") if federation.local_steps else plural(federation.local_epochs, "epoch")
    each = f", {federation.clients_per_round} clients each" if federation.clients_per_round else ""
    rounds = f"{plural(federation.rounds, 'round')}{each}, {local} a round, learning rate {config.optimizer.learning_rate:g}"
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return section("Asked", f"<ul>{items}{encoders}<li>{escape(rounds)}</li></ul>")


def came_out(run: RunFiles) -> str:
    """The result, how sure it is, and what it cost."""
    result = run.result
    if result is None:
        last = next((record for record in reversed(run.rounds) if record["metrics"]), None)
        value = score(last["metrics"], "fused") if last else None
        told = (
            f'<p class="big">{value:.3f}<small>on validation samples after round {last["round"]}</small></p>'
            if last and value is not None
            else ""
        )
        return section("So far", told, note("Not finished: figures on test samples come with the end of the run."))
    fused, number = score(result["metrics"], "fused"), run.tested()
    metric = judged_by(result["metrics"])
    text = f"{NAMES[metric]} on test samples"
    if fused is not None and number and metric == "accuracy":
        low, high = interval(fused, number)
        text = f"of {number:,} test samples right, 95 % interval {low:.3f} to {high:.3f}"
    lines = [f"{plural(result['rounds'], 'round')} in {duration(result['seconds'])}"]
    traffic = run.traffic()
    up, down = (sum(value for name, value in traffic.items() if name.endswith(way)) for way in ("up", "down"))
    lines.append(f"{size(up)} up and {size(down)} down, all clients together")
    if result["ledger"]:
        kept, work = storage(result["ledger"]), compute(result["ledger"], run.config, trainers(result))
        lines.append(f"a client keeps {size(kept.client)} of {size(kept.whole)} ({percent(kept.fraction)})")
        lines.append(f"and computes {percent(work.fraction)} of the work of training the whole")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines).replace(" %", "&nbsp;%")
    big = f'<p class="big">{fused:.3f}<small>{escape(text).replace(" %", "&nbsp;%")}</small></p>' if fused is not None else ""
    return section("Came out", big, f"<ul>{items}</ul>")


def against(run: RunFiles) -> str:
    """The result beside what it has to beat."""
    if run.result is None:
        return section("Against what", note("Comes with the end of the run."))
    metrics, closed = run.result["metrics"], run.result.get("closed_form")
    colour, metric = colours(run.modalities), judged_by(metrics)
    rows = []

    def add(name: str, value: float | None, hue: str, subset: str = "fused", strong: bool = False) -> None:
        if value is not None:
            number = run.tested(subset)
            low, high = interval(value, number) if number and metric == "accuracy" else (None, None)
            rows.append(Bar(name, value, f"{value:.3f}", hue, strong, low, high))

    add("fused", score(metrics, "fused"), FUSED, strong=True)
    add("linear head on frozen features", score(closed, "fused"), REFERENCE)
    for name in run.modalities:
        add(f"{name} alone", score(metrics, name), colour[name], name)
    number = run.tested()
    if run.facts and run.facts["classes"] and metric == "accuracy":
        chance = 1 / len(run.facts["classes"])
        rows.append(Bar("guessing", chance, f"{chance:.3f}", "#c5ccd5"))
    remark, fused = note(f"{NAMES[metric]}."), score(metrics, "fused")
    if number and fused is not None and metric == "accuracy":
        told = f"Below about {100 * chance_difference(fused, number):.1f} points a difference from fused may be chance."
        remark = note(f"Accuracy; the dark line is its 95 % interval. {told}")
    return section("Against what", bars(rows, 1.0), remark)
