"""`m2fedsa compare` and `m2fedsa sweep` from end to end, on runs of a second."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import scipy.stats
from tests.integration import small

from m2fedsa.config import Config


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    tables = small.tables(small.save_encoders(folder / "encoders"))
    tables |= {"averaging": {"rules": []}, "federation": {"rounds": 2, "batch_size": 8}, "seed": 3}
    path = folder / "mine.toml"
    path.write_text(Config.from_mapping(tables).to_toml())
    return path


@pytest.fixture(scope="module")
def compared(settings, tmp_path_factory):
    """What a command wrote."""
    out = tmp_path_factory.mktemp("study")
    assert small.call(*command(settings, out)) == 0
    return out


def command(settings, out, *more):
    search = ("--search", "optimizer.learning_rate=0.001,0.01")
    return ("compare", settings, "--methods", "m2fedsa,fedpeft", "--seeds", 2, *search, "--jobs", 1, "--out", out, *more)


def result(out, *place):
    return json.loads(out.joinpath(*place, "result.json").read_text())


def test_the_table_is_made_of_the_results_by_scipy(compared) -> None:
    table = (compared / "comparison.md").read_text()
    lines = {name: next(line for line in table.splitlines() if line.startswith(f"| [{name}]")) for name in ("m2fedsa", "fedpeft")}
    chosen = {}
    for name, line in lines.items():
        rates = {}
        for rate in ("0.001", "0.01"):
            runs = [result(compared, name, f"learning_rate={rate}", f"seed-{seed}") for seed in (3, 4)]
            judged, told = ([run[part]["fused"]["accuracy"] for run in runs] for part in ("validation", "metrics"))
            rates[rate] = (sum(judged), told)
        rate = max(rates, key=lambda rate: rates[rate][0])
        chosen[name] = rates[rate][1]
        assert f"learning_rate={rate} (edge)" in line
        low, high = scipy.stats.t.interval(0.95, 1, loc=sum(chosen[name]) / 2, scale=scipy.stats.sem(chosen[name]))
        if chosen[name][0] != chosen[name][1]:
            assert f"{sum(chosen[name]) / 2:.3f} ± {(high - low) / 2:.3f}" in line
    if len({round(one - other, 9) for one, other in zip(chosen["fedpeft"], chosen["m2fedsa"], strict=True)}) > 1:
        assert f"[{scipy.stats.ttest_rel(chosen['fedpeft'], chosen['m2fedsa']).pvalue:.3f}]" in lines["fedpeft"]


def test_links_lead_to_runs(compared) -> None:
    for name, opened in (("comparison.md", r"\]\(([^)]*)\)"), ("comparison.html", r'href="([^"]*)"')):
        links = set(re.findall(opened, (compared / name).read_text()))
        assert len(links) >= 6
        assert all((compared / link).exists() for link in links), links


def test_the_curve_counts_everything_that_was_sent_and_computed(compared) -> None:
    stored = json.loads((compared / "study.json").read_text())
    assert stored["metric"] == "accuracy"
    one = next(one for one in stored["outcomes"] if one["arm"] == "m2fedsa")
    place = compared / one["directory"]
    warm = json.loads((place / "warm_start.json").read_text())
    rounds = [json.loads(line) for line in (place / "rounds.jsonl").read_text().splitlines()]
    ledger = json.loads((place / "result.json").read_text())["ledger"]
    assert [point["round"] for point in one["curve"]] == [0, 1, 2]
    spent = sum(warm[key][way] for key in ("bytes", "sums") for way in ("up", "down"))
    assert one["curve"][0]["bytes"] == spent
    for record in rounds:
        spent += sum(record.get(key, {}).get(way, 0) for key in ("bytes", "tensors", "teaching") for way in ("up", "down"))
    assert one["curve"][-1]["bytes"] == spent
    # Every head runs once over every sample, and forth and back is computed for every visit.
    work = 0.0
    for name, entry in ledger.items():
        flops = entry["client"]["flops"]
        looked_at = warm["visits"][name]
        visits = sum(record["visits"][name] for record in rounds)
        work += looked_at * flops["forward"] + visits * (flops["forward"] - flops["head"] + flops["backward"])
    assert one["curve"][-1]["flops"] == pytest.approx(work, rel=1e-6)
    # The other method holds everything and sends tensors alone.
    other = next(one for one in stored["outcomes"] if one["arm"] == "fedpeft")
    rounds = [json.loads(line) for line in (compared / other["directory"] / "rounds.jsonl").read_text().splitlines()]
    assert other["curve"][-1]["bytes"] == sum(record["tensors"][way] for record in rounds for way in ("up", "down"))


def test_what_was_run_is_not_run_again_and_the_table_is_the_same(settings, compared, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("result.json")}
    assert len(before) == 8
    victim = compared / "fedpeft" / "learning_rate=0.01" / "seed-4" / "result.json"
    kept = json.loads(victim.read_text())
    victim.unlink()
    table = (compared / "comparison.md").read_text()
    capsys.readouterr()
    assert small.call(*command(settings, compared)) == 0
    assert capsys.readouterr().out.startswith("1/1  fedpeft/learning_rate=0.01/seed-4  fused ")
    assert json.loads(victim.read_text())["digest"] == kept["digest"]
    assert (compared / "comparison.md").read_text() == table
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != victim)


def test_a_stored_study_gives_its_table_anew(compared, tmp_path, capsys) -> None:
    assert small.call("compare", "--from", compared / "study.json", "--out", tmp_path) == 0
    assert (tmp_path / "comparison.md").read_text() == (compared / "comparison.md").read_text()
    assert "\nm2fedsa  " in capsys.readouterr().out
    assert small.call("compare", "--from", compared / "study.json", "--out", tmp_path, "--metric", "uar", "--budget", "rounds") == 0
    assert "uar on test samples" in (tmp_path / "comparison.md").read_text()


def test_other_settings_in_the_same_place_are_refused(settings, compared, capsys) -> None:
    assert small.call(*command(settings, compared, "--set", "federation.batch_size=4")) == 2
    assert "batch_size: 8 -> 4" in capsys.readouterr().err


def test_a_run_that_fails_is_told_and_the_others_stand(settings, tmp_path, capsys) -> None:
    """Two modalities of unequal width have no whole TA in common."""
    arguments = ("compare", settings, "--methods", "closed_form,whole_ta", "--seeds", 1, "--jobs", 1, "--out", tmp_path)
    assert small.call(*arguments) == 1
    said = capsys.readouterr()
    assert "\nclosed_form  " in said.out
    reason = "No result: whole_ta/seed-3: averaging.rules averages tensors of unequal shape over modalities"
    assert reason in " ".join(said.out.split()), "lines are as wide as the terminal"
    assert "1 of 2 runs failed." in said.err
    assert "The first, whole_ta/seed-3" in said.err


def test_a_sweep_is_a_row_for_each_point(settings, tmp_path, capsys) -> None:
    grid = ("--grid", "fusion.learned=true,false", "--set", "federation.rounds=1")
    assert small.call("sweep", settings, *grid, "--seeds", 1, "--jobs", 1, "--out", tmp_path) == 0
    table = capsys.readouterr().out
    assert "\nlearned=true  " in table
    assert "\nlearned=false  " in table
    assert small.call("compare", "--list") == 0
    assert "split_learning" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits", "--methods", "fedavgg"), "Did you mean fedavg?"),
        (("digits", "--search", "rounds"), "write key=value"),
        ((), "Name what to run"),
        (("--from", "nowhere.json"), "no such file"),
    ],
)
def test_nonsense_is_bad_input(arguments, said, capsys) -> None:
    assert small.call("compare", *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_that_is_told_to_stop_stops_its_runs_and_goes_on(settings, tmp_path) -> None:
    """The command alone gets the signal, as from whoever supervises it; a terminal tells its workers too."""
    words = ["compare", settings, "--methods", "m2fedsa,fedpeft", "--seeds", 1, "--jobs", 2, "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "m2fedsa", *map(str, words), "--set", "federation.rounds=2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while sum(path.stat().st_size > 0 for path in (tmp_path / "out").rglob("rounds.jsonl")) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped; what was done is kept in {tmp_path / 'out'}. The same command goes on." in " ".join(said.split())
    assert "Traceback" not in said
    kept = {path.parent.parent.name: len(path.read_text().splitlines()) for path in (tmp_path / "out").rglob("rounds.jsonl")}
    assert set(kept) == {"m2fedsa", "fedpeft"}
    assert all(0 < rounds < 2000 for rounds in kept.values())
    assert not list((tmp_path / "out").rglob("result.json"))
