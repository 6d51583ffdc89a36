"""Pack the digits (`data.npz`, `index.csv` of a source folder) into the package, small enough to travel with it.

    python scripts/pack_digits.py SOURCE_DIR

Of the 2,100 training rows 900 become public: 15 of the 35 of each digit and speaker, drawn with a fixed seed.
"""

import argparse
import csv
import lzma
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from m2fedsa.data.digits_pack import COLUMNS, decode_audio, encode_audio, group_of, level
from m2fedsa.seeding import derive

TARGET = Path(__file__).parents[1] / "src" / "m2fedsa" / "data" / "embedded" / "digits"
PUBLIC_OF_EACH = 15
SEED = 2024


def read_index(path: Path) -> list[dict[str, str]]:
    """The rows of the source's index, with `part` filled in."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        row["split"] = {"val": "validation"}.get(row["split"], row["split"])
        row["part"] = "clients" if row["split"] == "train" else ""
        if row["split"] == "train":
            cells[row["digit"], row["speaker"]].append(row)
    for (digit, speaker), cell in cells.items():
        for chosen in torch.randperm(len(cell), generator=derive(SEED, "public", digit, speaker)).tolist()[:PUBLIC_OF_EACH]:
            cell[chosen]["part"] = "public"
    return rows


def write_index(rows: list[dict[str, str]]) -> None:
    """The index as CSV."""
    with (TARGET / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_group(name: str, images: NDArray[np.uint8], audio_NS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images and recordings of one group; returns the coding's signal-to-error ratio in dB, per recording."""
    coded = encode_audio(audio_NS)
    for kind, content in (("images", images.tobytes()), ("audio", coded.tobytes())):
        (TARGET / f"{name}-{kind}.xz").write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    error = decode_audio(coded) - audio_NS
    decibel: NDArray[np.float32] = 10 * np.log10((audio_NS**2).sum(1) / (error**2).sum(1))
    return decibel


def main() -> None:
    """Pack, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR")
    source: Path = parser.parse_args().source
    rows = read_index(source / "index.csv")
    with np.load(source / "data.npz") as arrays:
        images, audio, offsets = arrays["image"], arrays["audio"], arrays["audio_offset"]
    audio_NS = level([audio[begin:end] for begin, end in pairwise(offsets)])
    TARGET.mkdir(parents=True, exist_ok=True)
    write_index(rows)
    for name in ("public", "federation"):
        chosen = np.array([number for number, row in enumerate(rows) if group_of(row["split"], row["part"]) == name])
        decibel = write_group(name, images[chosen], audio_NS[chosen])
        quantiles = " / ".join(f"{value:.1f}" for value in np.quantile(decibel, [0, 0.05, 0.5]))
        print(f"{name}: {len(chosen)} rows; recordings coded at {quantiles} dB (lowest / 5th percentile / median)")
    print(f"{sum(path.stat().st_size for path in TARGET.iterdir()) / 1e6:.2f} MB in {TARGET}")


if __name__ == "__main__":
    main()
