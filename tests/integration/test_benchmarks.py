"""Each benchmark runs, at a size of seconds, and writes what it measured."""

import json
import runpy
from pathlib import Path

import pytest
from tests.integration import small

from m2fedsa import recipes
from m2fedsa.config import Config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys):
    """Run a benchmark's quick size as its command does; its record and what it printed."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        out = tmp_path / "record.json"
        runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"](["--quick", "--out", str(out), *arguments])
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def test_step(quick):
    record, printed = quick("step")
    for size in ("digits", "base"):
        found = record["sizes"][size]
        assert found["steps"] >= 1
        assert found["losses differ by"] < 1e-4
        assert found["cpu"]["ratio"]["least"] > 0
    assert "ViT-base" in printed
    assert record["machine"]["torch"]


def test_run(quick):
    record, printed = quick("run")
    assert record["passes"]["ratio"] == 1.0
    (found,) = record["runs"]["1"]
    assert 0 < found["first line"] < found["clients"] < found["done"] <= found["wall"]
    assert len(found["rounds"]) == 1
    assert found["peak"] > 1e8
    assert "peak memory" in printed


def test_many_rows(quick):
    record, printed = quick("many_rows")
    few, many = (record["starts"][rows][0] for rows in ("200", "400"))
    for found in (few, many):
        assert 0 < found["ready"]["cpu"] <= found["first round"]["cpu"]
        assert 1e8 < found["ready"]["peak"] <= found["first round"]["peak"]
    assert set(record["bytes a row"]) == {"ready", "first round"}
    assert "a row more costs" in printed


def test_many_clients(quick):
    record, printed = quick("many_clients")
    for books in ("new", "full"):
        few, many = record["rounds"][books].values()
        assert set(few["parts"]) == set(many["parts"])
        assert few["wall"]["least"] > 0
    assert record["bytes"]["without"]["traced"]["idle"] < record["goal"]
    assert "checkpoint" in printed


def test_study_goes_on_where_it_was_stopped_and_makes_its_tables(monkeypatch, tmp_path, capsys):
    """The search decides on seeds of its own, nothing is run twice, tables come from the rows alone."""
    settings = small.tables(small.save_encoders(tmp_path / "encoders")) | {"averaging": {"rules": []}}
    settings["federation"] = {"rounds": 1, "batch_size": 8}
    monkeypatch.setitem(recipes.RECIPES, "small", lambda: Config.from_mapping(settings))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = runpy.run_path(str(BENCHMARKS / "study.py"))
    main = study["main"]
    main.__globals__["TASKS"] = (study["Task"]("small", 1, (0.001, 0.1), 0.1, seeds=(5, 6), search=(20, 21)),)
    rows, runs, table = tmp_path / "rows.jsonl", tmp_path / "runs", tmp_path / "study.md"
    given = ["--set=data.clients=4", "--arm=m2fedsa", "--arm=closed_form", "--arm=no_ma", f"--rows={rows}", f"--runs={runs}"]
    given += ["--processes=1", f"--table={table}"]
    main([*given, "--part=methods", "--part=ablations"])
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    searched, told = ([row for row in kept if row["stage"] == stage] for stage in ("search", "report"))
    # Two rates on two seeds; the better one is at an edge, so one beyond it.
    assert [(row["arm"], row["seed"]) for row in searched] == [("m2fedsa", seed) for seed in (20, 20, 21, 21, 20, 21)]
    assert all(row["outcome"]["test"] is None for row in searched)
    assert [(row["arm"], row["seed"]) for row in told] == [
        *[(arm, seed) for seed in (5, 6) for arm in ("m2fedsa", "closed_form")],
        ("no_ma", 5),
        ("no_ma", 6),
    ]
    assert len(kept) == 12
    judged = dict.fromkeys(sorted({row["candidate"] for row in searched}), 0.0)
    for row in searched:
        judged[row["candidate"]] += row["outcome"]["validation"]["fused"]["accuracy"]
    chosen, rates = max(judged, key=judged.get), [float(told.partition("=")[2]) for told in judged]
    assert told[0]["candidate"] == told[4]["candidate"] == chosen
    assert sorted(rates) == [0.001, 0.1, 0.4] or sorted(rates) == [0.00025, 0.001, 0.1]
    edge = " (edge)" if float(chosen.partition("=")[2]) in (min(rates), max(rates)) else ""
    mean = sum(row["outcome"]["test"]["fused"]["accuracy"] for row in (told[0], told[2])) / 2
    assert f"| m2fedsa | {chosen}{edge} | 5, 6 | {mean:.3f} ±" in table.read_text()
    assert "## What training adds to the closed form" in table.read_text()
    assert (tmp_path / "study_small.png").read_bytes().startswith(b"\x89PNG")
    assert not list(runs.rglob("*.json"))
    # Once more: what is kept stays, and what lacks is run.
    first, lines = table.read_text(), rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:-1]) + "\n")
    main([*given, "--part=methods", "--part=ablations"])
    assert [{**json.loads(line)["outcome"], "seconds": 0} for line in rows.read_text().splitlines()] == [
        {**row["outcome"], "seconds": 0} for row in kept
    ]
    assert table.read_text() == first
    capsys.readouterr()
    main([*given, "--estimate"])
    assert "small          methods       0 runs" in capsys.readouterr().out


def test_link(quick):
    record, printed = quick("link")
    for found in record["echo"].values():
        assert found["raw TCP"] == 1.0
        assert 0 < found["with TLS"] < 3
    steps = record["steps"]
    assert 0 < steps["at once"]["least"] <= steps["at once"]["largest"]
    assert steps["step"]["median"] > 0
    assert "2 clients at once" in printed
