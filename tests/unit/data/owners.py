"""Small folders in exactly the layout in which the owners of the paper's data distribute them, with real media made on the spot."""

import csv
import json
import tarfile

import numpy as np
from PIL import Image
from tests.unit.data import media

# --- Hateful Memes --------------------------------------------------------------------------------------------------------------------

MEMES = {"train": 16, "dev_seen": 4, "dev_unseen": 3, "test_seen": 6, "test_unseen": 2}
SAYINGS = ("cream for the watch", "blue knife with red soap", "the mouse", "vase with a curtain for the red watch")


def meme_lines():
    """file -> its lines; dev_unseen begins with a meme of dev_seen, as the real one does."""
    lines, number = {}, 1235
    for part, count in MEMES.items():
        lines[part] = []
        for place in range(count):
            number += 7
            name = f"{number:05d}"
            lines[part].append({"id": number, "img": f"img/{name}.png", "label": place % 2, "text": SAYINGS[place % 4]})
    lines["dev_unseen"][0] = dict(lines["dev_seen"][0])
    return lines


def write_hateful_memes(folder, lines=None):
    lines = meme_lines() if lines is None else lines
    (folder / "img").mkdir(parents=True)
    for part, its in lines.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(line).replace("/", "\\/") + "\n" for line in its))
        for line in its:
            pixels = np.full((30 + line["id"] % 5, 24, 3), 60 + 120 * line.get("label", 0), np.uint8)
            Image.fromarray(pixels).save(folder / line["img"])
    for name in ("README.md", "LICENSE.txt"):
        (folder / name).write_text("…")
    return folder


# --- MELD -----------------------------------------------------------------------------------------------------------------------------

MELD_COLUMNS = (
    "Sr No.",
    "Utterance",
    "Speaker",
    "Emotion",
    "Sentiment",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)
EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPEAKERS = ("Chandler", "The Interviewer", "Joey", "Rachel")
UTTERANCES = {"train": 14, "dev": 4, "test": 7}
HOMES = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def meld_rows():
    """table -> its rows; two utterances a dialogue. One of dev has no video in the real archives, one of train a broken one."""
    rows = {}
    for part, count in UTTERANCES.items():
        rows[part] = []
        for number in range(count):
            words = f"You must\x92ve had the {media.WORDS[number % 7]} \x97 for the {media.WORDS[(number + 2) % 5]}"
            known = {"Sr No.": number + 1, "Utterance": words, "Speaker": SPEAKERS[number % 4], "Emotion": EMOTIONS[number % 7]}
            place = {"Dialogue_ID": number // 2, "Utterance_ID": number % 2, "Season": 8, "Episode": 21}
            times = {"StartTime": "00:16:16,059", "EndTime": "00:16:21,731"}
            rows[part].append({**known, "Sentiment": "neutral", **place, **times})
    rows["dev"][3] |= {"Dialogue_ID": 110, "Utterance_ID": 7}
    rows["train"][13] |= {"Dialogue_ID": 125, "Utterance_ID": 3}
    return rows


def write_meld(folder, rows=None):
    """With what the archives have too much of, a broken video, and what a Mac leaves behind."""
    rows = meld_rows() if rows is None else rows
    folder.mkdir(parents=True)
    for part, its in rows.items():
        with (folder / f"{part}_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, MELD_COLUMNS)
            writer.writeheader()
            writer.writerows(its)
        home = folder / HOMES[part]
        home.mkdir()
        for number, row in enumerate(its):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4"
            if name != "dia110_utt7.mp4":
                media.write_video(home / name, [30 * EMOTIONS.index(row["Emotion"])] * 6, seconds_of_sound=0.5 + 0.05 * (number % 3))
    (folder / "train_splits" / "dia125_utt3.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and no more")
    for name in ("dev_splits_complete/dia66_utt9.mp4", "output_repeated_splits_test/final_videos_testdia101_utt0.mp4"):
        (folder / name).write_bytes(b"nobody looks here")
    (folder / "output_repeated_splits_test" / "._dia0_utt0.mp4").write_bytes(b"\x00\x05\x16\x07")
    (folder / "README.txt").write_text("…")
    return folder


# --- EPIC-KITCHENS --------------------------------------------------------------------------------------------------------------------

EPIC_COLUMNS = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame",
    "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns", "all_noun_classes",
)  # fmt: skip
VIDEOS = {"train": ("P01_01", "P01_102", "P02_03", "P03_04"), "validation": ("P01_11", "P04_101")}
FPS, SECONDS, OF_EACH = 10, 4, 5
VERBS = ("take", "put", "wash", "open")


def epic_rows():
    """table -> its rows: segments of 0.7 s, one after the other."""
    rows = {}
    for part, videos in VIDEOS.items():
        rows[part] = []
        for video in videos:
            for number in range(OF_EACH):
                begin = 0.75 * number
                verb = number % len(VERBS)
                named = {"narration_id": f"{video}_{number}", "participant_id": video[:3], "video_id": video}
                times = {
                    "narration_timestamp": f"00:00:0{begin:.3f}",
                    "start_timestamp": f"00:00:0{begin:.2f}",
                    "stop_timestamp": f"00:00:0{begin + 0.7:.2f}",
                }
                frames = {"start_frame": int(begin * FPS) + 1, "stop_frame": int((begin + 0.7) * FPS)}
                said = {"narration": f"{VERBS[verb]} door", "verb": VERBS[verb], "verb_class": verb, "noun": "door", "noun_class": 3}
                rows[part].append({**named, **times, **frames, **said, "all_nouns": "['door']", "all_noun_classes": "[3]"})
    return rows


def write_epic(folder, rows=None, archives=True):
    """EPIC-KITCHENS and the repository of annotations, beside each other; the videos of the test set are there as well."""
    rows = epic_rows() if rows is None else rows
    tables = folder / "epic-kitchens-100-annotations"
    tables.mkdir(parents=True)
    for part, its in rows.items():
        media.write_csv(tables / f"EPIC_100_{part}.csv", EPIC_COLUMNS, its)
    verbs = [
        {"id": number, "key": VERBS[number] if number < 4 else f"verb-{number}", "instances": "[]", "category": "x"} for number in range(97)
    ]
    media.write_csv(tables / "EPIC_100_verb_classes.csv", ("id", "key", "instances", "category"), verbs)
    for video in (*VIDEOS["train"], *VIDEOS["validation"], "P01_13"):
        home = folder / "EPIC-KITCHENS" / video[:3]
        (home / "videos").mkdir(parents=True, exist_ok=True)
        levels = [min(250, 6 * frame) for frame in range(FPS * SECONDS)]
        media.write_video(home / "videos" / f"{video}.MP4", levels, fps=FPS, seconds_of_sound=SECONDS)
        write_frames(home / "rgb_frames", video, levels, archive=archives and video != "P02_03")
    return folder


def write_frames(home, video, levels, archive):
    """frame_0000000001.jpg and so on, in an archive or a folder."""
    unpacked = home / video
    unpacked.mkdir(parents=True)
    for number, level in enumerate(levels, 1):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(unpacked / f"frame_{number:010d}.jpg", quality=95)
    if archive:
        with tarfile.open(home / f"{video}.tar", "w") as tar:
            for path in sorted(unpacked.iterdir()):
                tar.add(path, f"./{path.name}")
                path.unlink()
        unpacked.rmdir()
