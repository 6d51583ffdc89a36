"""A comparison as a Markdown table, and the sentences that stand below it and on the page."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise

from m2fedsa.comparing.rows import Comparison, Row
from m2fedsa.reporting.units import listing, operations, plural, size
from m2fedsa.statistics import Estimate

NAMES = {"bytes": "bytes", "flops": "FLOPs", "rounds": "rounds"}
Link = Callable[[str, str], str]
"""From the words of a cell and a directory below the study's to the cell as a link."""


def heads(found: Comparison) -> list[str]:
    """Of the columns."""
    first = found.rows[0].arm
    searched = ["chosen"] if found.stored["search"] else []
    return [
        "method", *searched, "runs", *found.subsets, f"fused − {first}", "p", "bytes", "client FLOPs",
        f"at equal {NAMES[found.budget]}", "rounds to target",
    ]  # fmt: skip


def cells(found: Comparison, row: Row, link: Link) -> list[str]:
    """Of one row; every figure leads to a run that it comes from."""
    place = row.runs[0]["directory"]
    spent, work = row.cost
    above = place.rpartition("/")[0]
    against = "–" if row.against is None else row.against.points
    p = "–" if row.against is None or row.against.p is None else f"{row.against.p:.3f}" if row.against.p >= 0.001 else "< 0.001"
    seeds = ", ".join(link(str(run["seed"]), run["directory"]) for run in row.runs)
    searched = [f"{row.candidate or 'the same'}{' (edge)' if row.edge else ''}"] if found.stored["search"] else []
    told = [
        *(_shown(row.test.get(name)) for name in found.subsets),
        against,
        p,
        size(spent),
        operations(work),
        "–" if row.at_budget is None else f"{row.at_budget:.3f}",
        "–" if row.to_target is None else str(row.to_target),
    ]
    return [link(row.arm, above), *searched, seeds, *(link(text, place if len(row.runs) == 1 else above) for text in told)]


def _shown(value: Estimate | None) -> str:
    return "–" if value is None else str(value)


def terminal(found: Comparison, width: int) -> str:
    """Columns one below the other, and remarks broken at `width`; what there is no room for stands in the file."""
    table = [heads(found), *(cells(found, row, lambda text, _: text) for row in found.rows)]
    table = [[cell for place, cell in enumerate(line) if table[0][place] != "runs"] for line in table]
    while len(table[0]) > LEAST_COLUMNS and sum(_widths(table)) + 2 * len(table[0]) > width:
        table = [line[:-1] for line in table]
    lines = []
    for line in table:
        pieces = [
            cell.ljust(wide) if place == 0 else cell.rjust(wide)
            for place, (cell, wide) in enumerate(zip(line, _widths(table), strict=True))
        ]
        lines.append("  ".join(pieces).rstrip())
    told = [textwrap.fill(text, width) for text in remarks(found)]
    return "\n".join([f"{found.stored['target']}: {found.metric}", "", *lines, "", *told])


LEAST_COLUMNS = 4
"""Name, fused and two more are told however narrow a terminal is."""


def _widths(table: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def markdown(found: Comparison) -> str:
    """Title, table, remarks. Every cell leads to the runs that it comes from, from the study's directory."""
    lines = [f"## {found.stored['target']}: {found.metric} of {listing([row.arm for row in found.rows])}", ""]
    head = heads(found)
    lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]

    def link(text: str, place: str) -> str:
        return f"[{text}]({place.replace(' ', '%20')})" if text != "–" else text

    lines += [f"| {' | '.join(cells(found, row, link))} |" for row in found.rows]
    return "\n".join([*lines, "", *remarks(found), "", f"    {found.stored['command']}", ""])


def remarks(found: Comparison) -> list[str]:
    """What a reader has to know to read the table."""
    seeds = found.stored["seeds"]
    told = (
        f"{plural(len(seeds), 'seed')} ({seeds[0]} to {seeds[-1]}), the same for every method. The figures are {found.metric} on test "
        "samples, mean ± half of the 95 % interval (Student); differences in points, p of the paired t-test against the first row, not "
        "corrected for the number of rows. Bytes are all that clients send and receive, FLOPs all that they compute; evaluation is in "
        "neither."
    )
    words = [told]
    search = found.stored["search"]
    if search:
        tried = " and ".join(f"{key} in {', '.join(values)}" for key, values in search.items())
        words.append(
            f"Every method was searched over {tried}; what counts was chosen by the mean over seeds on validation samples. `edge`: the "
            "chosen value is the least or the largest that was tried, and others beyond may do better."
        )
    else:
        words.append(
            "No search: every method ran with the rates and rounds of the settings, which may have been chosen for one of them. "
            "`--search optimizer.learning_rate=...` searches for all alike."
        )
    words.append(
        f"At equal {NAMES[found.budget]}: {found.metric} on validation samples of the last round for which a method had spent no more than "
        f"{found.rows[0].arm} in its whole run."
    )
    if found.target is not None:
        words.append(f"Target: {found.target:.3f} on validation samples, fused, mean over seeds; 0 is the warm start.")
    rising = [row.arm for row in found.rows if still_rising(row)]
    if rising:
        words.append(f"Not converged: {listing(rising)} gained a point or more in the last third of the rounds. Give more of them.")
    failed = found.stored.get("failed", {})
    words += [f"No result: {place}: {why.partition(chr(10))[0]}" for place, why in failed.items()]
    return words


def still_rising(row: Row) -> bool:
    """Whether the fused metric rises at the end; see `rising`."""
    return rising([point[3] for point in row.curve])


def rising(values: Sequence[float]) -> bool:
    """Whether values rose by a hundredth or more over their last third, smoothed over two of them; not if they are fewer than four."""
    if len(values) < 4:
        return False
    smooth = [(one + other) / 2 for one, other in pairwise(values)]
    return smooth[-1] - smooth[-1 - round(len(smooth) / 3)] >= 0.01
