"""Log-mel patches as YAMNet takes them: 96 frames of 25 ms, one every 10 ms, in 64 mel bands.

Shapes: N waveforms, S = 15,600 samples at 16 kHz, F = 96 frames, Q = 257 frequencies, E = 64 mel bands.
"""

from functools import cache

import torch
from torch import Tensor

RATE = 16000
FRAMES, MELS = 96, 64
_WINDOW, _HOP, _TRANSFORM = 400, 160, 512
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7500.0
_FLOOR = 0.001
SAMPLES = _WINDOW + _HOP * (FRAMES - 1)
"""S: what one patch looks at, 0.975 s"""


def log_mel_patches(waves_NS: Tensor) -> Tensor:
    """(N, 1, 96, 64): ln(magnitude in each mel band + 0.001) of mono waveforms in [-1, 1]."""
    assert waves_NS.shape[1] == SAMPLES, waves_NS.shape
    frames_NFW = waves_NS.unfold(1, _WINDOW, _HOP) * torch.hann_window(_WINDOW)
    magnitude_NFQ = torch.fft.rfft(frames_NFW, _TRANSFORM).abs()
    level_NFE: Tensor = (magnitude_NFQ @ _mel_bands() + _FLOOR).log()
    return level_NFE.unsqueeze(1)


@cache
def _mel_bands() -> Tensor:
    """(Q, E): triangles evenly spaced in mel from 125 to 7,500 Hz. The constant part of a frame is in none."""
    lowest, highest = _mel(torch.tensor([_LOWEST_HZ, _HIGHEST_HZ], dtype=torch.float64))
    edges = torch.linspace(lowest.item(), highest.item(), MELS + 2, dtype=torch.float64)
    bins = _mel(torch.linspace(0, RATE / 2, _TRANSFORM // 2 + 1, dtype=torch.float64))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)
