"""Noise has the strength it says, belongs to its row, and features are those of hand-made signals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2fedsa.data.digits_inputs import (
    attention_mask,
    character_ids,
    log_mel,
    masked_characters,
    noisy_audio,
    noisy_images,
    pixel_values,
    row_noise,
)
from m2fedsa.errors import ConfigError


@pytest.mark.parametrize("ratio", [-5.0, 12.0])
def test_signal_to_noise_ratio(rows, ratio):
    # the lengths are the source recordings'
    places = [rows["federation"].numbers.index(number) for number in (0, 1501, 2999)]
    audio = rows["federation"].audio_NS[places]
    noise = noisy_audio(audio, (0, 1501, 2999), ratio, seed=0) - audio
    for clip, added, length in zip(audio, noise, (2384, 4611, 3507), strict=True):
        begin = (6656 - length) // 2
        signal, error = (signal[begin : begin + length].square().mean() for signal in (clip, added))
        assert 10 * math.log10(signal / error) == pytest.approx(ratio, abs=0.3)


def test_image_noise_has_its_deviation(rows):
    images, numbers = rows["public"].images_NHW[:100], rows["public"].numbers[:100]
    noise = noisy_images(images, numbers, 0.7, seed=0) - images
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(noisy_images(images, numbers, 0.0, seed=0), images)


def test_characters_are_lost_at_their_rate():
    ids = character_ids(["abcdefghij"] * 500)
    masked = masked_characters(ids, range(500), 0.5, seed=0)
    assert (masked[:, 0] == 1).all()
    assert (masked[:, 11:] == 0).all()
    lost = masked[:, 1:11] == 2
    assert lost.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(masked[:, 1:11][~lost], ids[:, 1:11][~lost])
    assert torch.equal(masked_characters(ids, range(500), 0.0, seed=0), ids)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2999), min_size=1, max_size=8, unique=True), st.randoms())
def test_noise_belongs_to_its_row(numbers, random):
    order = list(range(len(numbers)))
    random.shuffle(order)
    noise = row_noise("image", numbers, torch.Size([5, 4]), seed=3)
    assert torch.equal(noise[order], row_noise("image", [numbers[place] for place in order], torch.Size([5, 4]), seed=3))
    assert not torch.equal(noise, row_noise("audio", numbers, torch.Size([5, 4]), seed=3))
    assert not torch.equal(noise, row_noise("image", numbers, torch.Size([5, 4]), seed=4))


def test_log_mel_of_tones():
    seconds = torch.arange(6656) / 8000
    bands = []
    for hertz in (250.0, 1000.0, 3000.0):
        features = log_mel(torch.sin(2 * math.pi * hertz * seconds)[None])
        assert features.shape == (1, 64, 40)
        assert features.mean().item() == pytest.approx(0, abs=1e-4)
        assert features.std().item() == pytest.approx(1, abs=1e-2)
        bands.append(features[0].mean(0).argmax().item())

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    # 40 bands with their middles evenly between 60 and 3,800 Hz in mel
    for hertz, band in zip((250.0, 1000.0, 3000.0), bands, strict=True):
        assert band == pytest.approx((mel(hertz) - mel(60)) / (mel(3800) - mel(60)) * 41 - 1, abs=1)


def test_log_mel_ignores_loudness_of_what_is_far_above_the_floor():
    audio = torch.randn(3, 6656, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_mel(10 * audio), log_mel(100 * audio), atol=0.01)


def test_a_recording_is_transformed_alone():
    audio = torch.randn(70, 6656, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_mel(audio)[66:], log_mel(audio[66:]), atol=1e-5)


def test_character_ids():
    ids = character_ids(["Núll", "null", "", "a" * 30])
    assert torch.equal(ids[0], ids[1])
    # "a" is 97: 97 · 2654435761 = 257480268817 = 59 · 2³² + 4077198353 = ... + 8010212 · 509 + 445
    assert ids[3].tolist() == [1] + [3 + 445] * 17
    assert ids[2].tolist() == [1] + [0] * 17
    assert attention_mask(ids).sum(1).tolist() == [5, 5, 1, 18]


def test_pixels_lose_their_mean():
    assert pixel_values(torch.full((2, 28, 28), 0.13)).abs().max() < 1e-7
    assert pixel_values(torch.zeros(2, 28, 28)).shape == (2, 1, 28, 28)


def test_noise_out_of_range_is_named():
    with pytest.raises(ConfigError, match=r"image_noise is -1"):
        noisy_images(torch.zeros(1, 28, 28), [0], -1.0, 0)
    with pytest.raises(ConfigError, match=r"audio_snr_db is nan"):
        noisy_audio(torch.zeros(1, 6656), [0], math.nan, 0)
    with pytest.raises(ConfigError, match=r"text_mask is 1\.5"):
        masked_characters(torch.zeros(1, 18, dtype=torch.int64), [0], 1.5, 0)
