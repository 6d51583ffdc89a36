"""Columns that are decoded when asked for, and the look at all of them before a run begins."""

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from PIL import Image
from tests.unit.data import media

from m2fedsa.data.columns import ColumnSamples, Fault, Look, look_at
from m2fedsa.data.columns.media import AudioColumn, ImageColumn, VideoColumn
from m2fedsa.data.columns.tables import SeriesColumn, TabularColumn, TextColumn
from m2fedsa.data.processors.audio import LogMelPatch
from m2fedsa.data.processors.image import PlainImages
from m2fedsa.data.processors.series import SeriesProcessor
from m2fedsa.data.processors.tabular import TabularProcessor, columns_of
from m2fedsa.data.processors.text import TextProcessor
from m2fedsa.data.processors.video import Tiles
from m2fedsa.data.readers.audio import Wave
from m2fedsa.data.readers.image import read_image
from m2fedsa.data.readers.video import Clip
from m2fedsa.errors import DataError

# --- pictures ---------------------------------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_when_asked_for(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (5 + number, 9), (51 * number, 0, 0)).save(path)
    column = ImageColumn("photo", range(4), lambda row: read_image(paths[row]), PlainImages(2))
    assert column.look() == ((), (), [5, 6, 7, 8])
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


def recordings(name, waves, rate, process, disturb=None):
    """A column over waves in memory."""

    def read(row, seconds):
        return Wave(waves[row][: round(seconds * rate)], rate, len(waves[row]) / rate)

    return AudioColumn(name, range(len(waves)), read, process, disturb)


class Heard:
    """A processor that hands over what it is given."""

    def __init__(self, rate, samples):
        self.rate, self.samples = rate, samples

    def __call__(self, waves):
        return {"waves": torch.from_numpy(np.stack([np.pad(wave, (0, self.samples - len(wave))) for wave in waves]))}


def test_any_rate_is_resampled():
    """Against scipy's Fourier method, exact for these tones, away from the ends, where filters begin."""
    wave = tone(440, 0.5, 8000) + tone(1200, 0.5, 8000)
    heard = recordings("audio", [wave], 8000, Heard(16000, 8000)).inputs(torch.tensor([0]))["waves"][0].numpy()
    np.testing.assert_allclose(heard[500:-500], scipy.signal.resample(wave, 8000)[500:-500], atol=1e-4)
    np.testing.assert_allclose(heard[500:-500], (tone(440, 0.5, 16000) + tone(1200, 0.5, 16000))[500:-500], atol=1e-4)


def test_the_right_rate_is_left_alone_and_rows_are_those_asked_for():
    waves = [tone(100 * number, 0.1, 16000) for number in (1, 2, 3)]
    found = recordings("audio", waves, 16000, Heard(16000, 1600)).inputs(torch.tensor([2, 0]))["waves"]
    assert torch.equal(found, torch.from_numpy(np.stack([waves[2], waves[0]])))


def test_a_row_does_not_depend_on_its_neighbours():
    waves = [tone(200, 0.3, 8000), tone(900, 0.7, 8000), tone(500, 1.5, 8000)]
    column = recordings("audio", waves, 8000, LogMelPatch())
    together = column.inputs(torch.tensor([0, 1, 2]))["pixel_values"]
    for row in range(3):
        torch.testing.assert_close(column.inputs(torch.tensor([row]))["pixel_values"][0], together[row], atol=1e-5, rtol=0)


def test_recordings_that_cannot_be_used_and_those_that_are_cut():
    nan = tone(200, 0.1, 8000)
    nan[7] = float("nan")
    waves = [tone(200, 0.1, 8000), np.zeros(0, np.float32), nan, np.full(800, 0.5, np.float32), tone(200, 0.975, 8000), tone(200, 1, 8000)]
    faults, notes, lengths = recordings("sound", waves, 8000, LogMelPatch()).look()
    assert faults == (
        Fault(1, "sound", "the recording is empty (0 samples)"),
        Fault(2, "sound", "the recording has values that are not finite"),
        Fault(3, "sound", "the recording is silent: all its samples are equal"),
    )
    assert notes == ("sound: 1 of 6 recordings are longer than 0.975 s; what comes later is not heard",)
    assert lengths == [0.1, 0.975, 1.0]
    assert recordings("sound", waves[4:5], 8000, LogMelPatch()).look() == ((), (), [0.975])


def test_a_recording_whose_heard_part_is_silent():
    late = np.concatenate([np.zeros(8000, np.float32), tone(200, 0.5, 8000)])
    said = "the recording is silent in the first 0.975 s, which are heard: all its samples are equal"
    assert recordings("sound", [late], 8000, LogMelPatch()).look().faults == (Fault(0, "sound", said),)


def test_a_look_at_heads_decodes_nothing():
    def never(*_):
        raise AssertionError

    column = AudioColumn("sound", range(3), never, Heard(8000, 800), head=lambda row: 0.06 * row)
    assert column.look(deep=False) == (
        (),
        ("sound: 1 of 3 recordings are longer than 0.1 s; what comes later is not heard",),
        [0, 0.06, 0.12],
    )
    assert ImageColumn("photo", range(2), never, None, lambda row: (9, 5 + row)).look(deep=False).lengths == [5, 6]
    assert VideoColumn("clip", range(2), never, None, lambda row: row).look(deep=False).lengths == [0, 1]


# --- videos ---------------------------------------------------------------------------------------------------------------------------


def test_frames_are_decoded_when_asked_for():
    def read(row, frames):
        if row == 2:
            raise DataError("broken")
        return Clip([Image.new("RGB", (4, 4), (51 * row,) * 3)] * frames, 2.5 + row)

    column = VideoColumn("clip", (0, 2, 3), read, Tiles(4, PlainImages(2)))
    assert column.look() == ((Fault(2, "clip", "broken"),), (), [2.5, 5.5])
    assert column.inputs(torch.tensor([3, 0]))["pixel_values"][:, 0, 1, 1].tolist() == pytest.approx([0.2, -1.0])


def test_what_disturbs_a_recording_gets_its_row_and_what_is_heard():
    got = {}

    def disturb(row, wave):
        got[row] = len(wave)
        return -wave

    waves = [tone(200, 0.1, 8000), tone(200, 3, 8000)]
    column = recordings("sound", waves, 8000, Heard(8000, 1000), disturb)
    assert torch.equal(column.inputs(torch.tensor([1]))["waves"][0], torch.from_numpy(-waves[1][:1000]))
    column.inputs(torch.tensor([0]))
    assert got == {1: 1000, 0: 800}


# --- texts ----------------------------------------------------------------------------------------------------------------------------


def test_texts():
    process = TextProcessor(media.tokenizer(), 5)
    texts = ["blue soap", "  ", "the red watch with the knife", "\u200b", "", "soap"]
    column = TextColumn("title", range(5), texts.__getitem__, process)
    faults, notes, lengths = column.look()
    assert faults == (
        Fault(1, "title", "the text is empty"),
        Fault(3, "title", r"the tokenizer finds nothing in it: '\u200b'"),
        Fault(4, "title", "the text is empty"),
    )
    assert notes == ("title: 1 of 5 texts are longer than 5 tokens; what comes later is not read",)
    found = column.inputs(torch.tensor([2, 0]))
    assert found["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert lengths == [4, 2, 8, 2, 2]
    short = TextColumn("title", (0, 5), texts.__getitem__, process)
    assert (short.look(), short.width) == (((), (), [4, 3]), 4)
    assert short.inputs(torch.tensor([5]))["attention_mask"].tolist() == [[1, 1, 1, 0]]


# --- records and series ---------------------------------------------------------------------------------------------------------------


def test_records():
    columns = columns_of([{"name": "age", "mean": 50.0, "deviation": 25.0}, {"name": "city", "categories": ["Bonn"]}])
    records = {1: ("75", "Bonn"), 2: ("nan", "Rom"), 4: ("x", None), 5: (None, "Bonn"), 6: ("1e999", "Bonn")}
    column = TabularColumn(tuple(records), lambda rows: [records[row] for row in rows], TabularProcessor(columns))
    faults, notes, lengths = column.look()
    assert faults == (
        Fault(2, "age", "'nan' is not a finite number; leave the cell empty if nothing was measured"),
        Fault(4, "age", "'x' is not a number"),
        Fault(6, "age", "'1e999' is not a finite number; leave the cell empty if nothing was measured"),
    )
    assert notes == ("city: 1 rows have a category that the encoder was made without",)
    assert lengths == [2, 2, 1, 1, 2]
    found = column.inputs(torch.tensor([5, 1]))
    assert (found["codes"].tolist(), found["values"].tolist()) == ([[0, 3], [1, 3]], [[0, 0], [1, 0]])


def test_series():
    arrays = [np.ones((3, 2), np.float32), np.ones((5, 2), np.float32), np.ones((3, 1), np.float32)]
    column = SeriesColumn("sensor", range(3), arrays.__getitem__, SeriesProcessor(4, 2))
    faults, notes, lengths = column.look()
    assert faults == (Fault(2, "sensor", "the series has 1 channels, but the encoder takes 2"),)
    assert notes == ("sensor: 1 of 3 series are longer than 4 readings; what comes later is not read",)
    assert lengths == [3, 5]
    assert column.inputs(torch.tensor([1, 0]))["past_values"].sum((1, 2)).tolist() == [8, 6]


# --- all together ---------------------------------------------------------------------------------------------------------------------


class Sick:
    """A column with these faults."""

    def __init__(self, *faults, notes=()):
        self.faults, self.notes = faults, notes

    def inputs(self, rows):
        return {"x": rows * 10}

    def look(self, deep=True):
        return Look(self.faults, self.notes)


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
    column = ImageColumn("photo", range(1), lambda row: read_image(Path("/nowhere/image.png")), PlainImages(2))
    with pytest.raises(DataError, match="/nowhere/image.png: no such file"):
        column.inputs(torch.tensor([0]))
