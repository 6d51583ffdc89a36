"""A picture of a few samples of a manifest as they are read, to look at before anything is trained: a row a sample, a column a modality."""

import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from m2fedsa.data.columns.media import AudioColumn, ImageColumn, VideoColumn
from m2fedsa.data.columns.tables import SeriesColumn, TabularColumn
from m2fedsa.errors import StorageError
from m2fedsa.seeding import derive

if TYPE_CHECKING:
    from m2fedsa.config import Config
    from m2fedsa.data.manifest.checking import Checked

SAMPLES = 12
_INCH = 2.0
_LETTERS, _LINES = 26, 8


def write_sheet(checked: "Checked", config: "Config", path: Path) -> Path:
    """Draw samples from the seed, of each class in turn, and write them as a PNG. `StorageError` if it cannot be written."""
    from matplotlib.figure import Figure

    reading = checked.reading
    rows = _drawn(checked, config.seed)
    names = list(reading.columns)
    figure = Figure(figsize=(_INCH * (len(names) + 0.8), _INCH * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names) + 1, squeeze=False, width_ratios=[0.8, *[1] * len(names)])
    for place, row in enumerate(rows):
        told = [f"row {row + 1}", f"split: {reading.splits[row]}", f"label: {_label(checked, row)}"]
        owner = None if reading.clients is None else reading.clients[row]
        _write(axes[place][0], "\n".join(told if owner is None else [*told, f"client: {owner}"]))
        for column, name in enumerate(names, 1):
            if place == 0:
                axes[place][column].set_title(name)
            if bool(reading.presence[row, column - 1]):
                _draw(axes[place][column], checked, config, name, row)
            else:
                _write(axes[place][column], "(none)")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a letter that the font lacks is drawn as a box
            figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: the contact sheet cannot be written ({error}). Give a name that ends in .png.") from error
    return path


def _drawn(checked: "Checked", seed: int) -> list[int]:
    unusable = {fault.row for fault in checked.faults}
    order = torch.randperm(len(checked.reading.rows), generator=derive(seed, "contact sheet")).tolist()
    piles: dict[str, list[int]] = {}
    for row in order:
        if row not in unusable:
            piles.setdefault(_label(checked, row), []).append(row)
    turns = [[pile[turn] for pile in piles.values() if turn < len(pile)] for turn in range(SAMPLES)]
    return [row for turn in turns for row in turn][:SAMPLES]


def _label(checked: "Checked", row: int) -> str:
    labels = checked.reading.labels
    if labels.ndim == 1:
        return "no label" if labels[row] < 0 else checked.reading.classes[int(labels[row])]
    label = labels[row].tolist()
    if labels.is_floating_point():
        return ", ".join(f"{value:.4g}" for value in label)
    return ", ".join(name for name, there in zip(checked.reading.classes, label, strict=True) if there == 1) or "none"


def _draw(axis: Any, checked: "Checked", config: "Config", name: str, row: int) -> None:
    column = checked.reading.columns[name]
    axis.set_xticks([])
    axis.set_yticks([])
    if isinstance(column, ImageColumn):
        axis.imshow(column.read(row))
    elif isinstance(column, AudioColumn):
        wave, rate, _ = column.read(row, column.seconds)
        axis.plot(wave[:: max(1, len(wave) // 2000)], linewidth=0.5)
        axis.set_xlabel(f"{len(wave) / rate:.3g} s at {rate:,} Hz", fontsize=7)
    elif isinstance(column, VideoColumn):
        _frames(axis, column.read(row, column.process.frames).frames)
    elif isinstance(column, SeriesColumn):
        axis.plot(column.read(row), linewidth=0.7)
    elif isinstance(column, TabularColumn):
        cells = checked.reading.rows.records(column.process.names, [row])[0]
        _write(axis, "\n".join(f"{key}: {value}" for key, value in zip(column.process.names, cells, strict=True) if value is not None))
    else:
        _write(axis, str(checked.reading.rows.cell(config.modalities[name].column or name, row)))


def _frames(axis: Any, frames: Any) -> None:
    """Side by side, each as high as the first."""
    from PIL import Image

    height = frames[0].height
    scaled = [frame.resize((max(1, frame.width * height // frame.height), height)) for frame in frames]
    strip = Image.new("RGB", (sum(frame.width for frame in scaled), height))
    left = 0
    for frame in scaled:
        strip.paste(frame, (left, 0))
        left += frame.width
    axis.imshow(strip)


def _write(axis: Any, text: str) -> None:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, _LETTERS) or [""]]
    shown = [*lines[: _LINES - 1], "…"] if len(lines) > _LINES else lines
    axis.text(0.02, 0.98, "\n".join(shown).replace("$", r"\$"), va="top", ha="left", fontsize=8, transform=axis.transAxes)
    axis.set_axis_off()
