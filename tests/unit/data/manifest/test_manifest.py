"""From a manifest and settings to clients with their samples."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.data.manifest import shop

from m2fedsa.data import digits_inputs
from m2fedsa.data.manifest import from_manifest
from m2fedsa.errors import ConfigError, DataError


def read(config, tmp_path):
    processors = {name: one.encoder for name, one in config.modalities.items()}
    return from_manifest(config.data, config.modalities, config.seed, processors, tmp_path / "looks")


def held(client):
    """split -> numbers of the rows, as the titles tell them."""
    splits = {"train": client.train, "validation": client.validation, "test": client.test}
    return {name: samples.indices.tolist() for name, samples in splits.items() if samples is not None}


# --- who holds what -------------------------------------------------------------------------------------------------------------------


def test_clients_and_splits_of_the_manifest(tmp_path):
    data = read(shop.config(shop.write(tmp_path)), tmp_path)
    assert (data.classes, data.modalities, data.kind) == (("blue", "red"), ("photo", "jingle", "title"), "single_label")
    assert {name: held(client) for name, client in data.clients.items()} == {
        "shop-0": {"train": [0, 1, 4, 5, 8, 9]},
        "shop-1": {"train": [2, 6, 10], "validation": [3, 11], "test": [7]},
    }
    assert data.clients["shop-0"].train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert data.notes == ("1 of 2 clients have training samples of one class only: shop-1 (red)",)


def test_inputs_are_what_lies_in_the_files(tmp_path):
    data = read(shop.config(shop.write(tmp_path)), tmp_path)
    samples = data.clients["shop-1"].train
    pixels = samples.inputs("photo", torch.tensor([1]))["pixel_values"]
    red = 76 / 255 - digits_inputs.MEAN_INK  # the grey of (250, 0, 0): 0.299 * 250 = 74.75, and of (0, 0, 250): 0.114 * 250 = 28.5
    assert pixels.shape == (1, 1, 28, 28)
    assert pixels.mean().item() == pytest.approx(red, abs=0.01)
    assert samples.inputs("jingle", torch.tensor([0, 2]))["input_values"].shape == (2, 64, 40)
    expected = digits_inputs.character_ids(["red thing 6", "red thing 2"])[:, :14]
    assert torch.equal(samples.inputs("title", torch.tensor([1, 0]))["input_ids"], expected)


@pytest.mark.parametrize("name", ["train.tsv", "train.jsonl", "train.parquet"])
def test_the_kind_of_file_makes_no_difference(tmp_path, name):
    one = read(shop.config(shop.write(tmp_path / "one")), tmp_path)
    other = read(shop.config(shop.write(tmp_path / "other", name=name)), tmp_path)
    for client in one.clients:
        assert held(one.clients[client]) == held(other.clients[client])
        for modality in one.modalities:
            ours, theirs = (data.clients[client].train.inputs(modality, torch.tensor([0, 2])) for data in (one, other))
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_files_in_cells(tmp_path):
    """Pictures as bytes, and as Hugging Face keeps them."""
    made = shop.rows()
    shop.write_files(tmp_path, made)
    inside = [row | {"photo": (tmp_path / row["photo"]).read_bytes()} for row in made]
    wrapped = [row | {"photo": {"bytes": row["photo"], "path": None}} for row in inside]
    wrapped[4]["photo"] = {"bytes": None, "path": made[4]["photo"]}
    wrapped[5]["photo"] = {"bytes": None, "path": None}
    plain, bytes_, both = (
        read(shop.config(shop.write_manifest(tmp_path / name, rows), "photo", "title"), tmp_path)
        for name, rows in (("a.csv", made), ("b.parquet", inside), ("c.parquet", wrapped))
    )
    every = torch.arange(3)
    expected = plain.clients["shop-0"].train.inputs("photo", every)["pixel_values"]
    assert torch.equal(bytes_.clients["shop-0"].train.inputs("photo", every)["pixel_values"], expected)
    assert torch.equal(both.clients["shop-0"].train.inputs("photo", every)["pixel_values"], expected)
    assert both.clients["shop-0"].train.presence.tolist() == [[True, True]] * 3 + [[False, True]] + [[True, True]] * 2


def test_an_empty_cell_is_a_missing_modality_and_an_empty_label_an_unlabelled_sample(tmp_path):
    made = shop.rows()
    for row in made:
        if row["client"] == "shop-0":
            row["jingle"] = ""
    made[0]["photo"] = "  "
    made[1]["label"] = ""
    shop.write_files(tmp_path, [row | {"label": row["label"] or "red", "photo": row["photo"].strip()} for row in made])
    data = read(shop.config(shop.write_manifest(tmp_path / "a.csv", made)), tmp_path)
    first = data.clients["shop-0"]
    assert first.modalities == ("photo", "title")  # it has no jingle at all
    assert first.train.presence.tolist() == [[False, True], *[[True, True]] * 5]
    assert first.train.labels.tolist() == [1, -1, 1, 0, 1, 0]
    assert data.clients["shop-1"].modalities == ("photo", "jingle", "title")


def test_without_a_column_of_clients_they_are_made_as_the_settings_say(tmp_path):
    made = [row | {"client": None} for row in shop.rows(24)]
    for row in made:
        del row["client"]
    made[3]["photo"] = ""
    config = shop.config(shop.write(tmp_path, made), clients=3, minimum=2, partition="iid", multimodal_fraction=1.0)
    data = read(config, tmp_path)
    assert set(data.clients) == {"client-00", "client-01", "client-02", "evaluation"}
    train = sorted(row for name in list(data.clients)[:3] for row in held(data.clients[name])["train"])
    assert train == [row for row in range(24) if row % 4 < 3]
    assert held(data.clients["evaluation"]) == {"validation": [3, 11, 19], "test": [7, 15, 23]}
    assert data.clients["evaluation"].validation.presence.tolist() == [[False, True, True], [True] * 3, [True] * 3]
    again = read(config, tmp_path)
    assert {name: held(client) for name, client in again.clients.items()} == {name: held(client) for name, client in data.clients.items()}


def test_clients_by_another_column(tmp_path):
    made = [{**row, "town": ("Bonn", "Rom", "Oslo")[place % 3]} for place, row in enumerate(shop.rows(24))]
    for row in made:
        del row["client"]
    config = shop.config(shop.write(tmp_path, made), clients=3, partition="column", column="town", multimodal_fraction=1.0)
    data = read(config, tmp_path)
    towns = {name: {row % 3 for row in held(client)["train"]} for name, client in data.clients.items() if name != "evaluation"}
    assert sorted(map(tuple, towns.values())) == [(0,), (1,), (2,)]


def test_splits_are_drawn_where_no_column_tells_them(tmp_path):
    made = shop.rows(40)
    for row in made:
        del row["split"]
    manifest = shop.write(tmp_path, made)
    data = read(shop.config(manifest, "title", held_out=[0.2, 0.3]), tmp_path)
    assert [{split: len(rows) for split, rows in held(client).items()} for client in data.clients.values()] == [
        {"train": 10, "validation": 4, "test": 6}
    ] * 2
    assert "the manifest has no column split: 20% of each client's rows are drawn for validation and 30% for test" in data.notes
    other = read(shop.config(manifest, "title", held_out=[0.2, 0.3]).override(["seed=1"]), tmp_path)
    assert held(data.clients["shop-0"]) != held(other.clients["shop-0"])
    every = [row for client in data.clients.values() for rows in held(client).values() for row in rows]
    assert sorted(every) == list(range(40))


def test_rows_set_apart_that_are_nobodys(tmp_path):
    made = [row | ({} if row["split"] == "train" else {"client": ""}) for row in shop.rows()]
    data = read(shop.config(shop.write(tmp_path, made), "title"), tmp_path)
    assert held(data.clients["evaluation"]) == {"validation": [3, 11], "test": [7]}
    assert "validation" not in held(data.clients["shop-1"])


def test_names_of_clients(tmp_path):
    made = [row | {"client": {"shop-0": "Dr. Müller & Co", "shop-1": "7"}[row["client"]]} for row in shop.rows()]
    assert list(read(shop.config(shop.write(tmp_path, made), "title"), tmp_path).clients) == ["7", "Dr.-M-ller-Co"]


# --- labels ---------------------------------------------------------------------------------------------------------------------------


def labels(tmp_path, values, **data):
    """What becomes of labels, all in training."""
    made = [{"title": "a word", "split": "train", **value} for value in values]
    found = read(shop.config(shop.write_manifest(tmp_path / "a.jsonl", made), "title", clients=1, minimum=1, **data), tmp_path)
    return found.classes, found.clients["client-00"].train.labels


def test_classes_are_sorted_as_people_would(tmp_path):
    classes, found = labels(tmp_path, [{"label": label} for label in ("10", "9", 2, None, "-1")])
    assert (classes, found.tolist()) == (("-1", "2", "9", "10"), [3, 2, 1, -1, 0])
    classes, found = labels(tmp_path, [{"mood": "b"}, {"mood": "a"}], classes=["b", "a", "c"], columns={"label": "mood"})
    assert (classes, found.tolist()) == (("b", "a", "c"), [0, 1])


def test_several_classes(tmp_path):
    classes, found = labels(tmp_path, [{"label": "x; y"}, {"label": ["y"]}, {"label": None}, {"label": ";"}], task="multi_label")
    assert classes == ("x", "y")
    assert found.tolist() == [[1, 1], [0, 1], [-1, -1], [0, 0]]
    values = [{"p": 1, "q": 0}, {"p": "0", "q": True}, {"p": None, "q": ""}]
    classes, found = labels(tmp_path, values, task="multi_label", columns={"label": ["p", "q"]})
    assert (classes, found.tolist()) == (("p", "q"), [[1, 0], [0, 1], [-1, -1]])


def test_numbers(tmp_path):
    classes, found = labels(tmp_path, [{"y": 1.5, "z": "2"}, {"y": None}], task="regression", columns={"label": ["y", "z"]})
    assert classes == ("y", "z")
    np.testing.assert_array_equal(found, [[1.5, 2.0], [np.nan, np.nan]])


# --- what cannot be used --------------------------------------------------------------------------------------------------------------


def spoilt(tmp_path):
    """A manifest with a fault of every kind, and what is said of each."""
    made = shop.rows(24)
    shop.write_files(tmp_path, made)
    (tmp_path / made[0]["photo"]).unlink()
    (tmp_path / made[1]["photo"]).write_text("no picture")
    soundless = np.zeros(800)
    import soundfile

    soundfile.write(tmp_path / made[2]["jingle"], soundless, 8000)
    soundfile.write(tmp_path / made[4]["jingle"], soundless[:0], 8000)
    made[5]["id"] = "t00"
    made[6]["split"] = "tran"
    made[7]["label"] = "bleu"
    made[8]["client"] = ""
    made[9] |= {"photo": "", "jingle": "", "title": ""}
    made[10]["title"] = "\u0301"
    told = (
        f"row 1 (t00), photo: {tmp_path}/photos/00.png: no such file",
        f"row 2 (t01), photo: {tmp_path}/photos/01.png: this is no image that can be read: of no known kind, or without pixels",
        "row 3 (t02), jingle: the recording is silent: all its samples are equal",
        "row 5 (t04), jingle: the recording is empty (0 samples)",
        "row 6 (t00), id: 't00' is the id of row 1 as well",
        "row 7 (t06), split: 'tran' is no split; did you mean train?",
        "row 8 (t07), label: 'bleu' is the label of no training row; did you mean 'blue'?",
        "row 9 (t08), client: is empty; a row of a training split belongs to somebody",
        "row 10 (t09), photo, jingle, title: the row has no modality: all of these are empty",
        "row 11 (t10), title: the tokenizer finds nothing in it: '\u0301'",
    )
    return shop.write_manifest(tmp_path / "train.csv", made), told


def test_what_cannot_be_used_is_told_by_row_and_column(tmp_path):
    manifest, told = spoilt(tmp_path)
    with pytest.raises(DataError) as refusal:
        read(shop.config(manifest), tmp_path)
    first, *lines = str(refusal.value).splitlines()
    assert first == (f"{manifest}: 10 of 24 rows cannot be used. Nothing was trained. Mend them, or leave them out with --on-error skip.")
    assert tuple(line.strip() for line in lines) == told


def test_rows_are_left_out_and_counted(tmp_path):
    manifest, told = spoilt(tmp_path)
    data = read(shop.config(manifest, on_error="skip"), tmp_path)
    kept = sorted(row for client in data.clients.values() for rows in held(client).values() for row in rows)
    assert kept == [3, *range(11, 24)]
    assert f"10 of 24 rows were left out: {'; '.join(told[:3])} …" in data.notes


def test_more_than_twenty(tmp_path):
    made = [row | {"split": "tain"} for row in shop.rows(30)]
    with pytest.raises(DataError) as refusal:
        read(shop.config(shop.write(tmp_path, made), "title"), tmp_path)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 22
    assert lines[-1].strip() == "and 10 more"
    with pytest.raises(DataError, match="not one row can be used"):
        read(shop.config(shop.write(tmp_path, made), "title", on_error="skip"), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.columns.label": "lable"}, "data.columns.label = 'lable', but there is no such column. Did you mean 'label'?"),
        ({"data.columns.client": "x"}, "data.columns.client = 'x', but there is no such column. There are id, photo, jingle, title,"),
        ({"modalities.photo.column": "foto"}, "modalities.photo.column = 'foto', but there is no such column. Did you mean 'photo'?"),
        ({"modalities.photo.kind": None}, "modalities.photo.kind is missing: of a manifest it has to be told. One of image, audio, video,"),
        ({"modalities.photo.options.sise": 3}, "modalities.photo.options.sise: the kind image has no such option; did you mean size?"),
        ({"modalities.title.options.x": 3}, "modalities.title.options.x: the kind text has no such option; it has tokens."),
        ({"modalities.title.options.tokens": 0.5}, "modalities.title.options.tokens = 0.5, but it should be a whole number."),
        (
            {"modalities.title.options.tokens": 99},
            "modalities.title.options.tokens is 99; the tokenizer of embedded:digits-text takes",
        ),
        ({"modalities.jingle.options.begin": "x"}, "modalities.jingle.options.begin = 'x', but there is no such column."),
    ],
)
def test_settings_that_do_not_fit_the_manifest(tmp_path, change, said):
    changes = [f"{key}={'none' if value is None else value}" for key, value in change.items()]
    config = shop.config(shop.write(tmp_path)).override(changes)
    with pytest.raises((ConfigError, DataError)) as refusal:
        read(config, tmp_path)
    assert said in str(refusal.value)


def test_labels_that_are_missing(tmp_path):
    made = [{"title": "a"}, {"title": "b"}]
    with pytest.raises(DataError, match=r"no column is called label. Name the one that is to be predicted with data.columns.label; there"):
        labels(tmp_path, made)
    with pytest.raises(DataError, match=r"no training row has a label in the column 'label'"):
        labels(tmp_path, [{"label": None}])
    for values, data, said in (
        ([{"y": "x"}], {"task": "regression", "columns": {"label": "y"}}, "row 1, y: 'x' is not a number"),
        ([{"p": 2, "q": 1}], {"task": "multi_label", "columns": {"label": ["p", "q"]}}, "row 1, p: '2' is neither 0 nor 1"),
        ([{"p": 1}, {"p": 1, "q": 1}], {"task": "multi_label", "columns": {"label": ["p", "q"]}}, "row 1, q: is empty, but other labels"),
        ([{"label": "a"}, {"label": "d"}], {"classes": ["a", "b"]}, "row 2, label: 'd' is none of data.classes"),
    ):
        with pytest.raises(DataError) as refusal:
            labels(tmp_path, values, **data)
        assert said in str(refusal.value)


def test_one_source(tmp_path):
    for data, said in (
        ({"source": "digits", "manifest": "a.csv"}, "name a manifest and leave the source out"),
        ({"source": "manifest"}, "name a manifest and leave the source out"),
        ({"manifest": "a.csv", "options": {"x": 1}}, "data.options.x: a manifest has no options; see modalities.*.options"),
    ):
        with pytest.raises(ConfigError, match=said.replace("*", r"\*")):
            shop.Config.from_mapping({"data": data, "modalities": {"image": {"encoder": "x"}}})


# --- looking --------------------------------------------------------------------------------------------------------------------------


def test_a_large_manifest_is_looked_at_by_heads_until_it_was_decoded_once(tmp_path, monkeypatch):
    from m2fedsa.data.manifest import looking
    from m2fedsa.data.readers import image

    made = shop.rows()
    manifest = shop.write(tmp_path, made)
    Image.effect_noise((64, 64), 80).save(tmp_path / made[3]["photo"])
    whole = (tmp_path / made[3]["photo"]).read_bytes()
    (tmp_path / made[3]["photo"]).write_bytes(whole[: len(whole) // 2])  # its head is sound
    monkeypatch.setattr(looking, "DECODED", 5)
    assert len(read(shop.config(manifest, "photo"), tmp_path).clients) == 2
    said = r"row 4 \(t03\), photo: .*the image cannot be decoded"
    for look in ("all", "auto"):  # decoded now; remembered then
        with pytest.raises(DataError, match=said):
            read(shop.config(manifest, "photo", look=look), tmp_path)
    read(shop.config(manifest, "photo", look="heads"), tmp_path)
    (tmp_path / made[3]["photo"]).write_bytes(whole)  # mended: what was remembered is of another file
    monkeypatch.setattr(looking, "DECODED", 100)
    assert len(read(shop.config(manifest, "photo"), tmp_path).clients) == 2
    monkeypatch.setattr(image, "_in_rgb", None)  # nothing is decoded any more
    assert len(read(shop.config(manifest, "photo"), tmp_path).clients) == 2
