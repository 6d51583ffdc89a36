"""Points on two axes, of which the lower one is logarithmic: what is reached over what it costs, with the line of the best trades."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from m2fedsa.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks

GAP = 12.0


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
    spans = [(dot.y - (dot.half or 0), dot.y + (dot.half or 0)) for dot in dots]
    y_ticks = ticks(min(low for low, _ in spans), max(high for _, high in spans))
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
    taken: list[tuple[float, float]] = []
    for dot in sorted(dots, key=lambda dot: -dot.y):
        x, y = across(dot.x), up(dot.y)
        if dot.half:
            shapes.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(dot.y - dot.half):.1f}" y2="{up(dot.y + dot.half):.1f}" '
                f'stroke="{dot.colour}" stroke-opacity=".45"/>'
            )
        title = f"{escape(dot.name)}: {dot.y:.3f} at {escape(told(dot.x))}"
        shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{dot.colour}"><title>{title}</title></circle>')
        # A name moves down until no other one lies where it would.
        place = y + 4
        while any(abs(place - other) < GAP and abs(x - at) < 90 for at, other in taken):
            place += 2
        taken.append((x, place))
        shapes.append(f'<text class="name" x="{x + 7:.1f}" y="{place:.1f}" fill="{dot.colour}" font-size="10">{escape(dot.name)}</text>')
    return shapes
