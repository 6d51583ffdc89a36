"""The table of a study made up by hand: what is chosen, on what, and every figure of it."""

import itertools
import re

import pytest
import scipy.stats

from m2fedsa.comparing.page import html
from m2fedsa.comparing.rows import compare
from m2fedsa.comparing.tables import markdown, rising, still_rising, terminal
from m2fedsa.errors import ConfigError
from m2fedsa.reporting.charts import LETTER, WIDTH
from m2fedsa.reporting.scatter import GAP, Dot, front, scatter
from m2fedsa.reporting.units import size
from m2fedsa.tasks import task_of


def run(arm, seed, test, curve, candidate="", validation=None):
    """`curve`: (bytes, FLOPs, fused accuracy on validation samples) from round 0 on."""
    points = [
        {"round": number, "bytes": spent, "flops": work, "validation": {"fused": {"accuracy": value}}}
        for number, (spent, work, value) in enumerate(curve)
    ]
    last = curve[-1][2] if validation is None else validation
    return {
        "arm": arm, "candidate": candidate, "seed": seed, "directory": f"{arm}/{candidate + '/' if candidate else ''}seed-{seed}",
        "settings": "", "digest": "", "rounds": len(curve) - 1, "seconds": 1.0, "modalities": ["image"],
        "test": {"fused": {"accuracy": test, "loss": 1 - test}, "image": {"accuracy": test / 2}},
        "validation": {"fused": {"accuracy": last, "loss": 1 - last}},
        "curve": points, "versions": {},
    }  # fmt: skip


def stored(*outcomes, search=None, **more):
    arms = list(dict.fromkeys(one["arm"] for one in outcomes))
    seeds = sorted({one["seed"] for one in outcomes})
    return {
        "command": "m2fedsa compare toy",
        "target": "toy",
        "arms": arms,
        "search": search or {},
        "seeds": seeds,
        "outcomes": list(outcomes),
        **more,
    }


OURS = [(10, 1.0, 0.5), (20, 2.0, 0.6), (30, 3.0, 0.7)]
THEIRS = [(0, 0.0, 0.1), (25, 50.0, 0.65), (50, 100.0, 0.75)]
TWO = stored(
    run("ours", 3, 0.80, OURS), run("ours", 4, 0.70, OURS), run("ours", 5, 0.75, OURS),
    run("theirs", 5, 0.72, THEIRS), run("theirs", 3, 0.74, THEIRS), run("theirs", 4, 0.71, THEIRS),
)  # fmt: skip


def test_means_intervals_and_the_paired_test_are_scipys() -> None:
    ours, theirs = compare(TWO).rows
    pairs = ([0.74, 0.71, 0.72], [0.80, 0.70, 0.75])
    expected = scipy.stats.ttest_rel(*pairs)
    interval = expected.confidence_interval(0.95)
    assert ours.against is None
    assert theirs.against.p == pytest.approx(expected.pvalue)
    assert theirs.against.mean == pytest.approx(sum(pairs[0]) / 3 - sum(pairs[1]) / 3)
    assert theirs.against.mean + theirs.against.half == pytest.approx(interval.high)
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.75, scale=scipy.stats.sem(pairs[1]))
    assert ours.test["fused"] == pytest.approx((0.75, (high - low) / 2))
    assert ours.test["image"].mean == pytest.approx(0.375)


def test_budget_target_and_cost() -> None:
    ours, theirs = compare(TWO).rows
    assert ours.cost == (30, 3.0)
    assert theirs.cost == (50, 100.0)
    # Within thirty bytes the other has its first round; within three FLOPs none; in two rounds all.
    assert (ours.at_budget, theirs.at_budget) == pytest.approx((0.7, 0.65))
    assert compare(TWO, budget="flops").rows[1].at_budget == pytest.approx(0.1)
    assert compare(TWO, budget="rounds").rows[1].at_budget == pytest.approx(0.75)
    assert (ours.to_target, theirs.to_target) == (2, 2)
    assert [row.to_target for row in compare(TWO, target=0.6).rows] == [1, 1]
    assert [row.to_target for row in compare(TWO, target=0.72).rows] == [None, 2]


def test_validation_samples_choose_and_test_samples_do_not() -> None:
    """The candidate that is better on test samples is worse on validation samples."""
    found = stored(
        run("ours", 0, 0.60, OURS),
        run("theirs", 0, 0.99, [(1, 1.0, 0.3)], "rate=1"),
        run("theirs", 0, 0.50, [(1, 1.0, 0.4)], "rate=2"),
        run("theirs", 0, 0.90, [(1, 1.0, 0.2)], "rate=3"),
        search={"optimizer.rate": ["1", "2", "3"]},
    )
    row = compare(found).rows[1]
    assert (row.candidate, row.edge) == ("rate=2", False)
    assert row.test["fused"] == (0.50, None)
    # Of the loss the least is the best.
    assert compare(found, "loss").rows[1].candidate == "rate=2"
    found["outcomes"][3]["validation"]["fused"]["accuracy"] = 0.5
    row = compare(found).rows[1]
    assert (row.candidate, row.edge) == ("rate=3", True)
    assert "rate=3 (edge)" in markdown(compare(found))


def test_a_candidate_that_lost_a_seed_is_not_chosen() -> None:
    found = stored(
        run("ours", 0, 0.5, OURS, "rate=1"), run("ours", 1, 0.5, OURS, "rate=1"), run("ours", 1, 0.9, OURS, "rate=2", validation=0.99),
        search={"optimizer.rate": ["1", "2"]}, failed={"ours/rate=2/seed-0": "diverged"},
    )  # fmt: skip
    assert compare(found).rows[0].candidate == "rate=1"
    assert "ours/rate=2/seed-0: diverged" in markdown(compare(found))


def test_every_figure_leads_to_its_runs() -> None:
    text, page = markdown(compare(TWO)), html(compare(TWO))
    line = next(line for line in text.splitlines() if line.startswith("| [theirs]"))
    assert line.count("](theirs/seed-") == 3
    assert all("](theirs" in cell for cell in line.strip("| ").split(" | ") if cell != "–")
    assert size(50) in line
    for seed in (3, 4, 5):
        assert f'href="theirs/seed-{seed}/report.html"' in page
    assert "src=" not in page
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_terminal_gets_columns_that_fit() -> None:
    wide, narrow = terminal(compare(TWO), 300).splitlines(), terminal(compare(TWO), 60).splitlines()
    assert len({line.index("fused") for line in wide[2:3]}) == 1
    assert wide[2].endswith("rounds to target")
    assert all(line.startswith(name) for line, name in zip(wide[3:5], ("ours", "theirs"), strict=True))
    assert max(map(len, narrow)) <= 60
    assert narrow[3].split()[:4] == wide[3].split()[:4]
    assert "](" not in "".join(wide)


def test_names_of_a_picture_do_not_lie_on_each_other_nor_outside() -> None:
    dots = [Dot(f"method_{place}", 10 + place, 0.5, None, "#000") for place in range(5)] + [
        Dot("a_long_name_at_the_right", 100, 0.5, 0.9, "#000")
    ]
    found = re.findall(
        r'<text class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>([^<]*)<', scatter(dots, "bytes", "accuracy", size)
    )
    boxes = []
    for x, y, anchor, name in found:
        start = float(x) - (LETTER * len(name) if anchor == "end" else 0)
        boxes.append((start, start + LETTER * len(name), float(y)))
    assert len(boxes) == 6
    assert all(start >= 0 and end <= WIDTH for start, end, _ in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or abs(one[2] - other[2]) >= GAP


def test_who_still_learns_is_told() -> None:
    found = stored(run("ours", 0, 0.5, [(1, 1.0, 0.1 * step) for step in range(7)]), run("flat", 0, 0.5, [(1, 1.0, 0.5)] * 7))
    assert [still_rising(row) for row in compare(found).rows] == [True, False]
    assert "Not converged: ours gained" in markdown(compare(found))


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.1, 0.2, 0.3], False),
        ([0.90, 0.90, 0.93, 0.93], True),
        ([0.80, 0.90, 0.90, 0.90], False),
        ([0.50, 0.60, 0.70, 0.70, 0.70], False),
        ([0.50, 0.60, 0.70, 0.71, 0.73], True),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2], True),
        ([0.1, 0.3, 0.5, 0.7, 0.7, 0.7, 0.7], False),
    ],
)
def test_short_curves_rise_too(curve: list[float], expected: bool) -> None:
    assert rising(curve) is expected


def test_a_metric_that_nobody_has() -> None:
    with pytest.raises(ConfigError, match="no finished run has the metric 'mae'"):
        compare(TWO, "mae")


def test_the_front_is_what_nothing_beats_in_both() -> None:
    dots = [Dot(name, x, y, None, "#000") for name, x, y in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.7), ("d", 3, 0.6), ("e", 9, 0.71))]
    assert [dot.name for dot in front(dots)] == ["a", "c", "e"]
    assert scatter(dots, "bytes", "accuracy", size).count("<circle") == 5
    assert "Nothing was measured" in scatter([], "bytes", "accuracy", size)


def test_the_metric_of_a_task_is_its_own() -> None:
    """As the kinds of task say it themselves, unless the settings judge by another."""
    found = stored(run("ours", 0, 0.8, OURS))
    metrics = {"single_label": ("accuracy",), "multi_label": ("accuracy", "exact_match", "macro_f1"), "regression": ("r2", "mae")}
    for kind, known in metrics.items():
        found["outcomes"][0]["test"]["fused"] = dict.fromkeys(known, 0.5)
        assert compare(found).metric == task_of(kind, 3, ("image",)).metric
        assert compare({**found, "metric": known[-1]}).metric == known[-1]
