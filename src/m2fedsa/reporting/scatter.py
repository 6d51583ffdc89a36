"""Points on two axes, of which the lower one is logarithmic: what is reached over what it costs, with the line of the best trades."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from m2fedsa.reporting.charts import BOTTOM, HEIGHT, LEFT, LETTER, RIGHT, TOP, WIDTH, ticks

GAP = 12.0
LEAST_HALF = 0.02
"""Of what the y axis spans around the middle, so that noise does not look like a mountain."""


class Dot(NamedTuple):
    """A point with its name; `half` is half the height of its interval."""

    name: str
    x: float
    y: float
    half: float | None
    colour: str


def front(dots: Sequence[Dot]) -> list[Dot]:
    """The dots that no other one beats in both, from cheap to dear."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        if not best or dot.y > best[-1].y:
            best.append(dot)
    return best


def scatter(dots: Sequence[Dot], x_name: str, y_name: str, told: Callable[[float], str]) -> str:
    """`told` says a place on the x axis in words. A dot that costs nothing stands at the left edge."""
    if not dots:
        return '<p class="quiet">Nothing was measured.</p>'
    # By the points: intervals of few seeds can be wider than all that sets methods apart, and are cut off at the picture's edge.
    least, most = min(dot.y for dot in dots), max(dot.y for dot in dots)
    spare = max(0.15 * (most - least), LEAST_HALF)
    y_ticks = ticks(least - spare, most + spare)
    costs = [dot.x for dot in dots if dot.x > 0] or [1.0]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)) + 1e-9)
    high = max(high, low + 1)

    def across(x: float) -> float:
        share = 0.0 if x <= 0 else (math.log10(x) - low) / (high - low)
        return LEFT + 8 + share * (WIDTH - LEFT - RIGHT - 8)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1) * (HEIGHT - TOP - BOTTOM)

    shapes = []
    for value in y_ticks:
        shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        shapes.append(f'<text class="tick" x="{LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for power in range(low, high + 1, max(1, (high - low) // 4)):
        x = across(10.0**power)
        shapes.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(told(10.0**power))}</text>')
    shapes.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>')
    line = " ".join(f"{across(dot.x):.1f},{up(dot.y):.1f}" for dot in front(dots))
    shapes.append(f'<polyline points="{line}" fill="none" stroke="#9aa4b1" stroke-width="1.2" stroke-dasharray="4 3"/>')
    shapes += _dots(dots, across, up, told)
    label = escape(f"{y_name} over {x_name}: {', '.join(dot.name for dot in dots)}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'


def _dots(dots: Sequence[Dot], across: Callable[[float], float], up: Callable[[float], float], told: Callable[[float], str]) -> list[str]:
    shapes: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for dot in sorted(dots, key=lambda dot: -dot.y):
        x, y = across(dot.x), up(dot.y)
        if dot.half:
            low, high = min(up(dot.y - dot.half), HEIGHT - BOTTOM), max(up(dot.y + dot.half), TOP)
            shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}" stroke="{dot.colour}" stroke-opacity=".3"/>')
        title = f"{escape(dot.name)}: {dot.y:.3f}{'' if dot.half is None else f' ± {dot.half:.3f}'} at {escape(told(dot.x))}"
        shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{dot.colour}"><title>{title}</title></circle>')
        # A name moves down until no other one lies where it would.
        place, width = y + 4, LETTER * len(dot.name)
        start = x + 7 if x + 7 + width < WIDTH else x - 7 - width
        while any(abs(place - other) < GAP and start < end and begin < start + width for begin, end, other in taken):
            place += 2
        taken.append((start, start + width, place))
        anchor = "start" if start > x else "end"
        beside = x + 7 if start > x else x - 7
        shapes.append(
            f'<text class="name" x="{beside:.1f}" y="{place:.1f}" text-anchor="{anchor}" fill="{dot.colour}">{escape(dot.name)}</text>'
        )
    return shapes
