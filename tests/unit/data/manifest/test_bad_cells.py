"""Bad input, a kind at a time: told by row and column before anything is trained; left out and counted with `on_error = "skip"`."""

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.unit.data import media
from tests.unit.data.manifest import shop

from m2fedsa.data.manifest import from_manifest
from m2fedsa.data.manifest.checking import check_manifest
from m2fedsa.errors import DataError

ROW = 4
"""The row that is spoilt, from 0; people count from 1."""
AGES = [{"name": "age", "mean": 40.0, "deviation": 10.0}]


class Bad(NamedTuple):
    """A kind of bad input."""

    column: str
    said: str
    spoil: Callable
    """the folder, the row -> in place, or its file"""
    settings: Mapping = MappingProxyType({})


def no_pixels(path):
    """A sound PNG of width 0."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 8, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def halved(path):
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:900])


def changed(**cells):
    return lambda _folder, row: row.update(cells)


def file_of(name, change):
    return lambda folder, row: change(folder / row[name])


KINDS = {
    "missing image": Bad("photo", "no such file", file_of("photo", lambda path: path.unlink())),
    "missing sound": Bad("jingle", "no such file", file_of("jingle", lambda path: path.unlink())),
    "missing video": Bad("clip", "no such file", file_of("clip", lambda path: path.unlink())),
    "no image": Bad("photo", "this is no image that can be read", file_of("photo", lambda path: path.write_text("words"))),
    "cut image": Bad("photo", "the image cannot be decoded", file_of("photo", halved)),
    "image of no bytes": Bad("photo", "the file is empty (0 bytes)", file_of("photo", lambda path: path.write_bytes(b""))),
    "image of no pixels": Bad("photo", "this is no image that can be read: of no known kind, or without", file_of("photo", no_pixels)),
    "folder": Bad("photo", "this is a folder", changed(photo="photos")),
    "silent": Bad("jingle", "the recording is silent", file_of("jingle", lambda path: soundfile.write(path, np.zeros(800), 8000))),
    "no samples": Bad("jingle", "the recording is empty (0 samples)", file_of("jingle", lambda path: soundfile.write(path, [], 8000))),
    "no recording": Bad("jingle", "this is no recording that can be read", file_of("jingle", lambda path: path.write_text("words"))),
    "video without pictures": Bad("clip", "the file has no pictures (its streams: audio)", changed(clip="sounds/04.wav")),
    "video without sound": Bad("jingle", "the file has no sound (its streams: video)", changed(jingle="clips/04.mp4")),
    "label that is not trained": Bad("label", "'bleu' is the label of no training row; did you mean", changed(label="bleu", split="val")),
    "label outside": Bad("label", "'green' is none of data.classes", changed(label="green"), {"classes": ["red", "blue"]}),
    "NaN": Bad("age", "'nan' is not a finite number; leave the cell empty if nothing was measured", changed(age="nan")),
    "infinite": Bad("age", "'inf' is not a finite number", changed(age="inf")),
    "no number": Bad("age", "'old' is not a number", changed(age="old")),
    "id twice": Bad("id", "'t00' is the id of row 1 as well", changed(id="t00")),
    "not UTF-8": Bad("title", "the byte 0xe9 is not UTF-8 (in Latin-1 it reads 'café')", changed(title="caf\udce9")),
    "split misspelt": Bad("split", "'tran' is no split; did you mean train?", changed(split="tran")),
    "nobody's": Bad("client", "is empty; a row of a training split belongs to somebody", changed(client="")),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder in which nothing is wrong: its rows have pictures, sounds, videos, titles and ages."""
    folder = tmp_path_factory.mktemp("sound")
    made = shop.rows()
    shop.write_files(folder, made)
    (folder / "clips").mkdir()
    clip = media.write_video(folder / "clips" / "00.mp4", [5 * number for number in range(8)]).read_bytes()
    for place, row in enumerate(made):
        row |= {"clip": f"clips/{place:02d}.mp4", "age": str(20 + place)}
        (folder / row["clip"]).write_bytes(clip)
    (folder / "record").mkdir()
    saved = {"processor_class": "m2fedsa.tabular", "columns": AGES}
    (folder / "record" / "preprocessor_config.json").write_text(json.dumps(saved))
    return folder, made


@pytest.fixture
def shelf(sound, tmp_path):
    """The same anew: a folder of links to the files, and rows."""
    folder, made = sound
    for path in folder.rglob("*"):
        if path.is_file():
            own = tmp_path / path.relative_to(folder)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(path.read_bytes())
    return tmp_path, [dict(row) for row in made]


def settings(folder, made, **data):
    path = folder / "train.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(",".join(made[0]) + "\n" + "".join(",".join(row.values()) + "\n" for row in made))
    tables = shop.tables(path, "photo", "jingle", "title", **data)
    tables["modalities"]["clip"] = {"kind": "video", "encoder": "embedded:digits-image"}
    tables["modalities"]["record"] = {"kind": "tabular", "encoder": str(folder / "record")}
    return shop.Config.from_mapping(tables)


def call(what, config, folder):
    processors = {name: one.encoder for name, one in config.modalities.items()}
    return what(config.data, config.modalities, config.seed, processors, folder / "looks")


def rows_of(data):
    splits = [split for client in data.clients.values() for split in (client.train, client.validation, client.test) if split is not None]
    return sorted(row for samples in splits for row in samples.indices.tolist())


def test_nothing_is_wrong_with_what_is_spoilt_below(shelf):
    folder, made = shelf
    data = call(from_manifest, settings(folder, made), folder)
    assert (rows_of(data), data.modalities) == (list(range(12)), ("photo", "jingle", "title", "clip", "record"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_told_by_row_and_column_and_its_row_is_left_out_if_told_so(shelf, kind):
    (folder, made), bad = shelf, KINDS[kind]
    bad.spoil(folder, made[ROW])
    config = settings(folder, made, **bad.settings)
    with pytest.raises(DataError) as refusal:
        call(from_manifest, config, folder)
    first, *told = str(refusal.value).splitlines()
    assert first.startswith(f"{folder / 'train.csv'}: 1 of 12 rows cannot be used. Nothing was trained. Mend them, or leave them out with")
    (line,) = told
    assert line.strip().startswith(f"row {ROW + 1} ({made[ROW]['id']}), {bad.column}: ")
    assert bad.said in line
    data = call(from_manifest, config.override(["data.on_error=skip"]), folder)
    assert rows_of(data) == [row for row in range(12) if row != ROW]
    assert f"1 of 12 rows were left out: {line.strip()}" in data.notes
    checked = call(check_manifest, config, folder)
    assert [checked.reading.told(fault) for fault in checked.faults] == [line.strip()]


def test_a_client_of_one_class_takes_part_and_is_named(shelf):
    """It is no fault: under a strong skew such clients are common."""
    folder, made = shelf
    told = "1 of 2 clients have training samples of one class only: shop-1 (red)"
    data = call(from_manifest, settings(folder, made), folder)
    assert told in data.notes
    assert data.clients["shop-1"].train.labels.tolist() == [1, 1, 1]
    assert told in call(check_manifest, settings(folder, made), folder).notes
    for row in made:
        del row["client"]
    drawn = call(from_manifest, settings(folder, made, clients=3, minimum=3, partition="shards", shards=1), folder)
    assert any("of 3 clients have training samples of one class only: client-" in note for note in drawn.notes)


def test_a_class_without_a_training_row_is_named(shelf):
    folder, made = shelf
    data = call(from_manifest, settings(folder, made, classes=["blue", "red", "green"]), folder)
    assert "no training row has the label green" in data.notes
    assert data.classes == ("blue", "red", "green")
