"""Each benchmark runs, at a size of seconds, and writes what it measured."""

import json
import runpy
from pathlib import Path

import pytest

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


def test_many_clients(quick):
    record, printed = quick("many_clients")
    for books in ("new", "full"):
        few, many = record["rounds"][books].values()
        assert set(few["parts"]) == set(many["parts"])
        assert few["wall"]["least"] > 0
    assert record["bytes"]["without"]["traced"]["idle"] < record["goal"]
    assert "checkpoint" in printed
