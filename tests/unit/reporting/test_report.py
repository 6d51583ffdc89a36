import html.parser
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import scipy.stats
from tests.unit.reporting import invented

from m2fedsa.config import Config
from m2fedsa.errors import RunDirectoryError
from m2fedsa.reporting.advice import advice
from m2fedsa.reporting.charts import Bar, Series, bars, curves, matrix, ticks
from m2fedsa.reporting.comparison import estimate, groups
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.first_screen import chance_difference, interval
from m2fedsa.reporting.report import write_report
from m2fedsa.reporting.run_directory import RunDirectory


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects text and the addresses that a browser would load."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.addresses, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(directories, **options):
    text = write_report(directories, **options).read_text()
    shown = Page(text)
    assert shown.addresses == []
    assert not {"script", "link", "img", "iframe", "object"} & set(shown.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    return shown


def test_first_screen_says_what_was_asked_what_came_out_against_what(tmp_path):
    text = page([invented.write(tmp_path / "run")]).text
    beginning = text[: text.index("Training loss")]
    for words in (
        "digits: together 83.2 % right, audio alone 62.1 %",
        "10 clients with image+audio+text, 10 with one or two",
        "3 frozen encoders that no client holds whole",
        "0.832",
        "of 600 test samples right",
        "linear head on frozen features 0.815",
        "audio alone 0.621",
        "guessing 0.100",
    ):
        assert words in beginning
    assert "a client keeps 147 kB of 2.01 MB (7.3 %)" in beginning
    assert "251 MB up and 249 MB down" in beginning  # 20 × 12.4 + 3.1, 20 × 12.4 + 0.9


def test_the_rest_is_there(tmp_path):
    failure = {"client": "client-03", "kind": "DivergedError", "message": "loss of <image> is nan"}
    shown = page([invented.write(tmp_path / "run", failures=[failure])])
    for words in (
        "Who holds what",
        "client-19",
        "Confusions",
        "Per client",
        "What it costs",
        "What to try next",
        "image + audio",
        "9f9f9f",
        "warm start",
    ):
        assert words in shown.text
    assert "round 3, client-03: loss of <image> is nan" in shown.text
    assert "transfer begins" in shown.text


def test_who_could_not_evaluate_at_the_end_is_told_once(tmp_path):
    path = invented.write(tmp_path / "run", invented.config(rounds=3), failures=[{"client": "a", "kind": "K", "message": "validation"}])
    record = {**invented.result(3), "failures": [{"client": name, "kind": "K", "message": name} for name in ("validation", "test")]}
    record["failures"][0]["client"] = "a"
    (path / "result.json").write_text(json.dumps(record))
    shown = page([path]).text
    assert "2 times a client could not do its part" in shown
    assert "round 3, a: validation" in shown
    assert "the end, test: test" in shown
    assert "the end, a" not in shown


def test_the_report_stands_beside_the_run_and_finish_writes_it(tmp_path):
    path = invented.write(tmp_path / "run")
    assert (path / "report.html").exists()
    assert write_report([path]) == path / "report.html"
    assert write_report([path], tmp_path / "other.html") == tmp_path / "other.html"


def test_a_run_that_is_not_finished_has_a_report(tmp_path):
    text = page([invented.write(tmp_path / "run", finished=False)]).text
    assert "10 of 20 rounds, not finished" in text
    assert f"m2fedsa run --resume {tmp_path / 'run'}" in text


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path):
    directory = RunDirectory.create(invented.config(), tmp_path / "run")
    directory.begin(invented.facts())
    assert "Nothing was measured" in page([tmp_path / "run"]).text


def test_files_that_tell_the_least(tmp_path):
    """One modality, no warm start, no validation, nothing that may be missing."""
    settings = Config.from_mapping({"modalities": {"text": {"encoder": "x"}}, "federation": {"rounds": 1}})
    directory = RunDirectory.create(settings, tmp_path / "run")
    clients = {"a": {"modalities": ["text"], "train": 3, "labelled": 3}}
    directory.begin({"modalities": ["text"], "classes": ["no", "yes"], "clients": clients})
    record = {"round": 1, "phase": "fusion", "clients": ["a"], "loss": {"text": None, "fused": None}, "bytes": {"up": 1, "down": 1}}
    directory.append({**record, "seconds": 0.1, "metrics": None})
    scores = {"accuracy": 0.5, "uar": None, "macro_f1": None, "auc": None}
    result = {"metrics": {"fused": scores}, "validation": None, "per_client": {}, "ledger": {}, "digest": "ab", "rounds": 1, "seconds": 0.1}
    directory.finish({**result, "versions": {}})
    assert "50.0 % right" in page([tmp_path / "run"]).text


def test_names_are_escaped(tmp_path):
    settings = invented.config(name="<script>alert(1)<script>")
    text = page([invented.write(tmp_path / "run", settings)]).text
    assert "<script>alert(1)<script>:" in text


def test_large_federations_stay_readable(tmp_path):
    directory = RunDirectory.create(invented.config(), tmp_path / "run")
    directory.begin(invented.facts(clients=500))
    shown = page([tmp_path / "run"])
    assert "301 more clients not shown" in shown.text


def test_several_runs(tmp_path):
    runs = [invented.write(tmp_path / f"a{seed}", invented.config(seed=seed), fused=0.80 + 0.01 * seed) for seed in range(3)]
    cold = invented.config(federation={"rounds": 20, "warm_start": False})
    runs.append(invented.write(tmp_path / "cold", cold, fused=0.7))
    target = write_report(runs)
    assert target == tmp_path / "report.html"
    text = page(runs).text
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.81, scale=scipy.stats.sem([0.80, 0.81, 0.82]))
    assert f"0.810 ± {(high - low) / 2:.3f}" in text
    assert "warm_start=true" in text
    assert "warm_start=false" in text
    assert "0.700" in text


def test_several_runs_of_different_recipes(tmp_path):
    runs = [invented.write(tmp_path / name, invented.config(name=name)) for name in ("digits", "match")]
    assert [group.name for group in groups([RunFiles.read(run) for run in runs])] == ["digits", "match"]


def test_the_same_directory_twice_is_one_run(tmp_path):
    path = invented.write(tmp_path / "run")
    assert write_report([path, path]) == path / "report.html"


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunDirectoryError, match="no such directory"):
        write_report([tmp_path / "nothing"])


def test_interval_is_wilsons():
    expected = scipy.stats.binomtest(480, 600).proportion_ci(0.95, method="wilson")
    assert interval(0.8, 600) == pytest.approx((expected.low, expected.high), abs=1e-5)


@pytest.mark.parametrize(("fraction", "number"), [(0.5, 100), (0.74, 600), (0.9, 1200)])
def test_a_difference_that_may_be_chance(fraction, number):
    """Two accuracies of this size are binomial: the spread of their difference, times the normal's quantile."""
    variance = 2 * scipy.stats.binom(number, fraction).var() / number**2
    expected = scipy.stats.norm.ppf(0.975) * math.sqrt(variance)
    assert chance_difference(fraction, number) == pytest.approx(expected, rel=1e-4)


def test_a_difference_of_one_sample_is_chance_even_where_all_are_right():
    for fraction in (0.0, 1.0):
        assert 1 / 50 < chance_difference(fraction, 50) < 0.1


def test_the_page_tells_the_bound_of_its_own_accuracy(tmp_path):
    path = invented.write(tmp_path / "run", fused=0.9)
    run = RunFiles.read(path)
    bound = 196 * math.sqrt(2 * 0.9 * 0.1 / run.tested())
    assert f"Below about {bound:.1f} points a difference from fused may be chance." in page([path]).text


@pytest.mark.parametrize("number", [2, 5, 20])
def test_estimate_is_students(number):
    values = [0.5 + 0.01 * place**1.5 for place in range(number)]
    low, high = scipy.stats.t.interval(0.95, number - 1, loc=sum(values) / number, scale=scipy.stats.sem(values))
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / number)
    assert found.half == pytest.approx((high - low) / 2, rel=1e-3)


def test_ticks_are_round_and_span():
    for low, high in ((0.41, 0.83), (0, 20), (1, 300), (0.5, 0.5), (1e-4, 3e-4)):
        places = ticks(low, high)
        assert places[0] <= low
        assert places[-1] >= high
        assert len(places) <= 12
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]


def test_curves_rise_where_values_rise():
    text = curves([Series("fused", [(0, 0.0), (5, None), (10, 1.0)], "#000")], "round", "accuracy")
    (left, low), (right, high) = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', text).group(1).split()]
    assert left < right
    assert high < low  # the y axis of SVG points down
    assert "fused, round 10: 1.000" in text


def test_names_at_the_ends_of_curves_do_not_overlap():
    text = curves([Series(f"m{place}", [(0, 0.5), (1, 0.5 + 0.001 * place)], "#000") for place in range(6)], "round", "accuracy")
    heights = sorted(float(found) for found in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', text))
    assert all(upper - lower >= 13.9 for lower, upper in itertools.pairwise(heights))


def test_bars_share_one_scale():
    text = bars([Bar("a", 0.5, "0.5"), Bar("b", 0.25, "0.25")], 1.0)
    assert re.findall(r'<i style="width:([\d.]+)%', text) == ["50.00", "25.00"]


def test_matrix_shades_by_row():
    text = matrix(["no", "yes"], [[3.0, 1.0], [0.0, 8.0]])
    strengths = [float(found) for found in re.findall(r"rgba\([\d,]+,([\d.]+)\)", text)]
    assert strengths == pytest.approx([0.88 * 0.75, 0.88 * 0.25, 0, 0.88], abs=0.006)


def commands(path):
    return [one.command for one in advice(RunFiles.read(path))]


def test_advice_follows_from_what_happened(tmp_path):
    flat = commands(invented.write(tmp_path / "flat"))
    assert any("federation.rounds=" in command for command in flat)
    assert any("seed=1" in command for command in flat)
    few = commands(invented.write(tmp_path / "few", invented.config(name="few_labels", data={"labelled_fraction": 0.1})))
    # Both kinds of transfer: that in training, and the soft labels of the warm start.
    assert any("transfer.start=never" in command and "transfer.closed_form=false" in command for command in few)
    poor = commands(invented.write(tmp_path / "poor", fused=0.6))
    assert any("federation.rounds=0" in command for command in poor)
    assert any("optimizer.fusion_factor" in command for command in poor)


def test_training_that_loses_what_the_warm_start_had_should_learn_more_slowly(tmp_path):
    """Not longer, and fusion not faster."""
    path = invented.write(tmp_path / "lost", finished=False, settings=invented.config(optimizer={"learning_rate": 0.003}))
    with (path / "rounds.jsonl").open("a") as file:
        for number in range(11, 21):
            file.write(json.dumps({**invented.record(number), "metrics": invented.metrics(0.3 + number / 100, 0.4, 0.6, 0.4)}) + "\n")
    (path / "result.json").write_text(json.dumps(invented.result(fused=0.5)))
    found = commands(path)
    assert "--set optimizer.learning_rate=0.0003" in found[0]
    assert not any("federation.rounds=40" in command or "fusion_factor" in command for command in found)


def test_advised_settings_exist(tmp_path):
    """Every command that is advised sets what the settings know."""
    for number, settings in enumerate((invented.config(), invented.config(data={"labelled_fraction": 0.1}))):
        for command in commands(invented.write(tmp_path / str(number), settings, fused=0.6)):
            found = re.findall(r"--set (\S+)", command)
            settings.override(found)
            assert re.match(r"m2fedsa run \S+|cp \S+ mine\.toml", command)


def test_wilson_half_width_of_a_fair_coin():
    low, high = interval(0.5, 100)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 100) / math.sqrt(1 + 1.96**2 / 100), rel=1e-9)


def test_template_is_shipped():
    import m2fedsa.reporting

    assert (Path(m2fedsa.reporting.__file__).parent / "report.html").exists()
