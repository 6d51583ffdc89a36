"""Photos and titles, read from a folder of exactly that layout."""

import collections

import pytest
import torch
from tests.unit.data import media

from m2fedsa.config import Data
from m2fedsa.data.products import products
from m2fedsa.data.samples import UNLABELLED
from m2fedsa.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processors")
    media.tokenizer().save_pretrained(folder)
    return {"image": "object", "text": str(folder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return media.write_products(tmp_path_factory.mktemp("data") / "products")


@pytest.fixture
def load(folder, processors):
    def load(where=folder, **options):
        spread = {"clients": 5, "minimum": 2, **{name: options.pop(name) for name in Data.model_fields if name in options}}
        return products(
            **{"seed": 0, "processors": processors, "folder": str(where), "settings": Data(**spread), "image_size": 8} | options
        )

    return load


def rewritten(folder, change):
    """A copy of the folder's table after `change`, beside the same photos."""
    rows = media.product_rows()
    change(rows)
    media.write_csv(folder / "data.csv", media.PRODUCT_COLUMNS, rows)
    return folder


@pytest.fixture
def mine(tmp_path):
    """A folder that a test may spoil."""
    return media.write_products(tmp_path / "mine")


def trained(data):
    """The table's rows of every training client."""
    return {name: client.train.indices.tolist() for name, client in data.clients.items() if client.train is not None}


def test_who_holds_what(load):
    data = load(multimodal_fraction=0.6)
    rows = media.product_rows()
    assert data.classes == media.CATEGORIES
    assert data.modalities == ("image", "text")
    assert sorted(row for held in trained(data).values() for row in held) == [n for n, row in enumerate(rows) if row["split"] == "train"]
    assert sorted(data.clients) == ["client-00", "client-01", "client-02", "client-03", "client-04", "evaluation"]
    held = collections.Counter(client.modalities for name, client in data.clients.items() if name != "evaluation")
    assert held == {("image", "text"): 3, ("image",): 1, ("text",): 1}
    for name, client in data.clients.items():
        for split, samples in (("train", client.train), ("val", client.validation), ("test", client.test)):
            if samples is not None:
                assert {rows[row]["split"] for row in samples.indices.tolist()} == {split}, name
                assert samples.labels.tolist() == [int(rows[row]["label"]) for row in samples.indices.tolist()]
    evaluation = data.clients["evaluation"]
    assert (len(evaluation.validation.labels), len(evaluation.test.labels)) == (7, 7)
    assert evaluation.test.presence.all()
    assert data.notes == ()


def test_a_sample_is_its_photo_and_its_title(load):
    """The category tints the photo: red, green or blue; its word is in the title."""
    samples = load(partition="iid", multimodal_fraction=1.0).clients["client-02"].train
    pixels = samples.inputs("image", torch.arange(len(samples.labels)))["pixel_values"]
    assert pixels.shape == (len(samples.labels), 3, 8, 8)
    assert pixels.mean((2, 3)).argmax(1).tolist() == [label % 3 for label in samples.labels.tolist()]
    ids = samples.inputs("text", torch.arange(len(samples.labels)))["input_ids"]
    words = {5 + place: place for place in range(7)}
    assert [[words[one] for one in row if one in words] for row in ids.tolist()] == [[label] for label in samples.labels.tolist()]


def test_samples_lack_modalities_and_labels(load):
    data = load(missing_rate=0.5, labelled_fraction=0.5, multimodal_fraction=1.0)
    presence = torch.cat([client.train.presence for client in data.clients.values() if client.train])
    assert presence.any(1).all()
    assert 0 < (~presence).sum() < len(presence)
    labels = torch.cat([client.train.labels for client in data.clients.values() if client.train])
    assert torch.bincount(labels[labels != UNLABELLED]).tolist() == [3] * 7
    assert data.clients["evaluation"].test.presence.all()


def test_the_seed_decides(load):
    assert trained(load(seed=3)) == trained(load(seed=3))
    assert trained(load(seed=3)) != trained(load(seed=4))


def test_another_division_has_as_many_of_each_class_and_split(load):
    rows = media.product_rows()

    def of(data):
        found = {"train": {row for held in trained(data).values() for row in held}}
        evaluation = data.clients["evaluation"]
        return found | {"val": set(evaluation.validation.indices.tolist()), "test": set(evaluation.test.indices.tolist())}

    official, one, two = of(load()), of(load(division=1)), of(load(division=2))
    assert one == of(load(division=1, seed=9))
    assert one["test"] not in (official["test"], two["test"])
    for division in (one, two):
        assert sorted(row for part in division.values() for row in part) == list(range(len(rows)))
        for split, part in division.items():
            counts = collections.Counter(rows[row]["label"] for row in part)
            assert counts == collections.Counter(row["label"] for row in rows if row["split"] == split)


def test_the_description_is_longer_and_what_is_cut_is_told(load):
    data = load(text="description")
    assert data.notes == ("description: 56 of 56 texts are longer than 16 tokens; what comes later is not read",)
    short = load(text_tokens=5)
    assert short.notes == ("title: 56 of 56 texts are longer than 5 tokens; what comes later is not read",)
    assert short.clients["evaluation"].test.inputs("text", torch.arange(2))["input_ids"].shape == (2, 5)


def test_rows_that_cannot_be_used(load, mine):
    def spoil(rows):
        rows[0]["title"] = "   "
        rows[2]["label"] = "7"
        rows[3]["split"] = "training"
        (mine / rows[5]["image"]).write_bytes(b"")
        (mine / rows[6]["image"]).unlink()
        whole = (mine / rows[9]["image"]).read_bytes()
        (mine / rows[9]["image"]).write_bytes(whole[: len(whole) // 3])

    with pytest.raises(DataError) as refusal:
        load(rewritten(mine, spoil))
    first, *lines = [line.strip() for line in str(refusal.value).splitlines()]
    assert first == f"{mine / 'data.csv'}: 6 of 56 rows cannot be used; mend them or take them out. Nothing was trained."
    assert lines[:5] == [
        "row 1 (0000), title: the text is empty",
        "row 3 (0002), label: '7' is not a whole number from 0 to 6",
        "row 4 (0003), split: 'training' is none of train, val, validation, test",
        f"row 6 (0005), image: {mine}/img/0005.jpg: the file is empty (0 bytes)",
        f"row 7 (0006), image: {mine}/img/0006.jpg: no such file",
    ]
    assert lines[5].startswith(f"row 10 (1001), image: {mine}/img/1001.jpg: the image cannot be decoded (")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file. It should have the columns id, image, title, label, category, split."),
        ("id,image,title,label,split\n1,2,3,4,5\n", "the column category is missing. Its head line names id, image, title, label, split."),
        ("", "there is no head line."),
        ("id,image,title,label,category,split\n", "there is not one row beneath the head line."),
        (
            "id,image,title,label,category,split\n1,2,3,4,5,6\n1,2\n",
            "1 of 2 rows cannot be read.\n       row 2, (the row): has 2 cells, but the head line 6; look for a quote",
        ),
        (
            "id,image,title,label,category,split\n1,2,3,4,5,6,7\n",
            "1 of 1 rows cannot be read.\n       row 1, (the row): has 7 cells, but the head line 6; look for a quote",
        ),
        (
            "id,image,title,label,category,split\n1,2,caf\xe9,4,5,6\n".encode("latin-1"),
            "1 of 1 rows cannot be read.\n       row 1, title: the byte 0xe9 is not UTF-8 (in Latin-1 it reads 'café'); save",
        ),
    ],
)
def test_a_table_that_cannot_be_used(load, tmp_path, content, said):
    if content is not None:
        (tmp_path / "data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as refusal:
        load(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'data.csv'}: {said}")


def test_options_out_of_range(load):
    with pytest.raises(ConfigError, match=r'^text is "brand"; it is the column "title" or "description"$'):
        load(text="brand")
    with pytest.raises(ConfigError, match=r"^data.column = 'brand' is no column that clients can be made by; the source .* has none"):
        load(partition="column", column="brand")
    with pytest.raises(ConfigError, match=r"^text_tokens is 99"):
        load(text_tokens=99)
