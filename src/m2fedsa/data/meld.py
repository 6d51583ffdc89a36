"""MELD (Poria et al. 2019) as its owners distribute it: utterances of a television series with their video, seven emotions.

    FOLDER/train_sent_emo.csv   dev_sent_emo.csv      test_sent_emo.csv
    FOLDER/train_splits/        dev_splits_complete/  output_repeated_splits_test/      dia0_utt0.mp4 …

which is what MELD.Raw.tar.gz and the three archives in it hold; a table or a folder may also lie in `train/`, `dev/` or `test/`. Columns:
Sr No., Utterance, Speaker, Emotion, Sentiment, Dialogue_ID, Utterance_ID, Season, Episode, StartTime, EndTime.

The archives lack one video and hold a broken one, whose utterances are taken by their text alone, and some that no table names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, Fault, look_at
from m2fedsa.data.columns.media import AudioColumn, VideoColumn
from m2fedsa.data.columns.tables import TextColumn
from m2fedsa.data.csv_rows import read_rows
from m2fedsa.data.layout import complain, inventory, require, surplus_note
from m2fedsa.data.processors.audio import audio_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.processors.video import video_processor
from m2fedsa.data.readers.audio import audio_seconds as length_of_sound
from m2fedsa.data.readers.audio import read_audio
from m2fedsa.data.readers.video import look_at_video, read_video
from m2fedsa.data.samples import FederatedData, Split
from m2fedsa.data.spread import Table, spread

EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
WHERE = "https://affective-meld.github.io has them; docs/paper_tasks.md lists all files."
PATHS = {"data.options.folder": "the folder of MELD.Raw.tar.gz, its three archives unpacked in it (docs/paper_tasks.md)"}
"""Settings that only the user can give, and what to give."""


@dataclass(frozen=True)
class Part:
    """One of the official splits."""

    table: str
    videos: str
    beside: str
    """a folder in which both may lie"""


PARTS: Mapping[Split, Part] = {
    "train": Part("train_sent_emo.csv", "train_splits", "train"),
    "validation": Part("dev_sent_emo.csv", "dev_splits_complete", "dev"),
    "test": Part("test_sent_emo.csv", "output_repeated_splits_test", "test"),
}
LACKING = {"dev_splits_complete/dia110_utt7.mp4", "train_splits/dia125_utt3.mp4"}
"""Never in the archives, and broken in them."""
SPARE = {
    "train_splits": (),
    "dev_splits_complete": ("dia49_utt4.mp4", "dia49_utt5.mp4", "dia66_utt9.mp4", "dia66_utt10.mp4"),
    "output_repeated_splits_test": ("dia108_utt2.mp4",),
}
"""In the archives, and in no table; beside them in the last whatever begins with `final_videos_test`."""


def meld(
    *,
    seed: int,
    processors: Mapping[str, str],
    folder: str,
    settings: Data,
    frames: int = 0,
    image_size: int = 0,
    audio_seconds: float = 0.0,
    text_tokens: int = 0,
    incomplete: bool = False,
) -> FederatedData:
    """Which emotion does an utterance express? Seven classes, three modalities: `audio`, `visual` and `text`.

    processors: modality -> where its encoder's processor lies. folder: as above. settings: who holds what; `data.column` may be `speaker`
    or `dialogue`. frames: of a video; 0 for what the encoder takes, 4 side by side for an encoder of pictures. image_size, audio_seconds,
    text_tokens: as for `spoken_digits`. incomplete: take an utterance whose video is missing by its text alone. A client `evaluation` has
    the validation and test samples.

    Errors: ConfigError when a setting is out of range, DataError when files are missing or a row cannot be used.
    """
    place = Path(folder).expanduser()
    tables = {split: _where(place, part.table, part.beside) for split, part in PARTS.items()}
    homes = {split: _where(place, part.videos, part.beside) for split, part in PARTS.items()}
    require(place, [*tables.values(), *homes.values()], WHERE)
    rows = [{**row, "split": split} for split in PARTS for row in read_rows(place / tables[split], COLUMNS)]
    splits: list[Split] = [split for split in PARTS for row in rows if row["split"] == split]
    videos = [f"{homes[split]}/dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4" for split, row in zip(splits, rows, strict=True)]
    gone, surplus = _missing(place, videos, list(homes.values()), incomplete=incomplete)
    filmed = [number for number, name in enumerate(videos) if name not in gone]
    paths = [place / name for name in videos]
    heard, seen = audio_processor(processors, "audio", audio_seconds), video_processor(processors, "visual", frames, image_size)
    read = text_processor(processors, "text", text_tokens)
    columns: dict[str, Column] = {
        "audio": AudioColumn(
            "audio", filmed, lambda row, seconds: read_audio(paths[row], seconds), heard, head=lambda row: length_of_sound(paths[row])
        ),
        "visual": VideoColumn(
            "visual", filmed, lambda row, count: read_video(paths[row], count), seen, head=lambda row: look_at_video(paths[row])
        ),
        "text": TextColumn("Utterance", range(len(rows)), lambda row: repaired(rows[row]["Utterance"]), read),
    }
    labels, faults = emotions_of(rows)
    notes = look_at(columns.values(), str(place), [_name(row) for row in rows], faults, deep=False)
    table = Table(
        EMOTIONS,
        columns,
        torch.tensor(labels),
        splits,
        ["evaluation"] * len(rows),
        (*surplus, *_lost(len(gone)), *notes),
        groups={"speaker": [row["Speaker"] for row in rows], "dialogue": [f"{row['split']} {row['Dialogue_ID']}" for row in rows]},
        presence=torch.tensor([[name not in gone, name not in gone, True] for name in videos]),
    )
    return spread(table, settings, seed)


def _missing(place: Path, videos: Sequence[str], homes: Sequence[str], *, incomplete: bool) -> tuple[set[str], tuple[str, ...]]:
    """The videos that are not to be had, and notes of what lies beside the others. `DataError` lists missing ones unless `incomplete`."""
    lacking = {name for name in videos if name.partition("/")[2] in LACKING or name in LACKING}
    found = inventory(place, [name for name in videos if name not in lacking], homes, _is_spare)
    found = found._replace(surplus=tuple(name for name in found.surplus if name not in lacking))
    if not incomplete:
        complain(place, found, f"{WHERE} To do without them, set data.options.incomplete = true.")
    return lacking | set(found.missing), surplus_note(found)


def _where(place: Path, name: str, beside: str) -> str:
    """Where a table or a folder of videos lies: in the folder itself, or in `train/`, `dev/` or `test/`."""
    return f"{beside}/{name}" if not (place / name).exists() and (place / beside / name).exists() else name


def _is_spare(name: str) -> bool:
    return name.startswith("final_videos_test") or any(name in names for names in SPARE.values())


def _name(row: Mapping[str, str]) -> str:
    return f"{row['split']} dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"


def _lost(count: int) -> tuple[str, ...]:
    return (f"{count:,} videos are missing or broken; these utterances are taken by their text alone",) if count else ()


def emotions_of(rows: Sequence[Mapping[str, str]], column: str = "Emotion") -> tuple[list[int], list[Fault]]:
    """The class number of each row, and the cells that name no emotion."""
    faults = [
        Fault(number, column, f"{row[column]!r} is none of {', '.join(EMOTIONS)}")
        for number, row in enumerate(rows)
        if row[column] not in EMOTIONS
    ]
    return [EMOTIONS.index(row[column]) if row[column] in EMOTIONS else 0 for row in rows], faults


def repaired(text: str) -> str:
    """The tables hold characters of Windows-1252 as if they were Unicode's: its quotation marks and dashes are control characters there."""
    return "".join(chr(code) if not 0x80 <= (code := ord(letter)) <= 0x9F else _windows(code) for letter in text)


def _windows(code: int) -> str:
    """Of the five codes that Windows-1252 does not use, nothing is left."""
    return bytes([code]).decode("cp1252", errors="ignore")
