"""docs/your_data.md, followed step by step: its program makes the folder, its commands are run in their order."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import tomli_w
from tests.integration import small
from tests.integration.test_own_data import ward

from m2fedsa.config import Config
from m2fedsa.data.manifest.opening import read_rows
from m2fedsa.reporting.files import read_json

PAGE = Path(__file__).parents[2] / "docs" / "your_data.md"


def blocks(kind):
    """The fenced blocks of a kind, in their order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for its, text in fenced if its == kind]


def commands():
    return [shlex.split(line) for block in blocks("") for line in block.splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where looks are remembered
    return tmp_path


def test_the_page_leads_to_a_report_and_to_an_export(here, capsys):
    (program,) = blocks("python")
    exec(compile(program, str(PAGE), "exec"), {})
    rows = (here / "digits" / "train.csv").read_text().splitlines()
    assert 180 <= len(rows) - 1 <= 230
    steps = [words for words in commands() if "ward.csv" not in words]
    names = ("init", "data", "run", "report", "predict", "export", "predict", "run", "run", "run")
    assert [words[:2] for words in steps] == [["m2fedsa", name] for name in names]
    for words in steps:
        assert small.call(*words[1:]) == 0, words
        if words[1] == "init":  # as small as a test likes it
            shutil.copy(here / "mine.toml", here / "as_written.toml")
            found = tomllib.loads((here / "mine.toml").read_text())
            assert {name: one["kind"] for name, one in found["modalities"].items()} == {"photo": "image", "sound": "audio", "word": "text"}
            found |= {"compute": {"threads": 1}, "fusion": {"width": 16, "feed_forward": 16}}
            (here / "mine.toml").write_text(tomli_w.dumps(found))
    assert (here / "sample.png").is_file()
    assert (here / "runs" / "mine" / "report.html").is_file()
    assert set(read_json(here / "runs" / "mine" / "clients.json")["clients"]) == {"north", "south"}
    result = read_json(here / "runs" / "mine" / "result.json")
    assert result["metrics"]["fused"]["accuracy"] > 0.5  # ten classes
    # As init wrote them, for all of their rounds: what training makes of it is no worse than what it began with.
    assert small.call("run", "as_written.toml", "--out", "runs/as_written") == 0
    whole = read_json(here / "runs" / "as_written" / "result.json")
    assert whole["rounds"] == 20
    assert whole["metrics"]["fused"]["accuracy"] > whole["closed_form"]["fused"]["accuracy"] - 0.05
    assert (here / "home" / ".cache" / "m2fedsa" / "looks").is_dir()
    same_predictions(here / "predictions.csv", here / "again.parquet")
    changed = [Config.from_file(here / "runs" / name / "config.toml") for name in ("shifted", "best", "balanced")]
    assert changed[0].modalities["photo"].augment == ("shift",)
    assert (changed[1].evaluation.patience, changed[1].evaluation.keep_best) == (1, True)
    assert changed[2].loss.balance == "weights"


def same_predictions(ours, theirs):
    """Of the run and of its export, whose encoders shipped with the package and have no processor's files; and not of nothing."""
    run, export = (read_rows(str(path)) for path in (ours, theirs))
    assert run.names == export.names
    assert 180 <= len(run) == len(export) <= 230
    for modality in ("fused", "photo", "sound", "word"):
        assert len(set(run.column(modality))) > 5
    for name in run.names:
        for one, other in zip(run.column(name), export.column(name), strict=True):
            if ":" in name and one:
                assert float(one) == pytest.approx(float(other), rel=1e-5, abs=1e-5)
            else:
                assert str(one or "") == str(other or "")


def test_the_settings_of_the_page_are_settings():
    (text,) = blocks("toml")
    assert Config.from_mapping(tomllib.loads(text)).modalities["photo"].kind == "image"


def test_the_encoders_of_the_page(here, capsys):
    ward(here / "ward.csv")
    made = [words for words in commands() if "ward.csv" in words]
    assert len(made) == 2
    for words in made:
        assert small.call(*words[1:], "--epochs", "2") == 0, words
    assert read_json(here / "encoders" / "curve" / "config.json")["model_type"] == "patchtst"
    assert read_json(here / "encoders" / "record" / "config.json")["model_type"] == "m2fedsa_tabular"
