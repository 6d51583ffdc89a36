"""From written digits, spoken digits and number words to what the tiny encoders take, with the noise that makes one of them not enough.

The noise of a row is drawn from the seed, the modality and the row's own number alone: the same for ever, whoever holds the row.

Shapes: N rows, H = W = 28 pixels, S = 6,656 audio samples, F = 64 frames of 12.6 ms, E = 40 mel bands, L = 18 characters.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

FRAMES, MELS = 64, 40
CHARACTERS = 18
VOCABULARY = 512
PAD, BEGIN, MASK, FIRST_CHARACTER = 0, 1, 2, 3
MEAN_INK = 0.13
SAMPLE_RATE, _WINDOW, _HOP = 8000, 256, 101
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 3800.0
_POWER_FLOOR = 0.1
_CHUNK = 64
"""recordings transformed at once: few enough to stay in the cache, ten times faster than all"""


def pixel_values(images_NHW: Tensor) -> Tensor:
    """(N, 1, 28, 28): pixels in [0, 1] less their mean over the digits."""
    return (images_NHW - MEAN_INK).unsqueeze(1)


def noisy_images(images_NHW: Tensor, numbers: Sequence[int], sigma: float, seed: int) -> Tensor:
    """Gaussian noise of standard deviation `sigma` on pixels in [0, 1], drawn per row number. (N, 28, 28)"""
    if not sigma >= 0:
        raise ConfigError(f"image_noise is {sigma}; it is a standard deviation of pixels in [0, 1] and must be 0 or more")
    return images_NHW if sigma == 0 else images_NHW + sigma * row_noise("image", numbers, images_NHW.shape[1:], seed)


def noisy_audio(audio_NS: Tensor, numbers: Sequence[int], snr_db: float, seed: int) -> Tensor:
    """White noise `snr_db` decibels below the spoken part (whose root mean square is 1), drawn per row number. (N, S)"""
    if snr_db != snr_db or snr_db == -float("inf"):
        raise ConfigError(f"audio_snr_db is {snr_db}; it is a signal-to-noise ratio in decibels (inf: no noise)")
    return torch.add(audio_NS, row_noise("audio", numbers, audio_NS.shape[1:], seed), alpha=10 ** (-snr_db / 20))


def masked_characters(input_ids_NL: Tensor, numbers: Sequence[int], probability: float, seed: int) -> Tensor:
    """Each character lost (`MASK`) with this probability, drawn per row number; padding and begin stay. (N, L)"""
    if not 0 <= probability <= 1:
        raise ConfigError(f"text_mask is {probability}; it is a probability between 0 and 1")
    drawn = torch.stack([torch.rand(CHARACTERS, generator=derive(seed, "digits", "noise", "text", number)) for number in numbers])
    return torch.where((drawn < probability) & (input_ids_NL >= FIRST_CHARACTER), MASK, input_ids_NL)


def row_noise(modality: str, numbers: Sequence[int], shape: torch.Size, seed: int) -> Tensor:
    """(N, *shape) standard normal, each row from a generator of its own."""
    noise = torch.empty(len(numbers), *shape)
    for row, number in enumerate(numbers):
        torch.randn(*shape, generator=derive(seed, "digits", "noise", modality, number), out=noise[row])
    return noise


def log_mel(audio_NS: Tensor) -> Tensor:
    """(N, 64, 40): the logarithm of mel-band power, mean 0 and standard deviation 1 over each recording."""
    return torch.cat([_log_mel(chunk) for chunk in torch.split(audio_NS, _CHUNK)])


def _log_mel(audio_NS: Tensor) -> Tensor:
    window = torch.hann_window(_WINDOW)
    spectra = torch.stft(audio_NS, _WINDOW, _HOP, window=window, center=False, return_complex=True)[..., :FRAMES]
    power_NFQ = (spectra.real.square() + spectra.imag.square()).transpose(1, 2)
    level_NFE = (power_NFQ @ _mel_bands() + _POWER_FLOOR).log()
    mean = level_NFE.mean((1, 2), keepdim=True)
    return (level_NFE - mean) / (level_NFE.std((1, 2), keepdim=True) + 1e-3)


@cache
def _mel_bands() -> Tensor:
    """(129, 40): triangles evenly spaced in mel from 60 to 3,800 Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    lowest, highest = mel(torch.tensor([_LOWEST_HZ, _HIGHEST_HZ], dtype=torch.float64))
    edges = torch.linspace(lowest.item(), highest.item(), MELS + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE / 2, _WINDOW // 2 + 1, dtype=torch.float64))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def character_ids(words: Sequence[str]) -> Tensor:
    """(N, 18) int64: begin, then a hash of each lower-case character without its accents, padded with 0; what is longer loses its end."""
    ids = torch.full((len(words), CHARACTERS), PAD, dtype=torch.int64)
    for row, word in enumerate(words):
        hashed = [FIRST_CHARACTER + (ord(letter) * 2654435761 % 2**32) % (VOCABULARY - FIRST_CHARACTER) for letter in letters(word)]
        kept = [BEGIN, *hashed][:CHARACTERS]
        ids[row, : len(kept)] = torch.tensor(kept)
    return ids


def letters(word: str) -> list[str]:
    """Lower-case characters without accents."""
    return [letter for letter in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(letter)]


def attention_mask(input_ids_NL: Tensor) -> Tensor:
    """(N, L) int64: 1 where there is a character, masked or not."""
    return (input_ids_NL != PAD).long()
