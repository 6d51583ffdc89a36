"""Pictures of the report as inline SVG and HTML: no script, no network, readable on a phone. All text is escaped here."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

FUSED = "#1d4ed8"
"""The fused model; the modalities follow in the order of `PALETTE`."""
PALETTE = ("#d97706", "#0f9488", "#9333ea", "#be123c", "#4d7c0f", "#0369a1", "#a16207", "#525252")
REFERENCE = "#6b7280"

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 34, 96, 12, 36
LETTER = 7.2
"""Width of a letter of a name, about."""

Place = Callable[[float, float], tuple[float, float]]
"""From the values of a point to its place in the picture."""


class Series(NamedTuple):
    """One curve; a point without a value is left out."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: str
    dashed: bool = False
    wide: bool = False


class Bar(NamedTuple):
    """One bar, `value` in the scale that all bars of a picture share; `text` stands at its end."""

    name: str
    value: float
    text: str
    colour: str = REFERENCE
    strong: bool = False
    low: float | None = None
    high: float | None = None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span the range."""
    span = max(high - low, 1e-9)
    magnitude = 10.0 ** math.floor(math.log10(span / about))
    step = min((factor * magnitude for factor in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(span / candidate - about))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def curves(series: Sequence[Series], x_name: str, y_name: str, vertical: tuple[float, str] | None = None) -> str:
    """Lines over rounds, each named at its end. `vertical`: a place on the x axis with its name."""
    drawn = [(one, [(x, y) for x, y in one.points if y is not None]) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return '<p class="quiet">Nothing was measured.</p>'
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    y_ticks = ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    # Names stand at the right, with their values.
    right = max(RIGHT, 8 + LETTER * max(len(one.name) + 5 for one, _ in drawn))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - right)
        return across, HEIGHT - BOTTOM - (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1) * (HEIGHT - TOP - BOTTOM)

    shapes = [*_axes(y_ticks, [x for x in ticks(x_low, x_high) if x_low <= x <= x_high and x == int(x)], at, x_name, right)]
    if vertical is not None and x_low <= vertical[0] <= x_high:
        x, _ = at(vertical[0], y_ticks[0])
        shapes.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        shapes.append(f'<text class="tick" x="{x + 4:.1f}" y="{TOP + 8}">{escape(vertical[1])}</text>')
    ends = []
    for one, points in drawn:
        places = [at(x, y) for x, y in points]
        shapes.append(_curve(one, places))
        for (x, y), (number, value) in zip(places, points, strict=True):
            told = f"{escape(one.name)}, {x_name} {number:g}: {value:.3f}"
            shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="transparent"><title>{told}</title></circle>')
        ends.append((places[-1][1], one, points[-1][1]))
    shapes += _names(ends, right)
    label = escape(f"{y_name} over {x_name}s: {', '.join(one.name for one, _ in drawn)}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'


def _axes(y_ticks: Sequence[float], x_ticks: Sequence[float], at: Place, x_name: str, right: float) -> list[str]:
    shapes = []
    for value in y_ticks:
        _, y = at(x_ticks[0] if x_ticks else 0, value)
        shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        x, _ = at(value, y_ticks[0])
        shapes.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    shapes.append(f'<text class="tick" x="{(LEFT + WIDTH - right) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    return shapes


def _curve(one: Series, places: Sequence[tuple[float, float]]) -> str:
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    width = 2.6 if one.wide else 1.6
    if len(places) == 1:
        return f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" fill="{one.colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{one.colour}" stroke-width="{width}" stroke-linejoin="round"{dash}/>'


def _names(ends: Sequence[tuple[float, Series, float]], right: float, gap: float = 14) -> list[str]:
    """Names at the ends of the curves, moved apart where they would overlap."""
    order = sorted(ends, key=lambda end: end[0])
    places: list[float] = []
    for y, _, _ in order:
        places.append(max(y, places[-1] + gap) if places else y)
    overflow = max(0.0, places[-1] - (HEIGHT - BOTTOM)) if places else 0.0
    for index in range(len(places) - 1, -1, -1):
        limit = places[index + 1] - gap if index + 1 < len(places) else places[index] - overflow
        places[index] = min(places[index], limit)
    return [
        f'<text class="name" x="{WIDTH - right + 6:.1f}" y="{place + 4:.1f}" fill="{one.colour}">{escape(one.name)} {value:.2f}</text>'
        for place, (_, one, value) in zip(places, order, strict=True)
    ]


def bars(rows: Sequence[Bar], full: float | None = None) -> str:
    """Horizontal bars with their names before and their values behind them; `low` to `high` is drawn as an interval."""
    if not rows:
        return '<p class="quiet">Nothing was measured.</p>'
    full = full or max(row.value for row in rows) or 1.0
    lines = []
    for row in rows:
        width = min(100.0, 100 * max(row.value, 0.0) / full)
        interval = ""
        if row.low is not None and row.high is not None:
            left, right = 100 * row.low / full, min(100.0, 100 * row.high / full)
            interval = f'<i class="interval" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        name = f"<b>{escape(row.name)}</b>" if row.strong else escape(row.name)
        drawn = f'<i style="width:{width:.2f}%;background:{row.colour}"></i>{interval}'
        lines.append(f'<div class="bar"><span>{name}</span><span class="track">{drawn}</span><span>{escape(row.text)}</span></div>')
    return f'<div class="bars">{"".join(lines)}</div>'


def shares(rows: Sequence[tuple[str, Sequence[tuple[str, float, str, str]]]], full: float | None = None) -> str:
    """Stacked bars: (name, parts of (what, value, text, colour)); a picture shares one scale unless each row is its own whole."""
    lines = []
    for name, parts in rows:
        whole = full or sum(value for _, value, _, _ in parts) or 1.0
        pieces = "".join(
            f'<i style="width:{100 * value / whole:.2f}%;background:{colour}" title="{escape(what)}: {escape(text)}"></i>'
            for what, value, text, colour in parts
        )
        told = " · ".join(f'<em style="color:{colour}">{escape(what)}</em> {escape(text)}' for what, _, text, colour in parts)
        lines.append(f'<div class="share"><b>{escape(name)}</b><span class="track">{pieces}</span><small>{told}</small></div>')
    return f'<div class="shares">{"".join(lines)}</div>'


def cell(value: float, full: float, text: str, hue: str = "37,99,235", classes: str = "") -> str:
    """A table cell whose colour grows with its value."""
    strength = 0.0 if full <= 0 else min(1.0, max(0.0, value / full))
    ink = "#fff" if strength > 0.6 else "inherit"
    return f'<td class="cell {classes}" style="background:rgba({hue},{0.88 * strength:.2f});color:{ink}">{escape(text)}</td>'


def matrix(classes: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """A confusion matrix: rows are true classes, shaded by the share of their row."""
    short = [name if len(name) <= 12 else f"{name[:11]}…" for name in classes]
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in short)
    body = []
    for place, (name, row) in enumerate(zip(short, counts, strict=True)):
        total = sum(row)
        cells = "".join(
            cell(value, total, f"{value:g}" if value else "", "22,101,52" if place == column else "185,28,28")
            for column, value in enumerate(row)
        )
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="cells"><thead><tr><th class="corner">true ↓ predicted →</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of text; the first `left` columns are flush left, the others are figures."""

    def line(tag: str, values: Sequence[str]) -> str:
        kinds = ["" if place < left else ' class="figure"' for place in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"


def colours(names: Sequence[str]) -> Mapping[str, str]:
    """A colour per modality, and that of the fused model."""
    return {"fused": FUSED, **{name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}}
