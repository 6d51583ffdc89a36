"""init and encoder: what they take columns for, which rows their encoders see, and what lies there already."""

import csv
import datetime
import json
import tomllib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tests.integration import small

from m2fedsa.config import Data, Modality
from m2fedsa.data.manifest import read_manifest
from m2fedsa.reporting.files import read_json


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(number=40, **columns):
    """Rows of an age, a label and what `columns` tells of a row's number."""
    draw = np.random.default_rng(0)
    fixed = [{"age": f"{draw.normal(50, 10):.2f}", "label": "ab"[row % 2]} for row in range(number)]
    return [one | {name: of(row) for name, of in columns.items()} for row, one in enumerate(fixed)]


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def mean_of(folder):
    return read_json(folder / "preprocessor_config.json")["columns"][0]["mean"]


def mean_age(rows):
    return pytest.approx(np.mean([float(row["age"]) for row in rows]))


ENCODER = ["encoder", "tabular", "--manifest", "t.csv", "--columns", "age", "--epochs", "1", "--out", "record"]


def test_a_split_of_another_name_keeps_test_rows_from_encoders(here, capsys):
    rows = made(set=lambda row: ("train", "test")[row % 3 == 0])
    train = [row for row in rows if row["set"] == "train"]
    write(here / "t.csv", rows)
    assert small.call("init", "--manifest", "t.csv", "--out", "t.toml") == 0
    assert f"an encoder of records from {len(train)} rows" in capsys.readouterr().out
    assert mean_of(here / "t_encoders" / "record") == mean_age(train)
    assert small.call(*ENCODER, "--split", "set") == 0
    assert mean_of(here / "record") == mean_age(train)


@pytest.mark.parametrize("clients", [{}, {"client": lambda row: f"c{row % 3}"}, {"owner": lambda row: f"c{row % 3}"}])
@pytest.mark.parametrize("seed", [0, 3])
def test_without_a_split_encoders_see_what_the_run_draws(here, capsys, clients, seed):
    rows = made(**clients)
    write(here / "t.csv", rows)
    owner = ["--client", "owner"] if "owner" in clients else []
    assert small.call(*ENCODER, "--seed", str(seed), *owner) == 0
    assert "has no column split: 10%" in capsys.readouterr().out
    data = Data.model_validate({"manifest": "t.csv", "columns": {"client": "owner"} if owner else {}})
    reading = read_manifest(data, {"record": Modality(kind="tabular", encoder="record")}, seed, {"record": str(here / "record")})
    train = [row for row, split in zip(rows, reading.splits, strict=True) if split == "train"]
    assert len(train) < 32
    assert mean_of(here / "record") == mean_age(train)


def test_init_draws_as_its_run(here, capsys):
    write(here / "t.csv", made())
    assert small.call("init", "--manifest", "t.csv", "--out", "t.toml") == 0
    printed = capsys.readouterr().out
    assert "encoders see the training rows of seed = 0. Another seed draws others: a column split keeps them apart for good" in printed
    assert "an encoder of records from 28 rows" in printed


def test_no_training_row_is_refused(here, capsys):
    write(here / "t.csv", made(split=lambda row: "test"))
    assert small.call(*ENCODER) == 2
    assert "t.csv: not one row is for training" in capsys.readouterr().err
    write(here / "t.csv", made(split=lambda row: "trian"))
    assert small.call(*ENCODER) == 2
    assert "Row 1, split: 'trian' is no split; did you mean train?" in capsys.readouterr().err
    assert small.call(*ENCODER, "--split", "sets") == 2
    assert "--split = 'sets', but there is no such column" in capsys.readouterr().err


def test_dates_are_left_out(here, capsys):
    day = datetime.date(2024, 1, 1)
    times = {"day": lambda row: day, "when": lambda row: datetime.datetime(2024, 1, 1, row % 24, tzinfo=datetime.UTC)}
    rows = made(**times, lasted=lambda row: datetime.timedelta(seconds=row), clock=lambda row: datetime.time(row % 24))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), here / "t.parquet")
    assert small.call("init", "--manifest", "t.parquet", "--out", "t.toml") == 0
    printed = capsys.readouterr().out
    for name in ("day", "when", "lasted", "clock"):
        assert f"{name:<20} left out: times such as" in printed
    columns = read_json(here / "t_encoders" / "record" / "preprocessor_config.json")["columns"]
    assert [one["name"] for one in columns] == ["age"]


@pytest.mark.parametrize(
    ("cell", "task", "said"),
    [
        (lambda row: f"{row * 0.37:.2f}", "regression", "40 different numbers, such as 0"),
        (lambda row: row * 100, "regression", "40 different numbers, such as 0"),
        (lambda row: ("a;b", "b", "", "c;a")[row % 4], "multi_label", "several classes in a cell, such as a;b"),
        (lambda row: json.dumps([["a"], ["a", "b"]][row % 2]), "multi_label", "several classes in a cell"),
        (lambda row: row % 5, None, "5 different values, such as 0"),
        (lambda row: (row % 5) / 2, None, "5 different values, such as 0"),
        (lambda row: "ab"[row % 2], None, "2 different values, such as a"),
    ],
)
def test_the_task_is_told_by_the_labels(here, capsys, cell, task, said):
    rows = [{name: value for name, value in row.items() if name != "label"} for row in made(price=cell)]
    write(here / "t.csv", rows)
    assert small.call("init", "--manifest", "t.csv", "--label", "price", "--out", "t.toml") == 0
    assert f"{'price':<20} label: {task or 'single_label'}, {said}" in capsys.readouterr().out
    assert tomllib.loads((here / "t.toml").read_text())["data"].get("task") == task
    assert small.call("data", "check", "t.toml") == 0


def test_numbers_as_classes_are_answered_with_regression(here, capsys):
    rows = [{name: value for name, value in row.items() if name != "label"} for row in made(price=lambda row: row * 0.37)]
    write(here / "t.csv", rows)
    assert small.call("init", "--manifest", "t.csv", "--label", "price", "--out", "t.toml") == 0
    assert small.call("data", "check", "t.toml", "--set", "data.task=single_label") == 2
    said = "is the label of no training row; most labels are different numbers: if they are amounts and no classes, set data.task"
    assert said in capsys.readouterr().out


def test_two_inits_in_one_folder(here, capsys):
    write(here / "t.csv", made())
    write(here / "u.csv", made(60))
    assert small.call("init", "--manifest", "t.csv", "--out", "t.toml") == 0
    assert small.call("init", "--manifest", "u.csv", "--out", "u.toml") == 0
    assert tomllib.loads((here / "u.toml").read_text())["modalities"]["record"]["encoder"] == "u_encoders/record"
    (here / "u.toml").unlink()
    capsys.readouterr()
    assert small.call("init", "--manifest", "u.csv", "--out", "u.toml") == 2
    said = capsys.readouterr()
    assert "u_encoders/record: an encoder is there already, though u.toml is not." in said.err
    assert "Take it with --encoder record=u_encoders/record" in said.err
    assert said.out == ""
    assert small.call("init", "--manifest", "u.csv", "--out", "u.toml", "--encoder", "record=u_encoders/record") == 0


def test_a_row_without_an_id_is_refused(here, capsys):
    write(here / "t.csv", made(id=lambda row: "" if row == 2 else f"r{row}"))
    assert small.call("init", "--manifest", "t.csv", "--out", "t.toml") == 0
    assert small.call("data", "check", "t.toml") == 2
    assert "row 3, id: is empty; give the row a name that no other has" in capsys.readouterr().out


@pytest.mark.parametrize(("splits", "kept"), [(("train", "validation", "test"), True), (("train", "test"), False), ((), True)])
def test_the_best_round_is_kept_where_there_is_something_to_judge_rounds_by(here, splits, kept):
    write(here / "train.csv", made(**({"split": lambda row: splits[row // 2 % len(splits)]} if splits else {})))
    assert small.call("init", "--manifest", "train.csv") == 0
    found = tomllib.loads((here / "mine.toml").read_text())
    assert found.get("evaluation") == ({"keep_best": True} if kept else None)
    assert found["optimizer"]["fusion_factor"] == 1.0
    assert small.call("run", "mine.toml", "--out", "run", "--set", "federation.rounds=1", "--set", "compute.threads=1") == 0
