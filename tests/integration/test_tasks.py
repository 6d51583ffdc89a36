"""Several classes, and numbers, from a manifest to a report, to predictions and to an export; of records and series."""

import csv
import re

import pytest
import tomli_w
from sklearn import metrics
from tests.integration import small
from tests.integration.test_own_data import ward

from m2fedsa.reporting.files import read_json

MODALITIES = ("record", "curve")
LABELS = {"multi_label": "tags", "regression": ["stay", "cost"]}
TAGS = ("ill", "old", "smoker")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def with_more_to_tell(rows):
    """The ward's patients with tags, and with days of stay and a cost of thousands, which follow from the columns."""
    for row in rows:
        age, ill = float(row["age"]), row["label"] == "ill"
        tags = [name for name, there in zip(TAGS, (ill, age > 55, row["smokes"] == "yes"), strict=True) if there]
        row["tags"] = ";".join(tags) or "none"
        row["stay"] = f"{2 + 6 * ill + (age - 50) / 10:.2f}"
        row["cost"] = f"{12_000 + 5_000 * ill + 100 * age:.0f}"
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A manifest, and the two encoders as they are drawn."""
    place = tmp_path_factory.mktemp("ward")
    write(place / "ward.csv", with_more_to_tell(read(ward(place / "ward.csv"))))
    for kind, columns, name in (("tabular", "age,pressure,smokes", "record"), ("series", "curve", "curve")):
        words = ("--manifest", place / "ward.csv", "--columns", columns, "--out", place / name, "--epochs", 0, "--width", 16)
        assert small.call("encoder", kind, *words) == 0
    return place


@pytest.fixture(scope="module", params=LABELS)
def run(request, root, tmp_path_factory):
    """The directory of a run of this kind, and what it printed."""
    tables = {
        "name": request.param,
        "data": {
            "manifest": str(root / "ward.csv"),
            "task": request.param,
            "columns": {"label": LABELS[request.param], "id": "id"},
            "clients": 2,
            "minimum": 4,
        },
        "modalities": {
            name: {"encoder": str(root / name), "kind": kind, "adapter_width": 4}
            for name, kind in zip(MODALITIES, ("tabular", "series"), strict=True)
        },
        "fusion": {"width": 8, "heads": 2, "feed_forward": 8},
        "optimizer": {"learning_rate": 0.001},
        "federation": {"rounds": 2, "batch_size": 8},
        "kept": {"folder": str(root / "kept")},
        "compute": {"threads": 1},
    }
    place = tmp_path_factory.mktemp(request.param)
    (place / "mine.toml").write_text(tomli_w.dumps(tables))
    assert small.call("run", place / "mine.toml", "--out", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module")
def exported(run):
    assert small.call("export", run, "--out", run.parent / "model") == 0
    return run.parent / "model"


def kind_of(run):
    return next(kind for kind in LABELS if kind in run.parent.name)


def test_figures_follow_from_the_predictions(run, tmp_path):
    """Those of the result, by scikit-learn, from the table of the run's own test samples."""
    out = tmp_path / "own.csv"
    assert small.call("predict", run, "--out", out) == 0
    answers, found = read(out), read_json(run / "result.json")["metrics"]
    names = read_json(run / "clients.json")["classes"]
    for subset in ("fused", *MODALITIES):
        told = [[float(answer[f"{subset}:{name}"]) for name in names] for answer in answers]
        if kind_of(run) == "regression":
            truth = [[float(cell) for cell in answer["truth"].split(";")] for answer in answers]
            assert subset not in answers[0]  # a number is its own label
            assert metrics.r2_score(truth, told) == pytest.approx(found[subset]["r2"], abs=1e-4)
            assert metrics.mean_absolute_error(truth, told) == pytest.approx(found[subset]["mae"], rel=1e-4)
            assert found[subset]["mae"] > 10, "in days and in money, not in standard deviations"
        else:
            truth, said = (
                [[int(name in cell.split(";")) for name in names] for cell in column]
                for column in zip(*((answer["truth"], answer[subset]) for answer in answers), strict=True)
            )
            assert said == [[int(value > 0.5) for value in row] for row in told]
            assert metrics.f1_score(truth, said, average="macro") == pytest.approx(found[subset]["macro_f1"])
            assert metrics.accuracy_score(truth, said) == pytest.approx(found[subset]["exact_match"])
            assert metrics.roc_auc_score(truth, told) == pytest.approx(found[subset]["auc"], abs=1e-4)


def test_an_export_predicts_what_the_run_does(run, exported, root, tmp_path, monkeypatch):
    """Of new samples with any of the modalities, each told to 1e-5 of the same; from another working directory."""
    rows = read(root / "ward.csv")[:9]
    for row in rows:
        row["curve"] = str(root / row["curve"])
    rows[1]["curve"] = ""
    rows[2] |= {"age": "", "pressure": "", "smokes": ""}
    manifest = write(tmp_path / "new.csv", rows)
    for name, place in (("run", run), ("export", exported)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert small.call("predict", place, manifest, "--out", tmp_path / f"{name}.csv") == 0
    ours, theirs = read(tmp_path / "export.csv"), read(tmp_path / "run.csv")
    assert list(ours[0]) == list(theirs[0])
    assert ours[0]["id"] == "p0"
    assert [bool(row["curve:" + list(ours[0])[-2].partition(":")[2]]) for row in ours[:3]] == [True, False, True]
    for one, other in zip(ours, theirs, strict=True):
        for column, cell in other.items():
            if re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", cell):
                assert float(one[column]) == pytest.approx(float(cell), rel=1e-5, abs=1e-5)
            else:
                assert one[column] == cell


def test_the_model_card_says_what_is_told(run, exported, monkeypatch, capsys):
    """Its programs run: what it prints is in the terms of the task, and its encoders are read as it says."""
    card = (exported / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert [len([line for line in block.splitlines() if line.strip()]) <= 11 for block in blocks] == [True, True]
    monkeypatch.chdir(exported)
    capsys.readouterr()
    exec(blocks[0], {})
    printed = capsys.readouterr().out
    scores = read_json(run / "result.json")["metrics"]["fused"]
    if kind_of(run) == "regression":
        stay, cost = (float(re.search(rf"'{name}': (-?[0-9.]+)", printed)[1]) for name in LABELS["regression"])
        assert abs(stay) < 100 < 5_000 < cost
        assert "gives 2 numbers: `stay`, `cost`." in card
        assert f"| fused | {scores['r2']:.3f} | {scores['pearson']:.3f} |" in card
    else:
        assert set(re.findall(r"'(\w+)'", printed)) <= {*TAGS, "none"}
        assert printed.startswith("[")
        assert "log-odds of each of 4 classes" in card
        assert f"| fused | {scores['accuracy']:.3f} | {scores['exact_match']:.3f} |" in card
    names: dict[str, object] = {}
    exec(blocks[1], names)
    assert [type(names[name]).__name__ for name in MODALITIES] == ["TabularModel", "PatchTSTModel"]


def test_an_export_has_no_samples_of_its_own(exported, capsys):
    said = " ".join(small.refused(capsys, "predict", exported).split())
    assert "the samples that it was trained and tested on are not known here. Name a manifest" in said
    said = " ".join(small.refused(capsys, "predict", exported, "x.csv", "--client", "client-00").split())
    assert "is an export, whose tensors were chosen when it was written. Leave --client out." in said
