"""A comparison as an HTML page that needs no network."""

from html import escape

from m2fedsa.comparing.rows import Comparison
from m2fedsa.comparing.tables import cells, heads, remarks
from m2fedsa.reporting.cards import note, row, section
from m2fedsa.reporting.charts import FUSED, PALETTE, Bar, Series, bars, curves
from m2fedsa.reporting.report import page
from m2fedsa.reporting.scatter import Dot, scatter
from m2fedsa.reporting.units import operations, plural, size

COLOURS = (FUSED, *PALETTE)


def html(found: Comparison) -> str:
    """The whole page."""
    number = len(found.stored["seeds"])
    title = f"{found.stored['target']}: {plural(len(found.rows), 'method')}, {plural(number, 'seed')}"
    body = [
        f'<header><p class="kicker">m2fedsa · compare</p><h1>{escape(title)}</h1></header>',
        row(_bars(found), _curves(found), kind="two"),
        row(_scatter(found, 0), _scatter(found, 1), kind="two"),
        _table(found),
        section("Again", f"<pre>{escape(found.stored['command'])}</pre>"),
    ]
    return page(title, body)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _bars(found: Comparison) -> str:
    rows = []
    for place, one in enumerate(found.rows):
        fused = one.test.get("fused")
        if fused is not None:
            low, high = (fused.mean - fused.half, fused.mean + fused.half) if fused.half is not None else (None, None)
            rows.append(Bar(one.arm, fused.mean, str(fused), _colour(place), place == 0, low, high))
    full = 1.0 if all(one.value <= 1 for one in rows) else None
    return section(f"Fused {found.metric} on test samples", bars(rows, full), note("Mean over seeds; the dark line is its 95 % interval."))


def _curves(found: Comparison) -> str:
    series = [
        Series(one.arm, [(float(point[0]), point[3]) for point in one.curve], _colour(place), wide=place == 0)
        for place, one in enumerate(found.rows)
    ]
    remark = "On validation samples, mean over seeds; 0 is the warm start."
    return section(f"Fused {found.metric} over the rounds", curves(series, "round", found.metric), note(remark))


def _scatter(found: Comparison, which: int) -> str:
    name, told = (("bytes, all clients", size), ("FLOPs, all clients", operations))[which]
    dots = []
    for place, one in enumerate(found.rows):
        fused = one.test.get("fused")
        if fused is not None:
            dots.append(Dot(one.arm, one.cost[which], fused.mean, fused.half, _colour(place)))
    remark = "Up and to the left is better; the dashed line joins those that no other beats in both. Upright lines: 95 % intervals."
    return section(f"Fused {found.metric} against {name.partition(',')[0]}", scatter(dots, name, found.metric, told), note(remark))


def _table(found: Comparison) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads(found))

    def link(text: str, place: str) -> str:
        to = f"{place}/report.html" if place.rpartition("/")[2].startswith("seed-") else place
        return f'<a href="{escape(to)}">{escape(text)}</a>' if text != "–" else text

    lines = []
    for one in found.rows:
        first, *others = cells(found, one, link)
        lines.append(f"<tr><td>{first}</td>{''.join(f'<td class=figure>{cell}</td>' for cell in others)}</tr>")
    body = f'<div class="scroll"><table class="compact"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return section("All figures", body, *(note(text.replace("`", "")) for text in remarks(found)))
