"""Predictions of a trained run on new files, and on its own test samples."""

import csv
import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image
from tests.integration import small
from tests.unit.data import media

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.manifest.opening import read_rows

CLASSES = ("dark", "bright")
SIDE = 8


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(row):
    """A picture of one grey level; bright ones are bright."""
    return np.full((SIDE, SIDE), 40 + 150 * (row % 2) + row % 7, np.uint8)


def write_samples(folder, rows, name, **changed):
    """A manifest of pictures and words. changed: `row_column=value` replaces a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        Image.fromarray(pixels(row)).save(folder / f"{row}.png")
        words = f"the {media.WORDS[row % 2]} with {media.WORDS[3 + row % 4]}"
        written.append({"id": f"s{row}", "photo": f"{row}.png", "title": words, "label": CLASSES[row % 2], "split": "train"})
    for place, cells in enumerate(written):
        for column in cells:
            cells[column] = changed.get(f"{place}_{column}", cells[column])
        cells["split"] = ("train", "train", "validation", "test")[place // 2 % 4]
    media.write_csv(folder / name, ("id", "photo", "title", "label", "split"), written)
    return folder / name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a manifest, with a tokenizer beside the text encoder and nothing beside that of pictures."""
    root = tmp_path_factory.mktemp("predict")
    transformers.utils.logging.disable_progress_bar()
    small.vit().save_pretrained(root / "image")
    words = len(media.SPECIAL) + len(media.WORDS)
    small.bert(vocab_size=words, max_position_embeddings=16).save_pretrained(root / "text")
    media.tokenizer().save_pretrained(root / "text")
    manifest = write_samples(root / "data", range(24), "train.csv")
    tables = {
        "name": "mine",
        "data": {"manifest": str(manifest), "clients": 2, "partition": "iid", "minimum": 2, "multimodal_fraction": 1.0},
        "modalities": {
            "photo": {"encoder": str(root / "image"), "kind": "image", "adapter_width": 4},
            "title": {"encoder": str(root / "text"), "kind": "text", "adapter_width": 4},
        },
        "fusion": {"width": 8, "heads": 2, "feed_forward": 8},
        "optimizer": {"learning_rate": 0.01},
        "federation": {"rounds": 1, "batch_size": 8},
        "kept": {"folder": str(root / "kept")},
        "compute": {"threads": 1},
    }
    m2fedsa.run(Config.from_mapping(tables), out=root / "run")
    return root / "run"


def by_hand(run, rows):
    """Logits by the model itself, on inputs made here."""
    model, tokens = m2fedsa.load(run), media.tokenizer()
    inputs, presence = {"photo": [], "title": []}, {"photo": [], "title": []}
    for row in rows:
        for name in inputs:
            presence[name].append(bool(row[name]))
        if row["photo"]:
            inputs["photo"].append(
                torch.from_numpy(np.asarray(Image.open(run.parent / "new" / row["photo"])).copy()).float()[None] / 127.5 - 1
            )
        if row["title"]:
            inputs["title"].append(row["title"])
    text = tokens(inputs["title"], padding=True, return_tensors="pt")
    given = {"photo": {"pixel_values": torch.stack(inputs["photo"])}, "title": {n: text[n] for n in ("input_ids", "attention_mask")}}
    return model(given, {name: torch.tensor(mask) for name, mask in presence.items()})


def test_new_samples_with_any_subset_of_the_modalities(run, tmp_path, capsys):
    manifest = write_samples(run.parent / "new", range(100, 106), "new.csv", **{"1_photo": "", "2_title": "", "4_label": ""})
    out = tmp_path / "p.csv"
    assert small.call("predict", run, manifest, "--out", out) == 0
    assert f"{out}: 6 samples, predicted by photo, title together (fused) and by each alone" in capsys.readouterr().out
    rows, answers = read(manifest), read(out)
    assert list(answers[0]) == [
        *("row", "id", "fused", "fused:bright", "fused:dark", "photo", "photo:bright", "photo:dark", "title", "title:bright", "title:dark"),
        "error",
    ]
    assert [(answer["row"], answer["id"], answer["error"]) for answer in answers] == [(str(n + 1), f"s{100 + n}", "") for n in range(6)]
    logits, classes = by_hand(run, rows), m2fedsa.load(run).classes
    assert sorted(classes) == ["bright", "dark"]
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        for name in ("fused", "photo", "title"):
            if name != "fused" and not row[name]:
                assert answer[name] == answer[f"{name}:dark"] == ""
                continue
            expected = logits[name][place].softmax(0).tolist()
            assert [float(answer[f"{name}:{one}"]) for one in classes] == pytest.approx(expected, abs=1e-5)
            assert answer[name] == classes[int(logits[name][place].argmax())]


def test_a_manifest_without_a_column(run, tmp_path, capsys):
    """Only words, and no column for anything else: what is said is what words say."""
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"title": f"the {word}"}) + "\n" for word in ("cream", "mouse")))
    out = tmp_path / "p.csv"
    assert small.call("predict", run, tmp_path / "words.jsonl", "--out", out) == 0
    assert f"note: {tmp_path / 'words.jsonl'} has no column of photo: nothing is said by it" in capsys.readouterr().out
    answers = read(out)
    assert list(answers[0])[:2] == ["row", "fused"]
    assert all(answer["photo"] == "" and answer["title"] in CLASSES for answer in answers)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "ndjson", "parquet"])
def test_what_is_written_is_what_the_name_says(run, tmp_path, kind):
    """Each kind is one that a manifest may have, and says what the CSV says."""
    manifest = write_samples(run.parent / "new", range(100, 106), "new.csv", **{"1_photo": "", "2_title": "", "3_id": "é;1"})
    plain, out = tmp_path / "p.csv", tmp_path / f"p.{kind}"
    for place in (plain, out):
        assert small.call("predict", run, manifest, "--out", place) == 0
    found, expected = read_rows(str(out)), read(plain)
    assert set(found.names) == set(expected[0])
    for name in found.names:
        for cell, wanted in zip(found.column(name), (row[name] for row in expected), strict=True):
            if wanted == "" or ":" not in name:
                assert str("" if cell is None else cell) == wanted
            else:
                assert float(cell) == pytest.approx(float(wanted), rel=1e-5)
    if kind == "parquet":
        types = pq.read_schema(out)
        assert [str(types.field(name).type) for name in ("row", "id", "photo:dark", "error")] == ["int64", "string", "double", "string"]


@pytest.mark.parametrize(("name", "found"), [("p.xlsx", "not .xlsx"), ("p", "and this name has no ending")])
def test_other_endings_are_refused_before_anything_is_predicted(tmp_path, capsys, name, found):
    said = " ".join(small.refused(capsys, "predict", tmp_path / "nowhere", "x.csv", "--out", tmp_path / name).split())
    assert f"{name}: predictions are written as .csv, .tsv, .jsonl or .parquet, {found}." in said


def test_rows_that_cannot_be_used(run, tmp_path, capsys):
    manifest = write_samples(tmp_path / "bad", range(5), "bad.csv", **{"1_photo": "nowhere.png", "3_photo": "", "3_title": " "})
    said = small.refused(capsys, "predict", run, manifest, "--out", tmp_path / "p.csv")
    assert "2 of 5 rows cannot be used. Mend them, or leave them out with --on-error skip." in " ".join(said.split())
    assert f"row 2, photo: {tmp_path / 'bad' / 'nowhere.png'}: no such file" in said
    assert "row 4, photo, title: the row has no modality" in said
    assert not (tmp_path / "p.csv").exists()
    assert small.call("predict", run, manifest, "--out", tmp_path / "p.csv", "--on-error", "skip") == 0
    assert "note: 2 of 5 rows cannot be used; the column error says why" in capsys.readouterr().out
    answers = read(tmp_path / "p.csv")
    assert [bool(answer["fused"]) for answer in answers] == [True, False, True, False, True]
    assert answers[1]["error"].endswith("nowhere.png: no such file")
    media.write_csv(tmp_path / "other.csv", ("picture", "words"), [{"picture": "1.png", "words": "the"}])
    said = small.refused(capsys, "predict", run, tmp_path / "other.csv")
    assert "has no column of any modality of the run (photo, title); there are picture, words" in " ".join(said.split())


def test_the_runs_own_test_samples(run, tmp_path):
    """The figures of the result, from the table."""
    out = tmp_path / "own.csv"
    assert small.call("predict", run, "--out", out) == 0
    answers, metrics = read(out), small.result(run)["metrics"]
    for subset in ("fused", "photo", "title"):
        hits = [answer[subset] == answer["truth"] for answer in answers]
        losses = [-math.log(float(answer[f"{subset}:{answer['truth']}"])) for answer in answers]
        assert len(answers) == metrics[subset]["samples"]
        assert sum(hits) / len(hits) == pytest.approx(metrics[subset]["accuracy"])
        assert sum(losses) / len(losses) == pytest.approx(metrics[subset]["loss"], rel=1e-4)
    assert {answer["client"] for answer in answers} == {"evaluation"}


def test_a_run_of_which_nobody_says_what_its_modalities_are(uninterrupted, tmp_path, capsys):
    said = small.refused(capsys, "predict", uninterrupted, tmp_path / "x.csv", "--client", "client-00")
    assert "x.csv: no such file" in said


def test_the_run_of_a_deployment_needs_what_its_main_server_keeps(run, tmp_path, capsys):
    """It lies in another party's folder; once copied, the run predicts as ever."""
    apart = shutil.copytree(run, tmp_path / "apart")
    shutil.move(apart / "checkpoint" / "main_server", tmp_path / "state")
    said = small.refused(capsys, "predict", apart, "--out", tmp_path / "predictions.csv")
    assert "is the run of a deployment, whose main server keeps what it trained in a folder of its own" in said
    assert "`m2fedsa predict CLIENT_DIR MANIFEST --via`" in said
    assert small.refused(capsys, "run", "--resume", apart) == said
    assert f"copy state/checkpoint of the main server's folder to {apart / 'checkpoint' / 'main_server'}" in said
    shutil.copytree(tmp_path / "state", apart / "checkpoint" / "main_server")
    assert small.call("predict", apart, "--out", tmp_path / "predictions.csv") == 0
    assert small.call("predict", run, "--out", tmp_path / "expected.csv") == 0
    assert read(tmp_path / "predictions.csv") == read(tmp_path / "expected.csv")
