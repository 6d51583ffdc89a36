"""Every kind of manifest gives the same rows; what is wrong with a file is told by row and column."""

import datasets
import pytest
from tests.unit.data.manifest import shop

from m2fedsa.data.columns import Fault
from m2fedsa.data.manifest.opening import read_rows
from m2fedsa.data.manifest.rows import at_a_time
from m2fedsa.errors import DataError

TABLE = [
    {"id": "a", "text": "Größe, 'L'", "age": "3", "empty": ""},
    {"id": "b", "text": 'two\nlines; "and" a quote', "age": "4.5", "empty": "x"},
]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "A.CSV"])
def test_every_kind_of_file(tmp_path, name):
    rows = read_rows(str(shop.write_manifest(tmp_path / name, TABLE)))
    assert (len(rows), rows.names, rows.root, rows.faults) == (2, ("id", "text", "age", "empty"), tmp_path, ())
    assert list(rows.column("text")) == [TABLE[0]["text"], TABLE[1]["text"]]
    assert list(rows.column("empty")) == [None, "x"]
    assert [rows.cell("age", row) for row in (1, 0)] == ["4.5", "3"]
    assert rows.records(("age", "id"), [1]) == [("4.5", "b")]


def test_semicolons_and_a_mark_of_byte_order(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid;text\r\na;x, y\r\n\r\nb;z\r\n")
    rows = read_rows(str(tmp_path / "a.csv"))
    assert rows.names == ("id", "text")
    assert list(rows.column("text")) == ["x, y", "z"]


def test_cells_keep_their_types_where_the_file_has_some(tmp_path):
    made = [{"n": 1, "list": [1.5, 2], "file": b"\0\1"}, {"n": None, "list": None, "file": None}]
    rows = read_rows(str(shop.write_manifest(tmp_path / "a.parquet", made)))
    assert [rows.cell(name, 0) for name in rows.names] == [1, [1.5, 2.0], b"\0\1"]
    assert [rows.cell(name, 1) for name in rows.names] == [None, None, None]
    (tmp_path / "a.jsonl").write_text('{"n": 1, "list": [1.5, 2]}\n\n{"list": null, "late": true}\n')
    rows = read_rows(str(tmp_path / "a.jsonl"))
    assert rows.names == ("n", "list", "late")
    assert [[rows.cell(name, row) for name in rows.names] for row in (0, 1)] == [["1", "[1.5, 2]", None], [None, None, "true"]]


def test_more_rows_than_are_written_at_a_time(tmp_path):
    rows = read_rows(str(shop.write_manifest(tmp_path / "a.csv", [{"n": str(place)} for place in range(20_000)])))
    assert len(rows) == 20_000
    assert [rows.cell("n", row) for row in (0, 8191, 8192, 19_999)] == ["0", "8191", "8192", "19999"]
    assert list(rows.column("n")) == [str(place) for place in range(20_000)]


def test_cells_with_whole_files_are_read_a_few_at_a_time(tmp_path):
    """Sixteen megabytes of rows, not eight thousand rows."""
    assert [at_a_time(size, 1000) for size in (0, 1000, 1000 << 20, 1 << 50)] == [8192, 8192, 16, 1]
    content = [bytes([place]) * (1 << 20) for place in range(40)]
    rows = read_rows(str(shop.write_manifest(tmp_path / "a.parquet", [{"file": one} for one in content])))
    assert list(rows.column("file")) == content
    assert max(chunk.nbytes for chunk in rows.table.column("file").chunks) < 18 << 20


@pytest.mark.parametrize("saved", [True, False])
def test_a_hugging_face_data_set(tmp_path, saved):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features).select([2, 0, 1])
    test = datasets.Dataset.from_dict({"text": ["d"], "label": [0]}, features)
    if saved:
        datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "set"))
    else:  # a folder of Parquet files, as most of the hub's data sets are
        (tmp_path / "set").mkdir()
        train.to_parquet(tmp_path / "set" / "train-0.parquet")
        test.to_parquet(tmp_path / "set" / "test-0.parquet")
    rows = read_rows(str(tmp_path / "set"))
    assert list(rows.column("text")) == ["c", "a", "b", "d"]
    assert list(rows.column("label")) == ["yes", "yes", "no", "no"]
    assert list(rows.column("split")) == ["train", "train", "train", "test"]
    assert rows.classes["label"] == ["no", "yes"]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No hub, and an empty cache of data sets: its folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_data_set_by_its_name_from_the_cache(tmp_path, offline):
    """What `load_dataset` left in the cache where there was a network: here made from a folder, and moved to where the name has it."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    (tmp_path / "reviews").mkdir()
    for split, texts in (("train", ["a", "b"]), ("test", ["c"])):
        made = datasets.Dataset.from_dict({"text": texts, "label": [1, 0][: len(texts)]}, features)
        made.to_parquet(tmp_path / "reviews" / f"{split}-0.parquet")
    datasets.load_dataset(str(tmp_path / "reviews"))
    (offline / "reviews").rename(offline / "somebody___reviews")
    before = datasets.config.HF_HUB_OFFLINE
    rows = read_rows("somebody/reviews")
    assert [list(rows.column(name)) for name in ("text", "label", "split")] == [
        ["a", "b", "c"],
        ["yes", "no", "yes"],
        ["train"] * 2 + ["test"],
    ]
    assert (rows.source, rows.classes["label"]) == ("somebody/reviews", ["no", "yes"])
    assert datasets.config.HF_HUB_OFFLINE is before


@pytest.mark.parametrize("name", ["somebody/nothing", "nothing", "a/b/c"])
def test_a_name_that_is_not_in_the_cache(offline, name):
    with pytest.raises(DataError) as refusal:
        read_rows(name)
    said = str(refusal.value)
    assert said.startswith(f"{name}: there is no such file or folder (in ")
    assert f"no data set of that name in the cache {offline}, and the hub cannot be reached. Load it once where" in said


# --- what is wrong with a file --------------------------------------------------------------------------------------------------------


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_rows(str(path))
    return str(refusal.value).removeprefix(f"{path}: ")


def test_files_that_are_no_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    assert refused(csv, b"") == "there is no head line."
    assert refused(csv, b"a,b\n") == "there is not one row beneath the head line."
    assert refused(csv, b"a,a\n1,2\n") == "the head line names 'a' twice."
    assert refused(csv, b"a,,c\n1,2,3\n") == "the head line has no name for column 2."
    assert refused(csv, "a,b\n1,2\n".encode("utf-16")) == "is not UTF-8 but UTF-16. Save it as UTF-8."
    assert refused(csv, "gr\xf6\xdfe,b\n1,2\n".encode("latin-1")) == "the head line is not UTF-8. Save the file as UTF-8."
    assert refused(jsonl, b"\n") == "there is not one row with a key."
    assert refused(jsonl, b"[1]\n") == "row 1 is not a JSON object (list instead of an object)."
    assert refused(tmp_path / "a.parquet", b"PAR1 no").startswith("cannot be read as Parquet (")
    assert (
        refused(tmp_path / "a.xlsx", b"x")
        == "a manifest is a .csv, .tsv, .jsonl or .parquet file, or a Hugging Face data set, not '.xlsx'."
    )
    with pytest.raises(DataError, match=rf"^b.csv: no such file \(in {tmp_path}\)\.$"):
        read_rows("b.csv")
    with pytest.raises(DataError, match=r"^data.folder = 'nowhere', but there is no such folder"):
        read_rows(str(shop.write_manifest(tmp_path / "c.csv", TABLE)), "nowhere")


def test_rows_and_cells_that_are_broken(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\na,one\nb\nc,caf\xe9\nd,two,three\n")
    rows = read_rows(str(tmp_path / "a.csv"))
    told = "has {} cells, but the head line 2; look for a quote or a mark too many or too few"
    assert rows.faults == (
        Fault(1, "(the row)", told.format(1)),
        Fault(2, "text", "the byte 0xe9 is not UTF-8 (in Latin-1 it reads 'café'); save the file as UTF-8"),
        Fault(3, "(the row)", told.format(3)),
    )
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": \n{"id": "\xe9"}\n7\n')
    assert [(fault.row, fault.what.partition(" (")[0]) for fault in read_rows(str(tmp_path / "a.jsonl")).faults] == [
        (1, "is not a JSON object"),
        (2, "is not UTF-8"),
        (3, "is not a JSON object"),
    ]
