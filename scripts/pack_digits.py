"""Pack the digits (`data.npz`, `index.csv` of a source folder) into the package, small enough to travel with it.

    python scripts/pack_digits.py SOURCE_DIR

Of the 2,100 training rows about 900 become public: all rows of some languages, drawn with a fixed seed. So what an encoder learns from
public words is as new to the clients' languages as to those of validation and test, which are different ones again.
"""

import argparse
import csv
import lzma
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from m2fedsa.data.digits_pack import COLUMNS, decode_audio, encode_audio, group_of, level
from m2fedsa.seeding import derive

TARGET = Path(__file__).parents[1] / "src" / "m2fedsa" / "data" / "embedded" / "digits"
PUBLIC_ROWS = 900
"""languages are drawn until they have this many rows"""
SEED = 2024


def read_index(path: Path) -> list[dict[str, str]]:
    """The rows of the source's index, with `part` filled in."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["split"] = {"val": "validation"}.get(row["split"], row["split"])
        row["part"] = "clients" if row["split"] == "train" else ""
    training = Counter(row["language"] for row in rows if row["split"] == "train")
    languages = sorted(training)
    public: set[str] = set()
    for index in torch.randperm(len(languages), generator=derive(SEED, "public")).tolist():
        if sum(training[language] for language in public) < PUBLIC_ROWS:
            public.add(languages[index])
    for row in rows:
        if row["part"] and row["language"] in public:
            row["part"] = "public"
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
