"""Tiny media made on the spot, in exactly the layout of the folders that `products` and `spoken_digits` read."""

import csv

import av
import numpy as np
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

CATEGORIES = ("Baby Care", "Beauty", "Computers", "Home Decor", "Home Furnishing", "Kitchen", "Watches")
WORDS = ("cream", "soap", "mouse", "vase", "curtain", "knife", "watch", "blue", "red", "with", "for", "the")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PRODUCT_COLUMNS = ("id", "image", "title", "description", "label", "category", "subcategory", "brand", "split")
DIGIT_COLUMNS = ("row", "digit", "speaker", "recording", "mnist_file", "language", "word", "split")


def tokenizer(words=WORDS, longest=16):
    """BERT's: lower case, words apart, [CLS] and [SEP] around; what is not in the vocabulary is [UNK]."""
    vocabulary = {word: place for place, word in enumerate((*SPECIAL, *words))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **names)


def write_csv(path, columns, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def product_rows(of_each=6):
    """Per category as many training samples, one of validation and one of test."""
    rows = []
    for label, category in enumerate(CATEGORIES):
        for number in range(of_each + 2):
            name = f"{label}{number:03d}"
            split = "train" if number < of_each else ("val", "test")[number - of_each]
            title = f"{WORDS[7 + number % 2].title()} {WORDS[label]}, {WORDS[9]} {WORDS[10 + number % 2]}"
            rows.append(
                dict.fromkeys(PRODUCT_COLUMNS, "")
                | {"id": name, "image": f"img/{name}.jpg", "title": title, "description": f'{title}\n"Rs. 899" ' + "blue " * 20}
                | {"label": str(label), "category": category, "split": split}
            )
    return rows


def write_products(folder, rows=None):
    """`data.csv` and a JPEG a row, each of another size."""
    rows = product_rows() if rows is None else rows
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, row in enumerate(rows):
        pixels = rng.integers(0, 256, (20 + number % 7, 24, 3), dtype=np.uint8) // 2
        pixels[..., int(row["label"]) % 3] += 100
        Image.fromarray(pixels).save(folder / row["image"], quality=85)
    write_csv(folder / "data.csv", PRODUCT_COLUMNS, rows)
    return folder


def digit_rows(of_each=4):
    rows = []
    for digit in range(10):
        for number in range(of_each + 2):
            split = "train" if number < of_each else ("val", "test")[number - of_each]
            speaker = ("george", "lucas")[number % 2]
            known = {"row": len(rows), "digit": digit, "speaker": speaker, "recording": number, "language": "xx", "split": split}
            rows.append(dict.fromkeys(DIGIT_COLUMNS, "") | known | {"word": WORDS[digit]})
    return rows


def waves(rows):
    """Of each row a tone of the digit's height, int16 at 8 kHz, of 0.25 to 0.29 seconds."""
    return [
        np.round(9000 * np.sin(2 * np.pi * (200 + 300 * int(row["digit"])) * np.arange(2000 + 100 * (place % 4)) / 8000)).astype(np.int16)
        for place, row in enumerate(rows)
    ]


def write_digits(folder, rows=None, recordings=None):
    """`data.npz` and `index.csv`."""
    rows = digit_rows() if rows is None else rows
    recordings = waves(rows) if recordings is None else recordings
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((len(rows), 28, 28), np.uint8)
    for place, row in enumerate(rows):
        images[place, 2 * int(row["digit"]) : 2 * int(row["digit"]) + 6, 4:24] = 250 - place
    offsets = np.cumsum([0, *(len(wave) for wave in recordings)])
    np.savez(folder / "data.npz", image=images, audio=np.concatenate(recordings), audio_offset=offsets)
    write_csv(folder / "index.csv", DIGIT_COLUMNS, rows)
    return folder


def write_video(path, levels, fps=10, codec="libx264", seconds_of_sound=0.0, every=12):
    """A frame of one grey level each, and a tone of 440 Hz at 16 kHz where there is sound. `every`: frames from key frame to key frame."""
    with av.open(str(path), "w") as container:
        pictures = sound = None
        if len(levels):
            pictures = container.add_stream(codec, rate=fps)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            pictures.gop_size = every
        if seconds_of_sound:
            sound = container.add_stream("aac", rate=16000)
            sound.layout = "mono"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        if pictures is not None:
            container.mux(pictures.encode(None))
        if sound is not None:
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(16000 * seconds_of_sound)) / 16000)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path
