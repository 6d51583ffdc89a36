"""m2fedsa as a library: ten lines, and a notebook."""

import json
import re
from pathlib import Path

import pytest
import torch
from tests import worlds
from tests.integration.in_memory import MODALITIES, Stops, run

from m2fedsa.errors import Interrupted
from m2fedsa.result import Result

# --- ten lines and a notebook ---------------------------------------------------------------------------------------------------------


def test_ten_lines(tmp_path, monkeypatch):
    """Those of the README, as they stand but for a smaller federation."""
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert "recipes.digits(rounds=10)" in lines
    names = {}
    exec(lines.replace("recipes.digits(rounds=10)", "recipes.digits(rounds=1, clients=3)"), names)
    result = names["result"]
    assert 0.1 < result.metrics["fused"]["accuracy"] <= 1.0
    assert result.directory.resolve() == tmp_path / "runs" / "mine"
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert len(names["table"]) == 1
    assert names["figure"].axes


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    torch.set_num_threads(1)
    return run(worlds.config(MODALITIES, federation__warm_start=True, evaluation__every=1), out=tmp_path_factory.mktemp("library") / "run")


def test_a_result_is_what_its_directory_tells(result):
    told = json.loads((result.directory / "result.json").read_text())
    assert result.record == told
    for name in ("metrics", "validation", "closed_form", "per_client", "ledger", "digest", "rounds", "seconds"):
        assert getattr(result, name) == told[name]
    assert list(result.history) == [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]


def test_a_result_prints_itself(result):
    lines = repr(result).splitlines()
    assert lines[0] == f"Result of 2 rounds in {result.seconds:.0f} s, digest {result.digest[:12]}"
    assert [line.split()[0] for line in lines[1:]] == ["fused", "image", "text", "image+text"]
    assert lines[1].split()[1:3] == ["accuracy", f"{result.metrics['fused']['accuracy']:.3f}"]


def test_a_result_as_a_table(result):
    frame = result.to_frame()
    assert list(frame["round"]) == [1, 2]
    assert list(frame["phase"]) == ["fusion", "fusion"]
    assert list(frame["clients"]) == [2, 2]
    for column, key in (("loss_fused", "loss"), ("loss_image", "loss"), ("up", "bytes")):
        assert list(frame[column]) == [record[key][column.removeprefix("loss_")] for record in result.history]
    assert list(frame["image+text_accuracy"]) == [record["metrics"]["image+text"]["accuracy"] for record in result.history]


def test_a_result_as_a_picture(result):
    (axes,) = result.plot().axes
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert set(curves) == {"fused", "image", "text"}
    assert curves["text"] == ([1, 2], [record["metrics"]["text"]["accuracy"] for record in result.history])


def test_a_result_without_rounds_prints_and_draws():
    result = run(worlds.config(MODALITIES, federation__rounds=0))
    assert isinstance(result, Result)
    assert "Result of 0 rounds" in repr(result)
    assert len(result.to_frame()) == 0
    result.plot()


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch, result):
    monkeypatch.chdir(tmp_path)
    again = run(worlds.config(MODALITIES, federation__warm_start=True, evaluation__every=1))
    assert list(tmp_path.iterdir()) == []
    assert again.directory is None
    assert again.digest == result.digest


def test_ctrl_c_in_a_notebook(tmp_path):
    """What was done is kept, and the same process goes on; without a directory it is said that nothing is kept."""
    with pytest.raises(Interrupted, match="stopped after round 1; nothing was kept, because no run directory was given"):
        run(progress=Stops(1))
    with pytest.raises(Interrupted, match=f"stopped after round 1 of 2, which is kept. Go on with: m2fedsa run --resume {tmp_path}/run"):
        run(progress=Stops(1), out=tmp_path / "run")
    assert run(out=tmp_path / "run", resume=True).digest == run().digest
