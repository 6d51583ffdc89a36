"""Hateful Memes, MELD and EPIC-KITCHENS, read from the layout of their owners: splits, labels, what is missing and what is too much."""

import re
import shutil

import pytest
import torch
import transformers
from tests.unit.data import media, owners

from m2fedsa.config import Data
from m2fedsa.data.epic_kitchens import epic_kitchens
from m2fedsa.data.hateful_memes import hateful_memes
from m2fedsa.data.meld import meld, repaired
from m2fedsa.data.meld_text import meld_text
from m2fedsa.data.samples import UNLABELLED
from m2fedsa.errors import ConfigError, DataError

READ = {"hateful_memes": hateful_memes, "meld": meld, "epic_kitchens": epic_kitchens, "meld_text": meld_text}
SETTINGS = Data(clients=2, partition="iid", minimum=1, multimodal_fraction=1.0)


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """A tokenizer; pictures, frames and sound without a processor of their own: squares of 8 pixels, log-mel patches."""
    root = tmp_path_factory.mktemp("processors")
    media.tokenizer().save_pretrained(root / "text")
    transformers.ViTConfig(image_size=8).save_pretrained(root / "picture")
    return {"text": str(root / "text"), "image": str(root / "picture"), "visual": str(root / "picture"), "audio": "random:x"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("owners")
    owners.write_hateful_memes(root / "hateful_memes")
    owners.write_meld(root / "meld")
    owners.write_epic(root / "epic_kitchens")
    return root


@pytest.fixture
def folder(kept, tmp_path):
    """Copies that a test may spoil."""
    return lambda name: shutil.copytree(kept / name, tmp_path / name)


def read(name, place, processors, settings=SETTINGS, **options):
    if name == "epic_kitchens":
        options = {"annotations": str(place / "epic-kitchens-100-annotations"), **options}
        place = place / "EPIC-KITCHENS"
    return READ[name](seed=0, processors=processors, folder=str(place), settings=settings, **options)


def labels(data, split):
    return sorted(label for client in data.clients.values() if client.split(split) for label in client.split(split).labels.tolist())


def trained(data):
    return [client.train for client in data.clients.values() if client.train is not None]


# --- what is read ---------------------------------------------------------------------------------------------------------------------


def test_hateful_memes(kept, processors):
    data = read("hateful_memes", kept / "hateful_memes", processors)
    assert (data.classes, data.modalities, data.notes) == (("not hateful", "hateful"), ("image", "text"), ())
    assert {split: len(labels(data, split)) for split in ("train", "validation", "test")} == {"train": 16, "validation": 4, "test": 6}
    evaluation = data.clients["evaluation"]
    assert evaluation.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    pixels = evaluation.test.inputs("image", torch.tensor([0, 1]))["pixel_values"]
    assert [round(float(one.mean()), 2) for one in pixels] == [round(level / 127.5 - 1, 2) for level in (60, 180)]
    ids = evaluation.test.inputs("text", torch.tensor([2]))["input_ids"][0]
    assert [media.tokenizer().convert_ids_to_tokens(int(one)) for one in ids if one] == ["[CLS]", "the", "mouse", "[SEP]"]


def test_other_files_of_hateful_memes(kept, processors, folder):
    """dev_unseen shares a meme with dev_seen, which then does not validate what it tests."""
    data = read("hateful_memes", kept / "hateful_memes", processors, validation="dev_unseen", test="dev_seen")
    assert (len(labels(data, "validation")), len(labels(data, "test"))) == (2, 4)
    assert data.notes == ("1 validation samples are test samples as well and are left out of validation",)
    lines = owners.meme_lines()
    lines["test_seen"] = [{key: value for key, value in line.items() if key != "label"} for line in lines["test_seen"]]
    place = folder("hateful_memes")
    shutil.rmtree(place)
    owners.write_hateful_memes(place, lines)
    assert labels(read("hateful_memes", place, processors), "test") == [UNLABELLED] * 6


def test_meld(kept, processors):
    data = read("meld", kept / "meld", processors)
    assert (data.classes, data.modalities) == (owners.EMOTIONS, ("audio", "visual", "text"))
    assert data.notes[0] == "2 videos are missing or broken; these utterances are taken by their text alone"
    assert {split: len(labels(data, split)) for split in ("train", "validation", "test")} == {"train": 14, "validation": 4, "test": 7}
    evaluation = data.clients["evaluation"]
    assert evaluation.validation.presence.tolist() == [[True] * 3] * 3 + [[False, False, True]]
    assert sum(int((~samples.presence[:, 0]).sum()) for samples in trained(data)) == 1
    rows = torch.arange(7)
    pixels = evaluation.test.inputs("visual", rows)["pixel_values"]
    assert pixels.shape == (7, 3, 8, 8)
    for row, level in enumerate(30 * emotion for emotion in range(7)):
        assert abs(float(pixels[row].mean()) - (level / 127.5 - 1)) < 0.03
    sound = evaluation.test.inputs("audio", rows)["pixel_values"]
    assert sound.shape == (7, 1, 96, 64)
    assert int(sound[0, 0].exp().mean(0).argmax()) == int(sound[3, 0].exp().mean(0).argmax()), "a tone of 440 Hz in all of them"
    words = evaluation.test.inputs("text", rows)["input_ids"][0]
    assert "vase" not in media.tokenizer().convert_ids_to_tokens(words.tolist())
    assert "cream" in media.tokenizer().convert_ids_to_tokens(words.tolist())


def test_characters_of_meld():
    assert repaired("You must\x92ve \x97 \x93no\x94 caf\u00e9 \u2026 \x81") == "You must\u2019ve \u2014 \u201cno\u201d caf\u00e9 \u2026 "


def test_meld_by_speaker(kept, processors):
    settings = Data(clients=4, partition="column", column="speaker", multimodal_fraction=1.0)
    data = read("meld", kept / "meld", processors, settings)
    # fourteen utterances go round four speakers
    assert sorted(len(samples.labels) for samples in trained(data)) == [3, 3, 4, 4]
    wanted = sorted([sorted(place % 7 for place in range(speaker, 14, 4)) for speaker in range(4)])
    assert sorted(sorted(samples.labels.tolist()) for samples in trained(data)) == wanted
    with pytest.raises(ConfigError, match="there are speaker, dialogue"):
        read("meld", kept / "meld", processors, Data(clients=4, partition="column", column="Speaker"))


def test_meld_unpacked_in_folders_of_its_own(processors, folder):
    place = folder("meld")
    for part, home in owners.HOMES.items():
        (place / part).mkdir()
        (place / home).rename(place / part / home)
    (place / "train_sent_emo.csv").rename(place / "train" / "train_sent_emo.csv")
    data = read("meld", place, processors)
    assert data.notes[0] == "2 videos are missing or broken; these utterances are taken by their text alone"
    assert len(labels(data, "train")) == 14


@pytest.mark.parametrize("frames_from", ["videos", "rgb_frames"])
def test_epic_kitchens(kept, processors, frames_from):
    """Frames and sound of a segment come from its part of the video, whichever files they are read from."""
    data = read("epic_kitchens", kept / "epic_kitchens", processors, validation=0.25, frames_from=frames_from, frames=1)
    assert data.classes[:5] == (*owners.VERBS, "verb-4")
    assert (len(data.classes), data.modalities, data.notes) == (97, ("visual", "audio"), ())
    assert {split: len(labels(data, split)) for split in ("train", "validation", "test")} == {"train": 15, "validation": 5, "test": 10}
    test = data.clients["evaluation"].test
    pixels = test.inputs("visual", torch.arange(5))["pixel_values"]
    for row in range(5):
        middle = 10 * (0.75 * row + 0.35)
        assert abs((float(pixels[row].mean()) + 1) * 127.5 / 6 - middle) <= 1.2, "within a frame of the middle of the segment"
    assert test.inputs("audio", torch.arange(5))["pixel_values"].shape == (5, 1, 96, 64)


def test_epic_kitchens_by_participant(kept, processors):
    settings = Data(clients=3, partition="column", column="participant", multimodal_fraction=1.0)
    data = read("epic_kitchens", kept / "epic_kitchens", processors, settings, validation=0.0)
    assert sorted(len(samples.labels) for samples in trained(data)) == [5, 5, 10]
    one = read("epic_kitchens", kept / "epic_kitchens", processors, validation=0.25).clients["evaluation"].validation
    again = read("epic_kitchens", kept / "epic_kitchens", processors, validation=0.25).clients["evaluation"].validation
    assert torch.equal(one.indices, again.indices)
    assert len({int(row) // owners.OF_EACH for row in one.indices}) == 1, "a whole video validates"


def test_meld_text(tmp_path, processors):
    columns = ("split", "dialogue", "utterance", "speaker", "text", "label", "emotion")
    rows = [
        {
            "split": split,
            "dialogue": number // 2,
            "utterance": number % 2,
            "speaker": owners.SPEAKERS[number % 4],
            "text": "the mouse",
            "label": 9,
        }
        | {"emotion": owners.EMOTIONS[number % 7]}
        for split, count in (("train", 12), ("val", 3), ("test", 7))
        for number in range(count)
    ]
    media.write_csv(tmp_path / "data.csv", columns, rows)
    data = read("meld_text", tmp_path, processors, Data(clients=4, partition="column", column="speaker"))
    assert (data.classes, data.modalities) == (owners.EMOTIONS, ("text",))
    wanted = sorted([sorted(place % 7 for place in range(speaker, 12, 4)) for speaker in range(4)])
    assert sorted(sorted(samples.labels.tolist()) for samples in trained(data)) == wanted
    assert data.clients["evaluation"].test.labels.tolist() == list(range(7))
    rows[3]["emotion"] = "bored"
    media.write_csv(tmp_path / "data.csv", columns, rows)
    with pytest.raises(DataError, match=r"row 4 \(train dia1_utt1\), emotion: 'bored' is none of neutral, surprise"):
        read("meld_text", tmp_path, processors)


# --- what is missing, and what is too much --------------------------------------------------------------------------------------------


def said(name, place, processors, **options):
    with pytest.raises((DataError, ConfigError)) as refusal:
        read(name, place, processors, **options)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("hateful_memes", ("train.jsonl", "img")),
        ("meld", ("dev_sent_emo.csv", "output_repeated_splits_test")),
        ("epic_kitchens", ("EPIC_100_train.csv", "EPIC_100_verb_classes.csv")),
    ],
)
def test_tables_and_folders_that_are_missing(processors, folder, name, gone):
    place = folder(name)
    home = place / "epic-kitchens-100-annotations" if name == "epic_kitchens" else place
    for one in gone:
        shutil.rmtree(home / one) if (home / one).is_dir() else (home / one).unlink()
    told = said(name, place, processors)
    assert told.startswith(f"{home}: 2 files are missing; there is ")
    assert told.splitlines()[1:] == [f"       {one}" for one in gone]
    assert "docs/paper_tasks.md" in told
    shutil.rmtree(home)
    assert said(name, place, processors).startswith(f"{home}: no such folder. https://")


def test_files_that_are_missing_are_told_together(processors, folder):
    """And what lies there instead; then it goes without them."""
    place = folder("hateful_memes")
    (place / "img" / "01242.png").rename(place / "img" / "1242.png")
    (place / "img" / "01256.png").unlink()
    told = said("hateful_memes", place, processors)
    assert told.splitlines()[0].startswith(f"{place}: 2 files are missing. https://")
    assert "To do without them, set data.options.incomplete = true." in told
    assert [line.strip() for line in told.splitlines()[1:]] == [
        "img/01242.png",
        "img/01256.png",
        "and 1 that no table names, perhaps under another name than they should have:",
        "img/1242.png",
    ]
    data = read("hateful_memes", place, processors, incomplete=True)
    assert data.notes == (
        "1 file is left alone, since no table names it: img/1242.png",
        "img: 2 pictures are missing; these memes are taken by their text alone",
    )
    assert sum(int((~samples.presence[:, 0]).sum()) for samples in trained(data)) == 2


def test_videos_of_meld(processors, folder):
    """What the archives are known to lack or to have too much of is no fault; anything else is."""
    place = folder("meld")
    (place / "train_splits" / "mine.mp4").write_bytes(b"x")
    assert read("meld", place, processors).notes[0] == "1 file is left alone, since no table names it: train_splits/mine.mp4"
    for number in range(3):
        (place / "output_repeated_splits_test" / f"dia{number}_utt0.mp4").unlink()
    told = said("meld", place, processors)
    assert re.findall(r"output_repeated_splits_test/dia\d_utt0.mp4", told) == [
        f"output_repeated_splits_test/dia{n}_utt0.mp4" for n in range(3)
    ]
    assert "3 files are missing" in told
    data = read("meld", place, processors, incomplete=True)
    assert "5 videos are missing or broken; these utterances are taken by their text alone" in data.notes
    assert data.clients["evaluation"].test.presence[:, 1].tolist() == [False, True, False, True, False, True, True]


def test_videos_of_epic_kitchens(processors, folder):
    place = folder("epic_kitchens")
    (place / "EPIC-KITCHENS" / "P01" / "videos" / "P01_102.MP4").unlink()
    (place / "EPIC-KITCHENS" / "P02" / "videos" / "P02_03.MP4").rename(place / "EPIC-KITCHENS" / "P02" / "videos" / "p02-03.mp4")
    told = said("epic_kitchens", place, processors)
    listed = [line.strip() for line in told.splitlines()[1:]]
    assert listed[:2] == ["P01/videos/P01_102.MP4", "P02/videos/P02_03.MP4"]
    assert listed[3] == "P02/videos/p02-03.mp4"
    data = read("epic_kitchens", place, processors, validation=0.0, incomplete=True)
    assert "2 videos are missing; their 10 segments are left out" in data.notes
    assert len(labels(data, "train")) == 10
    shutil.rmtree(place / "EPIC-KITCHENS")
    assert "no such folder" in said("epic_kitchens", place, processors)


# --- cells and files that cannot be used ----------------------------------------------------------------------------------------------


def test_lines_of_hateful_memes(processors, folder):
    place = folder("hateful_memes")
    lines = (place / "dev_seen.jsonl").read_text()
    (place / "dev_seen.jsonl").write_text(lines.replace('"label": 1', '"label": 2', 1))
    (place / "img" / "01249.png").write_bytes(b"no picture")
    told = said("hateful_memes", place, processors)
    assert f"{place}: 2 of 26 rows cannot be used" in told
    assert "row 2 (train 1249), img: " in told
    assert "label: 2 is neither 0 nor 1" in told
    (place / "dev_seen.jsonl").write_text(lines.replace('"text"', '"words"', 1))
    assert "dev_seen.jsonl: line 1 has no 'text', but id, img, label, words" in said("hateful_memes", place, processors)
    (place / "dev_seen.jsonl").write_text(lines + '{"id": 3,\n')
    assert "dev_seen.jsonl: line 5 cannot be read as UTF-8 JSON" in said("hateful_memes", place, processors)
    (place / "dev_seen.jsonl").write_text("\n")
    assert "dev_seen.jsonl: has not one line" in said("hateful_memes", place, processors)
    assert 'validation is "dev"; ' not in said("hateful_memes", place, processors, validation="dev")
    assert 'test is "train"; it is one of test_seen' in said("hateful_memes", place, processors, test="train")


def test_cells_of_meld(processors, folder):
    place = folder("meld")
    path = place / "train_sent_emo.csv"
    path.write_text(path.read_text().replace(",surprise,", ",amazed,", 1))
    (place / "train_splits" / "dia0_utt0.mp4").write_bytes(b"no video")
    media.write_video(place / "train_splits" / "dia1_utt0.mp4", [9] * 4)
    told = said("meld", place, processors)
    assert "3 of 25 rows cannot be used" in told
    assert "row 2 (train dia0_utt1), Emotion: 'amazed' is none of neutral, surprise" in told
    assert "row 1 (train dia0_utt0), visual: " in told
    assert "row 3 (train dia1_utt0), audio: " in told
    assert "has no sound" in told


def test_cells_of_epic_kitchens(processors, folder):
    rows = owners.epic_rows()
    rows["train"][0]["stop_timestamp"] = "3.37"
    rows["train"][1] |= {"start_timestamp": "00:00:02.00", "stop_timestamp": "00:00:01.00"}
    rows["train"][2] |= {"start_timestamp": "00:01:00.00", "stop_timestamp": "00:01:01.00"}
    rows["train"][3]["verb_class"] = "97"
    rows["train"][4]["start_frame"] = "-1"
    place = folder("epic_kitchens")
    media.write_csv(place / "epic-kitchens-100-annotations" / "EPIC_100_train.csv", owners.EPIC_COLUMNS, rows["train"])
    told = said("epic_kitchens", place, processors)
    assert "5 of 30 rows cannot be used" in told
    for one in (
        "row 1 (P01_01_0), stop_timestamp: '3.37' is no time like 00:01:02.50",
        "row 2 (P01_01_1), stop_timestamp: 00:00:01.00 is not after 00:00:02.00",
        "row 3 (P01_01_2), visual: the segment begins at 60 s, but the video is 4 s long",
        "row 3 (P01_01_2), audio: the segment begins at 60 s, but the sound is 4",
        "row 4 (P01_01_3), verb_class: '97' is not a whole number from 0 to 96",
        "row 5 (P01_01_4), start_frame: '-1' is no frame's number",
    ):
        assert one in told
    for option, value in (("validation", 1.0), ("frames_from", "flow")):
        assert f"{option} is " in said("epic_kitchens", place, processors, **{option: value})


def test_frames_that_are_missing(processors, folder):
    place = folder("epic_kitchens")
    home = place / "EPIC-KITCHENS"
    (home / "P02" / "rgb_frames" / "P02_03" / f"frame_{7:010d}.jpg").unlink()
    (home / "P03" / "rgb_frames" / "P03_04.tar").write_bytes(b"x" * 2000)
    told = said("epic_kitchens", place, processors, frames_from="rgb_frames")
    assert "row 11 (P02_03_0), visual: " in told
    assert "P03_04.tar: cannot be read as an archive of frames" in told
    assert "6 of 30 rows cannot be used" in told
