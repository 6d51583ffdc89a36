"""EPIC-KITCHENS-100 (Damen et al. 2022) as its owners distribute it: segments of first-person videos, 97 verbs.

    FOLDER/P01/videos/P01_01.MP4 …            what `epic_downloader.py --videos` makes below EPIC-KITCHENS
    FOLDER/P01/rgb_frames/P01_01.tar …        with frames = "rgb_frames": frame_0000000001.jpg … in it, or unpacked into P01_01/
    ANNOTATIONS/EPIC_100_train.csv  EPIC_100_validation.csv  EPIC_100_verb_classes.csv      the repository epic-kitchens-100-annotations

Columns of the tables: narration_id, participant_id, video_id, start_timestamp, stop_timestamp, start_frame, stop_frame, verb_class, and
others. The labels of the official test set are not public: the official validation set is the test set here, as in publications, and
validation samples are whole videos of the training set.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import Column, Fault, look_at
from m2fedsa.data.columns.media import AudioColumn, VideoColumn
from m2fedsa.data.csv_rows import classes_of, read_rows
from m2fedsa.data.epic_frames import Frames, Segment
from m2fedsa.data.layout import complain, inventory, require, surplus_note
from m2fedsa.data.processors.audio import AudioProcessor, audio_processor
from m2fedsa.data.processors.video import VideoProcessor, video_processor
from m2fedsa.data.readers.audio import audio_seconds as length_of_sound
from m2fedsa.data.readers.audio import read_audio
from m2fedsa.data.readers.video import look_at_video, read_video
from m2fedsa.data.samples import FederatedData, Split
from m2fedsa.data.spread import Table, spread
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.seeding import derive

Rows = Sequence[Mapping[str, str]]
VERBS = 97
TABLES = ("EPIC_100_train.csv", "EPIC_100_validation.csv", "EPIC_100_verb_classes.csv")
COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame", "verb_class")
WHERE = "https://epic-kitchens.github.io has them; docs/paper_tasks.md lists all files."
PATHS = {
    "data.options.folder": "the folder EPIC-KITCHENS that the owners' script makes, with P01/videos/P01_01.MP4 (docs/paper_tasks.md)",
    "data.options.annotations": "a copy of the repository epic-kitchens-100-annotations",
}
"""Settings that only the user can give, and what to give."""
_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def epic_kitchens(
    *,
    seed: int,
    processors: Mapping[str, str],
    folder: str,
    annotations: str,
    settings: Data,
    validation: float = 0.1,
    frames_from: str = "videos",
    frames: int = 0,
    image_size: int = 0,
    audio_seconds: float = 0.0,
    incomplete: bool = False,
) -> FederatedData:
    """Which verb says what is done? 97 classes, two modalities: `visual` and `audio`.

    processors: modality -> where its encoder's processor lies. folder, annotations: as above. settings: who holds what; `data.column` may
    be `participant` or `video`. validation: share of the training videos that validate, drawn from the seed. frames_from: `videos`, or
    `rgb_frames`, which are faster to read; sound comes from the videos always. frames, image_size, audio_seconds: as for `meld`.
    incomplete: leave out the segments of videos that are missing. A client `evaluation` has the validation and test samples.

    Errors: ConfigError when a setting is out of range, DataError when files are missing or a row cannot be used.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"validation is {validation}; it is the share of the training videos that validate, at least 0 and below 1")
    if frames_from not in ("videos", "rgb_frames"):
        raise ConfigError(f'frames_from is "{frames_from}"; it is "videos" or "rgb_frames"')
    place, tables = Path(folder).expanduser(), Path(annotations).expanduser()
    require(tables, TABLES, WHERE)
    if not place.is_dir():
        require(place, ["P01"], WHERE)
    named = {"train": TABLES[0], "test": TABLES[1]}
    rows = [{**row, "split": split} for split, name in named.items() for row in read_rows(tables / name, COLUMNS)]
    rows, notes = _there(place, rows, frames_from, incomplete=incomplete)
    segments, faults = _segments(rows)
    seen = video_processor(processors, "visual", frames, image_size)
    heard = audio_processor(processors, "audio", audio_seconds)
    columns: dict[str, Column] = {
        "visual": (_filmed if frames_from == "videos" else _stills)(place, rows, segments, seen),
        "audio": _recorded(place, rows, segments, heard),
    }
    labels, wrong = classes_of(rows, "verb_class", VERBS)
    notes += look_at(columns.values(), str(tables), [row["narration_id"] for row in rows], [*wrong, *faults], deep=False)
    table = Table(
        _verbs(tables / TABLES[2]),
        columns,
        torch.tensor(labels),
        _splits(rows, validation, seed),
        ["evaluation"] * len(rows),
        notes,
        groups={"participant": [row["participant_id"] for row in rows], "video": [row["video_id"] for row in rows]},
    )
    return spread(table, settings, seed)


def _filmed(place: Path, rows: Rows, segments: Sequence[Segment], process: VideoProcessor) -> VideoColumn:
    films = [place / _video(row["video_id"]) for row in rows]
    return VideoColumn(
        "visual",
        range(len(rows)),
        lambda row, count: read_video(films[row], count, segments[row].begin, segments[row].end),
        process,
        head=lambda row: _within(segments[row], _length(films[row]), "video"),
    )


def _stills(place: Path, rows: Rows, segments: Sequence[Segment], process: VideoProcessor) -> VideoColumn:
    stills = Frames(place)
    return VideoColumn(
        "visual",
        range(len(rows)),
        lambda row, count: stills.clip(rows[row]["video_id"], segments[row], count),
        process,
        head=lambda row: stills.seconds(rows[row]["video_id"], segments[row]),
    )


def _recorded(place: Path, rows: Rows, segments: Sequence[Segment], process: AudioProcessor) -> AudioColumn:
    films = [place / _video(row["video_id"]) for row in rows]
    return AudioColumn(
        "audio",
        range(len(rows)),
        lambda row, seconds: read_audio(films[row], seconds, segments[row].begin, segments[row].end),
        process,
        head=lambda row: _within(segments[row], _sound(films[row]), "sound"),
    )


def _there(place: Path, rows: list[dict[str, str]], frames_from: str, *, incomplete: bool) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """The rows whose files are there, and notes. `DataError` lists missing files unless `incomplete`."""
    names = dict.fromkeys(row["video_id"] for row in rows)
    wanted = [_video(name) for name in names]
    if frames_from == "rgb_frames":
        wanted += [f"{name[:3]}/rgb_frames/{name}{'' if (place / name[:3] / 'rgb_frames' / name).is_dir() else '.tar'}" for name in names]
    owners = dict.fromkeys(name[:3] for name in names)
    homes = [f"{owner}/{kind}" for owner in owners for kind in dict.fromkeys(("videos", frames_from))]
    # Videos of the official test set lie beside the others; their names stand in a table that is not needed.
    found = inventory(place, wanted, homes, lambda name: re.fullmatch(r"P\d\d_\d+(\.MP4|\.tar)?", name) is not None)
    if not incomplete:
        complain(place, found, f"{WHERE} To do without their segments, set data.options.incomplete = true.")
    gone = {Path(name).stem for name in found.missing}
    kept = [row for row in rows if row["video_id"] not in gone]
    if not kept:
        raise DataError(f"{place}: not one of {len(names):,} videos is there. {WHERE}")
    lost = (f"{len(gone):,} videos are missing; their {len(rows) - len(kept):,} segments are left out",) if gone else ()
    return kept, (*surplus_note(found), *lost)


def _video(name: str) -> str:
    return f"{name[:3]}/videos/{name}.MP4"


def _segments(rows: Sequence[Mapping[str, str]]) -> tuple[list[Segment], list[Fault]]:
    """When each segment is, and the cells that are no time or no frame's number, or of a segment that ends before it begins."""
    segments, faults = [], []
    for number, row in enumerate(rows):
        found = {name: _TIME.fullmatch(row[name]) for name in ("start_timestamp", "stop_timestamp")}
        begin, end = (3600 * int(one[1]) + 60 * int(one[2]) + float(one[3]) if one else 0.0 for one in found.values())
        first, last = (int(row[name]) if row[name].isdecimal() else 0 for name in ("start_frame", "stop_frame"))
        segments.append(Segment(begin, end, first, last))
        faults += [Fault(number, name, f"{row[name]!r} is no time like 00:01:02.50") for name, one in found.items() if one is None]
        faults += [
            Fault(number, name, f"{row[name]!r} is no frame's number")
            for name in ("start_frame", "stop_frame")
            if not row[name].isdecimal()
        ]
        if all(found.values()) and end <= begin:
            faults.append(Fault(number, "stop_timestamp", f"{row['stop_timestamp']} is not after {row['start_timestamp']}"))
    return segments, faults


@lru_cache(maxsize=2048)
def _length(path: Path) -> float:
    """A video has a hundred segments."""
    return look_at_video(path)


@lru_cache(maxsize=2048)
def _sound(path: Path) -> float:
    return length_of_sound(path)


def _within(segment: Segment, whole: float, what: str) -> float:
    """Seconds of a segment. `DataError` for one that begins after the end of its video."""
    if whole and segment.begin >= whole:
        raise DataError(f"the segment begins at {segment.begin:g} s, but the {what} is {whole:.4g} s long")
    return segment.seconds


def _splits(rows: Sequence[Mapping[str, str]], validation: float, seed: int) -> list[Split]:
    """Whole videos of the training set validate."""
    videos = sorted({row["video_id"] for row in rows if row["split"] == "train"})
    order = torch.randperm(len(videos), generator=derive(seed, "epic_kitchens", "validation")).tolist()
    held = {videos[place] for place in order[: round(validation * len(videos))]}
    return ["test" if row["split"] == "test" else "validation" if row["video_id"] in held else "train" for row in rows]


def _verbs(path: Path) -> tuple[str, ...]:
    """Names of the classes, in the order of their numbers."""
    rows = read_rows(path, ("id", "key"))
    found = {row["id"]: row["key"] for row in rows}
    missing = [str(number) for number in range(VERBS) if str(number) not in found]
    if missing:
        raise DataError(f"{path}: has no class {missing[0]}; it should have {VERBS}, with the numbers 0 to {VERBS - 1} as id.")
    return tuple(found[str(number)] for number in range(VERBS))
