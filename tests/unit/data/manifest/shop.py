"""A small shop as a folder of files: photos, jingles, clips, titles and sensors of twelve things, made on the spot."""

import csv
import json

import numpy as np
import soundfile
from PIL import Image

from m2fedsa.config import Config

COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250)}
ENCODERS = {"photo": "embedded:digits-image", "jingle": "embedded:digits-audio", "title": "embedded:digits-text"}
KINDS = {"photo": "image", "jingle": "audio", "title": "text"}


def rows(number=12):
    """Red and blue in turn; of four rows the last is for validation or test; shop-0 and shop-1 by turns of two."""
    made = []
    for place in range(number):
        split = "train" if place % 4 < 3 else ("val", "test")[place // 4 % 2]
        known = {"id": f"t{place:02d}", "photo": f"photos/{place:02d}.png", "jingle": f"sounds/{place:02d}.wav"}
        label = ("red", "blue")[place % 2]
        made.append(known | {"title": f"{label} thing {place}", "label": label, "client": f"shop-{place // 2 % 2}", "split": split})
    return made


def write_files(folder, made):
    """The files that rows name."""
    for row in made:
        place = int(row["id"][1:])
        if row.get("photo"):
            (folder / row["photo"]).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30 + place, 28), COLOURS[row["label"]]).save(folder / row["photo"])
        if row.get("jingle"):
            (folder / row["jingle"]).parent.mkdir(parents=True, exist_ok=True)
            tone = 0.4 * np.sin(2 * np.pi * (300 + 50 * place) * np.arange(4000) / 8000)
            soundfile.write(folder / row["jingle"], tone, 8000)
    return folder


def write(folder, made=None, name="train.csv"):
    """Files and manifest; returns the manifest."""
    made = rows() if made is None else made
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, made)
    return write_manifest(folder / name, made)


def write_manifest(path, made):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(made[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(made)
    return path


def tables(manifest, *names, **data):
    """Settings with these modalities, all three where none is named."""
    modalities = {name: {"kind": KINDS[name], "encoder": ENCODERS[name], "adapter_width": 4} for name in names or tuple(KINDS)}
    return {
        "name": "shop",
        "data": {"manifest": str(manifest), **data},
        "modalities": modalities,
        "fusion": {"width": 16, "feed_forward": 16},
        "federation": {"rounds": 2, "batch_size": 4},
        "compute": {"threads": 1},
        "kept": {"folder": str(manifest) + ".cache"},
    }


def config(manifest, *names, **data):
    return Config.from_mapping(tables(manifest, *names, **data))
