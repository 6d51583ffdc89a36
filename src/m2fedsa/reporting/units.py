"""Numbers as people read them."""

import math


def size(count: float) -> str:
    """Bytes in decimal units, three digits: `12.4 MB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def operations(count: float) -> str:
    """Floating-point operations: `1.25 GFLOP`."""
    return _scaled(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _scaled(count: float, names: tuple[str, ...]) -> str:
    place = 0
    while abs(count) >= 999.5 and place < len(names) - 1:
        count /= 1000
        place += 1
    if place == 0:
        return f"{count:.0f} {names[0]}"
    digits = 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {names[place]}"


def duration(seconds: float) -> str:
    """`2.1 s`, `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(fraction: float) -> str:
    """`6 %`, below one per cent with two significant digits: `0.11 %`."""
    value = 100 * fraction
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    if value >= 0.995:
        return f"{value:.1f} %".replace(".0 %", " %")
    return f"{value:.2g} %"


def count(number: int) -> str:
    """`1,500`."""
    return f"{number:,}"


def spread(mean: float, deviation: float) -> str:
    """`20,690 ± 3,100`, `6.2 ± 3.6`: the deviation to two digits, the mean to the same place."""
    largest = abs(deviation) or abs(mean)
    decimals = max(0, 1 - math.floor(math.log10(largest))) if largest else 0
    place = max(0, math.floor(math.log10(largest)) - 1) if largest else 0
    told = (f"{round(value, -place) if place else value:,.{decimals}f}" for value in (mean, deviation))
    return " ± ".join(told)


def plural(number: int, singular: str, many: str | None = None) -> str:
    """`1 client`, `20 clients`."""
    return f"{count(number)} {singular if number == 1 else many or singular + 's'}"


def listing(words: list[str]) -> str:
    """`image, audio and text`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
