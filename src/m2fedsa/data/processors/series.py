"""Series of readings. N items, T readings, C channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from m2fedsa.data.processors import Inputs, encoder_facts, place_of, settings_beside
from m2fedsa.errors import ConfigError

KIND = "m2fedsa.series"
"""In preprocessor_config.json, beside encoders that this package makes."""


@dataclass(frozen=True)
class SeriesProcessor:
    """The first T readings of a series, on the scale of each channel; readings that are missing are marked."""

    length: int
    """T"""
    channels: int
    """C"""
    mean: Sequence[float] = field(default=())
    """of each channel; empty where the encoder finds its scale itself"""
    deviation: Sequence[float] = field(default=())

    def __call__(self, series: Sequence[np.ndarray]) -> Inputs:
        """{`past_values`: (N, T, C), 0 where nothing was read; `past_observed_mask`: (N, T, C) bool} of series (t, C)."""
        values_NTC = torch.zeros(len(series), self.length, self.channels)
        seen_NTC = torch.zeros(len(series), self.length, self.channels, dtype=torch.bool)
        for row, own in enumerate(series):
            part = torch.from_numpy(np.array(own[: self.length], np.float32))
            seen_NTC[row, : len(part)] = part.isfinite()
            if len(self.mean):
                part = (part - torch.tensor(self.mean)) / torch.tensor(self.deviation)
            values_NTC[row, : len(part)] = part.nan_to_num(0.0)
        return {"past_values": values_NTC, "past_observed_mask": seen_NTC}


def series_processor(processors: Mapping[str, str], modality: str) -> SeriesProcessor:
    """What a modality's encoder takes of a series: its config.json says how many readings of how many channels (`context_length`,
    `num_input_channels`, as PatchTST and PatchTSMixer have them); a preprocessor_config.json of this package says on which scale.

    Errors: ConfigError where the encoder says nothing of the kind.
    """
    facts = encoder_facts(processors, modality)
    length, channels = facts.get("context_length"), facts.get("num_input_channels")
    if length is None or channels is None:
        raise ConfigError(
            f"modalities.{modality}.encoder = {place_of(processors, modality)!r}, but its config.json has no context_length and "
            "num_input_channels: it is no encoder of series. Name a PatchTST, or make one with `m2fedsa encoder series`."
        )
    scale = settings_beside(processors, modality, KIND)
    return SeriesProcessor(int(length), int(channels), tuple(scale.get("mean", ())), tuple(scale.get("deviation", ())))
