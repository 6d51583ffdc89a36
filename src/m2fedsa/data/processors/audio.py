"""Waveforms. N items."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from m2fedsa.data import log_mel
from m2fedsa.data.processors import Inputs, own, place_of
from m2fedsa.data.processors.embedded import AUDIO, DigitAudio
from m2fedsa.errors import ConfigError


class AudioProcessor(Protocol):
    """Waveforms to inputs of equal shape."""

    @property
    def rate(self) -> int:
        """Samples a second that it wants."""

    @property
    def samples(self) -> int:
        """Samples that it looks at; what is longer loses its end."""

    def __call__(self, waves: Sequence[np.ndarray]) -> Inputs:
        """`waves` are mono, float32, `rate` samples a second, at most `samples` long."""


@dataclass(frozen=True)
class LogMelPatch:
    """One log-mel patch of the first 0.975 seconds; silence behind a shorter waveform."""

    rate: int = log_mel.RATE
    samples: int = log_mel.SAMPLES

    def __call__(self, waves: Sequence[np.ndarray]) -> Inputs:
        """{`pixel_values`: (N, 1, 96, 64)}."""
        padded = torch.zeros(len(waves), self.samples)
        for row, wave in enumerate(waves):
            padded[row, : len(wave)] = torch.from_numpy(wave)
        return {"pixel_values": log_mel.log_mel_patches(padded)}


@dataclass(frozen=True)
class OwnAudio:
    """The encoder's own feature extractor."""

    extractor: Any
    samples: int

    @property
    def rate(self) -> int:
        """See `AudioProcessor`."""
        return int(self.extractor.sampling_rate)

    def __call__(self, waves: Sequence[np.ndarray]) -> Inputs:
        """What the extractor gives, of the same width whatever waveforms are together."""
        known = inspect.signature(self.extractor.__call__).parameters
        # Spectrogram Transformers pad to a length of their own, Whisper by default; the others only if they are told how far.
        told = {"padding": "max_length", "max_length": self.samples, "truncation": True} if "padding" in known else {}
        if told and known["padding"].default == "max_length":
            told = {}
        return dict(self.extractor(list(waves), sampling_rate=self.rate, return_tensors="pt", **told))


def audio_processor(processors: Mapping[str, str], modality: str, seconds: float = 0.0) -> AudioProcessor:
    """The feature extractor of a modality's encoder, or log-mel patches.

    processors: modality -> where its processor lies. seconds: how much of a recording the extractor looks at; 0 for as much as it says
    itself, 10 s where it says nothing.
    """
    if not 0 <= seconds < np.inf:
        raise ConfigError(f"audio_seconds is {seconds}; it is a length in seconds, or 0 for what the encoder's processor says")
    if place_of(processors, modality) == AUDIO:
        return DigitAudio()
    from transformers import AutoFeatureExtractor

    found = own(AutoFeatureExtractor, processors, modality)
    if found is None:
        return LogMelPatch()
    samples = round(seconds * found.sampling_rate) or int(getattr(found, "n_samples", 0)) or 10 * int(found.sampling_rate)
    return OwnAudio(found, samples)
