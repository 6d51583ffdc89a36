"""Columns that are decoded when asked for, and the look at all of them before a run begins."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from PIL import Image
from tests.unit.data import media

from m2fedsa.data.columns import AudioColumn, ColumnSamples, Fault, ImageColumn, TextColumn, look_at, read_image
from m2fedsa.data.processing import LogMelPatch, PlainImages, TextProcessor
from m2fedsa.errors import DataError

# --- pictures -------------------------------------------------------------------------------------------------------------------------


def png(path, width, height, body=b""):
    """A PNG file with this head, whatever it holds."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (3, 4), (255, 255, 255)).convert(mode).save(path)
    found = read_image(path)
    assert (found.mode, found.size) == ("RGB", (3, 4))
    assert found.getpixel((1, 1)) == (255, 255, 255)


def broken(folder):
    """name -> a file that is no usable image, and what is said of it."""
    folder.joinpath("empty.jpg").touch()
    folder.joinpath("words.jpg").write_text("this is not an image")
    Image.effect_noise((64, 64), 80).save(folder / "whole.jpg")
    cut = folder.joinpath("whole.jpg").read_bytes()
    folder.joinpath("short.jpg").write_bytes(cut[: len(cut) // 2])
    png(folder / "flat.png", 0, 5)
    png(folder / "huge.png", 100_000, 100_000)
    return {
        "missing.jpg": "no such file",
        "empty.jpg": "the file is empty (0 bytes)",
        "words.jpg": "this is no image that can be read: of no known kind, or without pixels",
        "short.jpg": "the image cannot be decoded (",
        "flat.png": "this is no image that can be read: of no known kind, or without pixels",
        "huge.png": "the image cannot be decoded (",
    }


def test_files_that_are_no_images(tmp_path):
    for name, said in broken(tmp_path).items():
        with pytest.raises(DataError) as refusal:
            read_image(tmp_path / name)
        assert str(refusal.value).startswith(f"{tmp_path / name}: {said}"), name


def test_pictures_are_decoded_when_asked_for(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (5 + number, 9), (51 * number, 0, 0)).save(path)
    column = ImageColumn("photo", 4, lambda row: read_image(paths[row]), PlainImages(2))
    assert column.look() == ((), ())
    for path in paths[:2]:
        path.unlink()
    found = column.inputs(torch.tensor([3, 2]))["pixel_values"]
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([153 / 127.5 - 1, 102 / 127.5 - 1]))
    assert [fault.row for fault in column.look().faults] == [0, 1]
    with pytest.raises(DataError, match=r"0\.png: no such file"):
        column.inputs(torch.tensor([0]))


# --- recordings -----------------------------------------------------------------------------------------------------------------------


def tone(hertz, seconds, rate):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


class Heard:
    """A processor that hands over what it is given."""

    def __init__(self, rate, samples):
        self.rate, self.samples = rate, samples

    def __call__(self, waves):
        return {"waves": torch.from_numpy(np.stack([np.pad(wave, (0, self.samples - len(wave))) for wave in waves]))}


def test_any_rate_is_resampled():
    """Against scipy's Fourier method, exact for these tones, away from the ends, where filters begin."""
    wave = tone(440, 0.5, 8000) + tone(1200, 0.5, 8000)
    heard = AudioColumn("audio", [wave], 8000, Heard(16000, 8000)).inputs(torch.tensor([0]))["waves"][0].numpy()
    np.testing.assert_allclose(heard[500:-500], scipy.signal.resample(wave, 8000)[500:-500], atol=1e-4)
    np.testing.assert_allclose(heard[500:-500], (tone(440, 0.5, 16000) + tone(1200, 0.5, 16000))[500:-500], atol=1e-4)


def test_the_right_rate_is_left_alone_and_rows_are_those_asked_for():
    waves = [tone(100 * number, 0.1, 16000) for number in (1, 2, 3)]
    found = AudioColumn("audio", waves, 16000, Heard(16000, 1600)).inputs(torch.tensor([2, 0]))["waves"]
    assert torch.equal(found, torch.from_numpy(np.stack([waves[2], waves[0]])))


def test_a_row_does_not_depend_on_its_neighbours():
    waves = [tone(200, 0.3, 8000), tone(900, 0.7, 8000), tone(500, 1.5, 8000)]
    column = AudioColumn("audio", waves, 8000, LogMelPatch())
    together = column.inputs(torch.tensor([0, 1, 2]))["pixel_values"]
    for row in range(3):
        torch.testing.assert_close(column.inputs(torch.tensor([row]))["pixel_values"][0], together[row], atol=1e-5, rtol=0)


def test_recordings_that_cannot_be_used_and_those_that_are_cut():
    nan = tone(200, 0.1, 8000)
    nan[7] = float("nan")
    waves = [tone(200, 0.1, 8000), np.zeros(0, np.float32), nan, np.full(800, 0.5, np.float32), tone(200, 0.975, 8000), tone(200, 1, 8000)]
    faults, notes = AudioColumn("sound", waves, 8000, LogMelPatch()).look()
    assert faults == (
        Fault(1, "sound", "the recording is empty (0 samples)"),
        Fault(2, "sound", "the recording has values that are not finite"),
        Fault(3, "sound", "the recording is silent: all its samples are equal"),
    )
    assert notes == ("sound: 1 of 6 recordings are longer than 0.975 s; what comes later is not heard",)
    assert AudioColumn("sound", waves[4:5], 8000, LogMelPatch()).look() == ((), ())


def test_what_disturbs_a_recording_gets_its_row_and_what_is_heard():
    got = {}

    def disturb(row, wave):
        got[row] = len(wave)
        return -wave

    waves = [tone(200, 0.1, 8000), tone(200, 3, 8000)]
    column = AudioColumn("sound", waves, 8000, Heard(8000, 1000), disturb)
    assert torch.equal(column.inputs(torch.tensor([1]))["waves"][0], torch.from_numpy(-waves[1][:1000]))
    column.inputs(torch.tensor([0]))
    assert got == {1: 1000, 0: 800}


# --- texts ----------------------------------------------------------------------------------------------------------------------------


def test_texts():
    process = TextProcessor(media.tokenizer(), 5)
    column = TextColumn("title", ["blue soap", "  ", "the red watch with the knife", "\u200b", ""], process)
    faults, notes = column.look()
    assert faults == (
        Fault(1, "title", "the text is empty"),
        Fault(3, "title", r"the tokenizer finds nothing in it: '\u200b'"),
        Fault(4, "title", "the text is empty"),
    )
    assert notes == ("title: 1 of 5 texts are longer than 5 tokens; what comes later is not read",)
    found = column.inputs(torch.tensor([2, 0]))
    assert found["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert TextColumn("title", ["blue soap"], process).look() == ((), ())


# --- all together ---------------------------------------------------------------------------------------------------------------------


class Sick:
    """A column with these faults."""

    def __init__(self, *faults, notes=()):
        self.faults, self.notes = faults, notes

    def inputs(self, rows):
        return {"x": rows * 10}

    def look(self):
        return type("Look", (), {"faults": self.faults, "notes": self.notes})()


def test_faults_are_told_in_the_order_of_rows_twenty_of_them():
    names = [f"id-{row}" for row in range(30)]
    one = Sick(*(Fault(row, "photo", "broken") for row in range(29, 5, -1)))
    other = Sick(Fault(7, "title", "empty"), notes=("of no interest now",))
    with pytest.raises(DataError) as refusal:
        look_at([one, other], "data.csv", names, [Fault(0, "label", "wrong")])
    lines = str(refusal.value).splitlines()
    assert lines[0] == "data.csv: 25 of 30 rows cannot be used; mend them or take them out. Nothing was trained."
    assert [line.strip() for line in lines[1:5]] == [
        "row 1 (id-0), label: wrong",
        "row 7 (id-6), photo: broken",
        "row 8 (id-7), photo: broken",
        "row 8 (id-7), title: empty",
    ]
    assert len(lines) == 22
    assert lines[-1].strip() == "and 6 more"


def test_notes_are_handed_on():
    assert look_at([Sick(notes=("one",)), Sick(notes=("two", "three"))], "data.csv", []) == ("one", "two", "three")


def test_samples_of_a_client_are_rows_of_the_columns():
    samples = ColumnSamples(
        {"photo": Sick()}, torch.tensor([5, 3, 8]), torch.tensor([0, 1, 0]), torch.ones(3, 1, dtype=torch.bool), ("photo",)
    )
    assert samples.inputs("photo", torch.tensor([2, 0]))["x"].tolist() == [80, 50]


def test_a_path_is_not_opened_before_it_is_asked_for():
    column = ImageColumn("photo", 1, lambda row: read_image(Path("/nowhere/image.png")), PlainImages(2))
    with pytest.raises(DataError, match="/nowhere/image.png: no such file"):
        column.inputs(torch.tensor([0]))
