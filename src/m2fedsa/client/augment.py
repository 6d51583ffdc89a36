"""Disturbed views of training samples, made of the encoder's inputs on the client. (Setting `modalities.*.augment`.)

A head is frozen, so its output for a sample is kept; of a sample that looks otherwise each time it cannot be. Either a number of views is
drawn once and their outputs are kept, or each step draws its own and runs the head. Which draws a view is made of depends on the seed, the
client, the modality and the view or the round.

n samples; C channels, H x W pixels; T frames, F bands; L tokens.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from m2fedsa.client.kept import Disturbance
from m2fedsa.config import Config
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

SHIFT, ERASED, MASKED, NOISE, DROPPED = 1 / 8, 1 / 2, 1 / 4, 0.1, 0.1
"""Of the sides of a picture at most; of its sides at most; of frames or bands at most; standard deviations; of the tokens."""
_MASK = "attention_mask"

Disturb = Callable[[Tensor, torch.Generator], Tensor]


class Views:
    """The views of a client's training samples in one round."""

    def __init__(self, config: Config, client: str, round_seed: int) -> None:
        """round_seed: of what is drawn anew in each round."""
        self._config, self._client, self._seed = config, client, round_seed
        self._fresh: dict[str, Disturbance] = {}
        self._which = derive(round_seed, client, "augment", "views")

    def number(self, modality: str) -> int:
        """How many views are kept; see `Modality.views`."""
        return self._config.modalities[modality].views

    def which(self, modality: str, count: int) -> Tensor:
        """(count,) int64: the view of each of a step's samples; 0 is the sample itself."""
        return torch.randint(self.number(modality), (count,), generator=self._which)

    def view(self, modality: str, view: int) -> Disturbance:
        """Disturbs all samples, chunk by chunk, as the view of this number: the same in each round."""
        return self._begin(modality, derive(self._config.seed, self._client, "augment", modality, view))

    def fresh(self, modality: str) -> Disturbance:
        """Disturbs a step's samples, otherwise in each step."""
        if modality not in self._fresh:
            self._fresh[modality] = self._begin(modality, derive(self._seed, self._client, "augment", modality))
        return self._fresh[modality]

    def _begin(self, modality: str, generator: torch.Generator) -> Disturbance:
        kinds = self._config.modalities[modality].augment
        return lambda inputs: disturbed(kinds, modality, inputs, generator)


def disturbed(kinds: Sequence[str], modality: str, inputs: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Encoder inputs (n, ...) of one view, the samples as they came left alone. `ConfigError` for a kind that these inputs do not take."""
    made = dict(inputs)
    for kind in kinds:
        disturb, fits, wanted = KINDS[kind]
        name = next((name for name, value in made.items() if fits(name, value)), None)
        if name is None:
            told = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in inputs.items())
            raise ConfigError(f'modalities.{modality}.augment: "{kind}" is for {wanted}, but the encoder takes {told}; leave it out.')
        made[name] = disturb(made[name], generator)
    return made


def _flip(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Left is right in half of them."""
    chosen = torch.rand(len(pictures), generator=generator) < 0.5
    return torch.where(_spread(chosen, pictures), pictures.flip(-1), pictures)


def _shift(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Moved, zeros behind them."""
    height, width = pictures.shape[-2:]
    made = torch.zeros_like(pictures)
    moves = zip(*(_moves(len(pictures), side, generator) for side in (height, width)), strict=True)
    for place, (down, right) in enumerate(moves):
        source = pictures[place, ..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
        made[place, ..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = source
    return made


def _moves(number: int, side: int, generator: torch.Generator) -> list[int]:
    most = int(side * SHIFT)
    moves: list[int] = torch.randint(-most, most + 1, (number,), generator=generator).tolist()
    return moves


def _erase(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of zeros (Zhong et al. 2017)."""
    hidden = _stretch(len(pictures), pictures.shape[-2], ERASED, generator)[:, :, None]
    hidden = hidden & _stretch(len(pictures), pictures.shape[-1], ERASED, generator)[:, None, :]
    return pictures.masked_fill(hidden.reshape(len(pictures), *[1] * (pictures.ndim - 3), *pictures.shape[-2:]), 0.0)


def _frames(spectra: Tensor, generator: torch.Generator) -> Tensor:
    """A stretch of frames without sound (Park et al. 2019)."""
    return spectra.masked_fill(_stretch(len(spectra), spectra.shape[-2], MASKED, generator)[:, :, None], 0.0)


def _bands(spectra: Tensor, generator: torch.Generator) -> Tensor:
    """A stretch of bands without sound (Park et al. 2019)."""
    return spectra.masked_fill(_stretch(len(spectra), spectra.shape[-1], MASKED, generator)[:, None, :], 0.0)


def _noise(values: Tensor, generator: torch.Generator) -> Tensor:
    """White noise, a tenth of a sample's own standard deviation."""
    scale = NOISE * values.flatten(1).std(1, correction=0)
    return values + _spread(scale, values) * torch.randn(values.shape, generator=generator).to(values.dtype)


def _drop(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens that nobody attends to; never the first, so that something is left."""
    lost = torch.rand(mask.shape, generator=generator) < DROPPED
    lost[:, 0] = False
    return mask.masked_fill(lost, 0)


def _stretch(number: int, length: int, share: float, generator: torch.Generator) -> Tensor:
    """(number, length) bool: a stretch of up to this share, somewhere."""
    wide = torch.randint(0, int(length * share) + 1, (number, 1), generator=generator)
    begin = (torch.rand(number, 1, generator=generator) * (length - wide + 1)).long()
    place = torch.arange(length)
    return (place >= begin) & (place < begin + wide)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(len(value), *[1] * (like.ndim - 1))


def _pictures(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 4 and name.startswith("pixel_values")


def _spectra(_: str, value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim == 3


def _numbers(_: str, value: Tensor) -> bool:
    return value.is_floating_point()


def _masks(name: str, _: Tensor) -> bool:
    return name == _MASK


KINDS: Mapping[str, tuple[Disturb, Callable[[str, Tensor], bool], str]] = {
    "flip": (_flip, _pictures, "pictures"),
    "shift": (_shift, _pictures, "pictures"),
    "erase": (_erase, _pictures, "pictures"),
    "frames": (_frames, _spectra, "spectrograms"),
    "bands": (_bands, _spectra, "spectrograms"),
    "noise": (_noise, _numbers, "numbers"),
    "drop": (_drop, _masks, "texts with an attention mask"),
}
"""name -> what it does, to which inputs, and what these are called"""
