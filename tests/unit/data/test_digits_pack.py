"""The embedded digits against what their sources say: values below were read from the sources, not from the pack."""

from collections import Counter

import numpy as np
import pytest
import torch

from m2fedsa.data import digits_pack
from m2fedsa.data.digits_pack import AUDIO_SAMPLES, STEP, decode_audio, encode_audio, read_index
from m2fedsa.errors import DataError


def test_rows_per_part_digit_and_speaker():
    rows = read_index()
    assert Counter((row.split, row.part) for row in rows) == {
        ("train", "public"): 908,
        ("train", "clients"): 1192,
        ("validation", ""): 300,
        ("test", ""): 600,
    }
    cells = Counter((row.split, row.digit, row.speaker) for row in rows)
    speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    each = {"train": 35, "validation": 5, "test": 10}
    assert cells == {(split, digit, speaker): count for split, count in each.items() for digit in range(10) for speaker in speakers}


def test_every_row_is_in_one_group(rows):
    numbers = [*rows["public"].numbers, *rows["federation"].numbers]
    assert sorted(numbers) == list(range(3000))
    assert {row.part for row in rows["public"].rows} == {"public"}
    assert {row.part or row.split for row in rows["federation"].rows} == {"clients", "validation", "test"}


def test_no_language_is_in_two_parts():
    languages: dict[str, set[str]] = {}
    for row in read_index():
        languages.setdefault(row.part or row.split, set()).add(row.language)
    assert {part: len(names) for part, names in languages.items()} == {"public": 21, "clients": 28, "validation": 6, "test": 18}
    assert len(set().union(*languages.values())) == 73


@pytest.mark.parametrize(
    ("number", "digit", "speaker", "language", "word", "ink", "row_14"),
    [
        (0, 0, "george", "qu", "chusaq", 33130, (10, [255, 106, 0, 0])),
        (1501, 5, "george", "en-IN", "five", 44219, (10, [253, 253, 253, 253, 199, 197, 199, 224])),
        (2999, 9, "yweweler", "cy", "naw", 22547, (10, [252, 253, 252, 253, 212, 172, 252, 253])),
        (8, 0, "george", "mt", "żero", 23796, (8, [150, 10, 0, 0])),
    ],
)
def test_words_and_images_are_the_sources(rows, number, digit, speaker, language, word, ink, row_14):
    group = rows["public" if number == 8 else "federation"]
    place = group.numbers.index(number)
    row, pixels = group.rows[place], (group.images_NHW[place] * 255).round().int()
    assert (row.digit, row.speaker, row.language, row.word) == (digit, speaker, language, word)
    assert group.digits[place] == digit
    begin, values = row_14
    assert pixels.sum() == ink
    assert pixels[14, begin : begin + len(values)].tolist() == values


@pytest.mark.parametrize(
    ("number", "length", "peak", "around"),
    [
        (0, 2384, 234, [2.85, 2.46, 1.96, 3.55, 2.21, 1.67, 0.96, 0.58]),
        (1501, 4611, 1035, [0.63, 0.53, 2.40, 6.13, 2.40, -0.45, -3.07, -7.55]),
        (2999, 3507, 1356, [-3.12, 0.28, 3.56, 4.22, 2.70, 0.25, -2.01, -2.53]),
    ],
)
def test_recordings_are_the_sources_up_to_the_coding(rows, number, length, peak, around):
    group = rows["federation"]
    audio = group.audio_NS[group.numbers.index(number)]
    start = (AUDIO_SAMPLES - length) // 2 + peak - 3
    assert torch.allclose(audio[start : start + 8], torch.tensor(around), atol=0.3)
    assert audio.square().sum().div(length).item() == pytest.approx(1, abs=0.02)


def test_coding_error_is_that_of_rounding():
    # the transform is orthogonal, so rounding to steps leaves step²/12 per sample
    noise = np.random.default_rng(0).standard_normal((20, AUDIO_SAMPLES)).astype(np.float32)
    error = decode_audio(encode_audio(noise)) - noise
    assert np.mean(error**2) == pytest.approx(STEP**2 / 12, rel=0.02)


def test_a_damaged_file_is_named():
    with pytest.raises(DataError, match=r"digits/public-images\.xz: 711872 bytes where the index asks for 712656"):
        digits_pack._bytes("public-images.xz", np.dtype(np.uint8), (909, 28, 28))
