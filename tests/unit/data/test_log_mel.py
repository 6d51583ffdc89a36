"""The log-mel patches against scipy's short-time transform, transformers' filter banks, and what is known of pure tones."""

import numpy as np
import scipy.signal
import torch
from transformers import audio_utils

from m2fedsa.data.log_mel import SAMPLES, log_mel_patches

RATE = 16000


def elsewhere(wave):
    """(96, 64): 25 ms of a periodic Hann window every 10 ms, magnitudes of 512 points, 64 triangles in mel from 125 to 7,500 Hz."""
    window = scipy.signal.get_window("hann", 400, fftbins=True)
    frames = np.stack([wave[begin : begin + 400] * window for begin in range(0, 15201, 160)])
    magnitudes = np.abs(scipy.fft.rfft(frames, 512))
    bands = audio_utils.mel_filter_bank(257, 64, 125.0, 7500.0, RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True)
    return np.log(magnitudes @ bands + 0.001)


def test_it_is_what_others_compute():
    waves = np.random.default_rng(0).standard_normal((3, SAMPLES)) * np.array([[1.0], [0.1], [1e-4]])
    found = log_mel_patches(torch.from_numpy(waves).float())
    assert found.shape == (3, 1, 96, 64)
    assert found.dtype == torch.float32
    for row in range(3):
        np.testing.assert_allclose(found[row, 0].numpy(), elsewhere(waves[row]), atol=2e-4)


def test_silence_is_the_floor():
    assert torch.allclose(log_mel_patches(torch.zeros(1, SAMPLES)), torch.tensor(0.001).log())


def test_a_tone_is_loudest_in_the_band_that_holds_it():
    """Bands lie evenly between mel(125) and mel(7,500), where mel(f) = 1127 ln(1 + f / 700)."""
    lowest, highest = (1127 * np.log1p(hertz / 700) for hertz in (125, 7500))
    for hertz in (300.0, 1000.0, 4000.0):
        tone = torch.from_numpy(np.sin(2 * np.pi * hertz * np.arange(SAMPLES) / RATE)).float()[None]
        place = (1127 * np.log1p(hertz / 700) - lowest) / ((highest - lowest) / 65) - 1
        assert abs(int(log_mel_patches(tone)[0, 0].mean(0).argmax()) - place) <= 1


def test_a_patch_looks_at_975_milliseconds():
    assert SAMPLES == 15600
    late = torch.zeros(1, SAMPLES)
    late[0, -400:] = 1.0
    changed = (log_mel_patches(late) != log_mel_patches(torch.zeros(1, SAMPLES))).any(-1)[0, 0]
    assert changed.nonzero().flatten().tolist() == [93, 94, 95]  # frames begin every 160 samples and last 400
