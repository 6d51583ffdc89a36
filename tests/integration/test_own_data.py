"""Samples of one's own from the command line: init, data check, encoder, run; what cannot be used stops it before training."""

import csv
import tomllib

import numpy as np
import pytest
import tomli_w
from PIL import Image
from tests.integration import small
from tests.unit.data.manifest import shop

from m2fedsa.reporting.files import read_json

EMBEDDED = [word for name, encoder in shop.ENCODERS.items() for word in ("--encoder", f"{name}={encoder}")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a shop in it."""
    monkeypatch.chdir(tmp_path)
    shop.write(tmp_path, shop.rows(24))
    return tmp_path


def settings_of(path, **changes):
    """The settings in a file, changed and written again: small, and without a trace in the user's cache."""
    tables = tomllib.loads(path.read_text())
    tables |= {"federation": {"rounds": 1, "batch_size": 8}, "fusion": {"width": 16, "feed_forward": 16}, "compute": {"threads": 1}}
    tables["kept"] = {"folder": str(path.parent / "cache")}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        tables.setdefault(section, {})[name] = value
    path.write_text(tomli_w.dumps(tables))
    return path


def test_from_a_folder_to_a_report(here, capsys):
    assert small.call("init", "--manifest", "train.csv", "--out", "shop.toml", *EMBEDDED) == 0
    printed = capsys.readouterr().out
    assert "photo                image: paths such as photos/00.png" in printed
    assert "client               client\n" in printed
    found = tomllib.loads((here / "shop.toml").read_text())
    assert {name: one["kind"] for name, one in found["modalities"].items()} == shop.KINDS
    settings_of(here / "shop.toml")
    assert small.call("data", "check", "shop.toml", "--sample", "sample.png") == 0
    printed = capsys.readouterr().out
    assert "train.csv  24 rows, 24 of them can be used" in printed
    assert "unusable     none: every cell can be read" in printed
    assert (here / "sample.png").read_bytes().startswith(b"\x89PNG")
    assert small.call("run", "shop.toml", "--out", "run") == 0
    facts = read_json(here / "run" / "clients.json")
    assert {name: client["train"] for name, client in facts["clients"].items()} == {"shop-0": 12, "shop-1": 6}
    assert read_json(here / "run" / "result.json")["metrics"]["fused"]["samples"] == 3
    assert (here / "run" / "report.html").is_file()


def test_bad_rows_stop_a_run_and_are_left_out_if_told_so(here, capsys):
    small.call("init", "--manifest", "train.csv", "--out", "shop.toml", *EMBEDDED)
    settings_of(here / "shop.toml")
    (here / "photos" / "04.png").write_bytes(b"")
    capsys.readouterr()
    assert small.call("run", "shop.toml", "--out", "run") == 2
    said = capsys.readouterr().err
    assert "train.csv: 1 of 24 rows cannot be used. Nothing was trained. Mend them, or leave them out with --on-error skip." in said
    assert "row 5 (t04), photo: photos/04.png: the file is empty (0 bytes)" in said
    assert not (here / "run").exists()
    assert small.call("data", "check", "shop.toml") == 2
    assert "row 5 (t04), photo: photos/04.png: the file is empty (0 bytes)" in capsys.readouterr().out
    assert small.call("run", "shop.toml", "--on-error", "skip", "--out", "run") == 0
    assert "1 of 24 rows were left out: row 5 (t04), photo" in capsys.readouterr().out
    assert read_json(here / "run" / "clients.json")["clients"]["shop-0"]["train"] == 11


def test_duplicates_are_told(here, capsys):
    made = shop.rows(24)
    made[3]["photo"] = made[0]["photo"]
    made[7] |= {name: made[1][name] for name in ("photo", "jingle", "title")}
    shop.write_manifest(here / "train.csv", made)
    small.call("init", "--manifest", "train.csv", "--out", "shop.toml", *EMBEDDED)
    settings_of(here / "shop.toml")
    capsys.readouterr()
    assert small.call("data", "check", "shop.toml") == 0
    printed = capsys.readouterr().out
    assert "duplicates   photo: 2 in another split as well: row 4 (validation) = row 1 (train), row 8 (test) = row 2 (train)" in printed
    assert "duplicates   whole rows: 1 in another split as well: row 8 (test) = row 2 (train)" in printed


@pytest.fixture
def in_threes(monkeypatch):
    """Three samples go through a head at once, so that workers have something to do."""
    monkeypatch.setattr("m2fedsa.client.kept.CHUNK", 3)


def test_the_number_of_workers_changes_nothing(here, in_threes, capsys):
    """Two rounds on real files, some of them missing: decoded by the client itself, by one thread, by three."""
    made = shop.rows(24)
    made[1]["photo"] = made[6]["jingle"] = ""
    shop.write_manifest(here / "train.csv", made)
    small.call("init", "--manifest", "train.csv", "--out", "shop.toml", *EMBEDDED)
    settings_of(here / "shop.toml", federation__rounds=2)
    digests = {}
    for workers in (0, 1, 3):
        words = ["--set", f"compute.workers={workers}", "--set", f"kept.folder=kept{workers}", "--out", f"run{workers}"]
        assert small.call("run", "shop.toml", *words) == 0
        digests[workers] = read_json(here / f"run{workers}" / "checkpoint" / "manifest.json")["digest"]
    assert digests[0] == digests[1] == digests[3]
    assert small.call("run", "shop.toml", "--set", "seed=1", "--out", "other") == 0
    assert read_json(here / "other" / "checkpoint" / "manifest.json")["digest"] != digests[0]


@pytest.mark.parametrize("workers", [0, 3])
def test_what_a_worker_cannot_decode_is_named(here, in_threes, capsys, workers):
    """Its head is sound, so the run begins; the client that has it does no more."""
    small.call("init", "--manifest", "train.csv", "--out", "shop.toml", *EMBEDDED)
    settings_of(here / "shop.toml", data__look="heads")
    photo = here / "photos" / "06.png"
    Image.effect_noise((64, 64), 80).save(photo)
    photo.write_bytes(photo.read_bytes()[:900])
    capsys.readouterr()
    assert small.call("run", "shop.toml", "--set", f"compute.workers={workers}", "--out", "run") == 0
    said = "row 7, photo: photos/06.png: the image cannot be decoded"
    printed = capsys.readouterr().out
    assert "photo: 24 files found, 24 heads read, none decoded: a broken one fails its client's round; `m2fedsa data" in printed
    assert f"without shop-1: {said}" in printed
    report = (here / "run" / "report.html").read_text()
    assert said in report
    assert "Noted about the data" in report
    assert "1 of 2 clients have training samples of one class only: shop-1 (red)" in report


# --- records and series ---------------------------------------------------------------------------------------------------------------


def ward(path, number=80):
    """Patients: age and blood pressure apart between the classes, a category that says something, and a curve of two channels."""
    draw = np.random.default_rng(0)
    (path.parent / "curves").mkdir()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "age", "pressure", "smokes", "curve", "label", "split"])
        for row in range(number):
            ill = row % 2
            curve = np.stack([np.sin(np.arange(20) * (0.3 + 0.5 * ill)), draw.normal(size=20)], 1)[: 20 - row % 3]
            np.save(path.parent / f"curves/{row}.npy", curve)
            pressure = "" if row % 7 == 3 else f"{draw.normal(120 + 30 * ill, 10):.1f}"
            cells = [f"p{row}", f"{draw.normal(50 + 10 * ill, 10):.0f}", pressure, ("no", "yes")[int(draw.random() < 0.2 + 0.6 * ill)]]
            writer.writerow([*cells, f"curves/{row}.npy", ("well", "ill")[ill], ("train", "train", "val", "test")[row // 2 % 4]])
    return path


def test_records_and_series(tmp_path, monkeypatch, capsys):
    """init makes their encoders; the run learns from both, whose classes lie far apart."""
    monkeypatch.chdir(tmp_path)
    ward(tmp_path / "ward.csv")
    assert small.call("init", "--manifest", "ward.csv", "--out", "ward.toml") == 0
    printed = capsys.readouterr().out
    assert "ward_encoders/record: an encoder of records from 40 rows" in printed
    assert "ward_encoders/curve: an encoder of series from 40 rows" in printed
    found = tomllib.loads((tmp_path / "ward.toml").read_text())
    assert found["modalities"]["curve"]["kind"] == "series"
    columns = read_json(tmp_path / "ward_encoders" / "record" / "preprocessor_config.json")["columns"]
    assert [(one["name"], one.get("categories")) for one in columns] == [("age", None), ("pressure", None), ("smokes", ["no", "yes"])]
    settings_of(tmp_path / "ward.toml", data__clients=2, data__minimum=4)
    assert small.call("data", "check", "ward.toml", "--sample", "sheet.png") == 0
    assert ["curve", "18", "19", "20", "readings"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert small.call("run", "ward.toml", "--out", "run") == 0
    metrics = read_json(tmp_path / "run" / "result.json")["metrics"]
    assert metrics["curve"]["accuracy"] == 1.0  # two frequencies
    assert metrics["record"]["accuracy"] >= 0.8
    assert small.call("cut", "ward_encoders/record", "--block", "1", "--out", "cut") == 0
    assert (tmp_path / "cut" / "head" / "preprocessor_config.json").is_file()
    folders = ("--set", "modalities.record.encoder=cut", "--set", "federation.warm_start=false")
    assert small.call("run", "ward.toml", *folders, "--out", "sliced") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "--manifest", "no.csv"], "no.csv: no such file"),
        (
            ["init", "--manifest", "train.csv", "--label", "tilte"],
            "Did you mean 'title'?",
        ),
        (["init", "--manifest", "train.csv", "--encoder", "foto=x"], "the manifest has no such modality or kind, but photo (image)"),
        (["init", "--manifest", "train.csv", "--encoder", "foto"], "write NAME=ENCODER"),
        (["encoder", "series", "--manifest", "train.csv", "--columns", "a,b", "--out", "x"], "is made from one column"),
        (["encoder", "tabular", "--manifest", "train.csv", "--columns", "agr", "--out", "x"], "there is no such column"),
        (["encoder", "tabular", "--manifest", "train.csv", "--columns", "id", "--width", "30", "--out", "x"], "divided among 4 heads"),
        (["data", "check", "digits.toml"], "data.manifest is unset: the source digits looks at its samples by itself"),
    ],
)
def test_refused(here, capsys, words, said):
    (here / "digits.toml").write_text('[modalities.image]\nencoder = "embedded:digits-image"\n')
    assert small.call(*words) == 2
    assert said in capsys.readouterr().err
