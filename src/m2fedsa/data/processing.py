"""From pictures, waveforms and texts to what an encoder takes, by the processor that lies beside the encoder.

Networks are unknown here: an encoder is a folder or a name on the hub, and only its processor's files are read. Where there are none,
pictures become squares in [-1, 1] (MobileNet, ViT) and waveforms log-mel patches (YAMNet); a text needs a tokenizer.

N items, S pixels a side, L tokens.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from m2fedsa.data import log_mel
from m2fedsa.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

Inputs = dict[str, Tensor]
"""An encoder's keyword arguments, first dimension N."""
PLAIN_SIZE = 224
_SETTINGS = ("preprocessor_config.json", "processor_config.json")
_WITHOUT_FILES = ("embedded:", "random:", "object")
"""Encoders that are no folder, so that no processor lies beside them."""
_UNBOUNDED = 10**6
"""Tokenizers that know no limit say a huge number."""
PLAIN_TOKENS = 512


class ImageProcessor(Protocol):
    """Pictures to inputs of equal shape."""

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """`images` are RGB, of any size."""


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


# --- pictures -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainImages:
    """Squares of `size` pixels a side, three channels in [-1, 1]."""

    size: int

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """{`pixel_values`: (N, 3, S, S)}; a picture that is no square is squeezed into one, so that nothing of it is lost."""
        from PIL.Image import Resampling

        squares = [np.asarray(image.resize((self.size, self.size), Resampling.BILINEAR)) for image in images]
        pixels_NSSC = torch.from_numpy(np.stack(squares))
        return {"pixel_values": pixels_NSSC.permute(0, 3, 1, 2).float() / 127.5 - 1}


@dataclass(frozen=True)
class OwnImages:
    """The encoder's own image processor."""

    processor: Any
    size: int
    """pixels a side instead of the processor's own size and cropping; 0 leaves it alone"""

    def __call__(self, images: "Sequence[Image]") -> Inputs:
        """What the processor gives."""
        own = {"size": {"height": self.size, "width": self.size}, "do_center_crop": False} if self.size else {}
        return dict(self.processor(images=list(images), return_tensors="pt", **own))


def image_processor(processors: Mapping[str, str], modality: str, size: int = 0) -> ImageProcessor:
    """The processor of a modality's encoder, or the plain one.

    processors: modality -> where its processor lies. size: pixels a side; 0 for the processor's own, 224 of the plain one.
    """
    if size < 0:
        raise ConfigError(f"image_size is {size}; it is the number of pixels a side, or 0 for what the encoder's processor says")
    from transformers import AutoImageProcessor

    # Not the torchvision one, on which this package does not depend.
    own = _own(AutoImageProcessor, processors, modality, backend="pil")
    return PlainImages(size or PLAIN_SIZE) if own is None else OwnImages(own, size)


# --- waveforms ------------------------------------------------------------------------------------------------------------------------


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
    from transformers import AutoFeatureExtractor

    own = _own(AutoFeatureExtractor, processors, modality)
    if own is None:
        return LogMelPatch()
    samples = round(seconds * own.sampling_rate) or int(getattr(own, "n_samples", 0)) or 10 * int(own.sampling_rate)
    return OwnAudio(own, samples)


# --- texts ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Tokenised texts."""

    inputs: Inputs
    """`input_ids` and `attention_mask`, (N, L) int64, padded to the longest"""
    cut: Sequence[int]
    """rows that were longer than the limit and lost their end"""
    blank: Sequence[int]
    """rows without a token beside the ones that every text has"""
    limit: int


@dataclass(frozen=True)
class TextProcessor:
    """A tokenizer and how many tokens of a text are read."""

    tokenizer: Any
    limit: int

    def __call__(self, texts: Sequence[str]) -> Texts:
        """Tokenise, cut, pad; and tell which texts lost something."""
        found = self.tokenizer(list(texts), add_special_tokens=True, return_special_tokens_mask=True, verbose=False)
        lengths = [len(ids) for ids in found["input_ids"]]
        padded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=min(self.limit, max(lengths, default=1)), return_tensors="pt"
        )
        blank = [row for row, special in enumerate(found["special_tokens_mask"]) if all(special)]
        inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
        return Texts(inputs, [row for row, length in enumerate(lengths) if length > self.limit], blank, self.limit)


def text_processor(processors: Mapping[str, str], modality: str, tokens: int = 0) -> TextProcessor:
    """The tokenizer of a modality's encoder.

    processors: modality -> where its processor lies. tokens: read at most so many of a text; 0 for as many as the tokenizer says.
    Errors: ConfigError where there is no tokenizer, or when it takes fewer.
    """
    from transformers import AutoTokenizer

    tokenizer, where = _own(AutoTokenizer, processors, modality), _place(processors, modality)
    # Where its files are missing transformers makes some tokenizers up, to which every word is unknown.
    if tokenizer is None or tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ConfigError(
            f"modalities.{modality}.encoder = {where!r}, but no tokenizer lies there. Give a folder that has one (tokenizer.json or "
            f"vocab.txt beside config.json), or name that with modalities.{modality}.processor."
        )
    most = int(tokenizer.model_max_length)
    most = PLAIN_TOKENS if most > _UNBOUNDED else most
    if not 0 <= tokens <= most:
        raise ConfigError(f"text_tokens is {tokens}; the tokenizer of {where} takes 1 to {most} tokens, and 0 stands for all of these")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return TextProcessor(tokenizer, tokens or most)


# --- where processors lie -------------------------------------------------------------------------------------------------------------


def _place(processors: Mapping[str, str], modality: str) -> str:
    if modality not in processors:
        raise ConfigError(f"modalities.{modality} is missing: the data has this modality, and it needs an encoder.")
    return processors[modality]


def _own(kind: Any, processors: Mapping[str, str], modality: str, **options: Any) -> Any:
    """The processor of this kind that lies with a modality's encoder; None if the encoder is a folder without one, or no folder at all.

    Code that lies there is not run. Errors: ConfigError where it cannot be read.
    """
    where = _place(processors, modality)
    if where.startswith(_WITHOUT_FILES):
        return None
    folder = Path(where).expanduser()
    # The hub's names are `name` or `owner/name`.
    if not folder.is_dir() and (where.startswith((".", "/", "~")) or len(folder.parts) > 2):
        raise ConfigError(f"modalities.{modality}.encoder = {where!r}, but there is no such folder. Give one, or a name on the hub.")
    if folder.is_dir() and "Tokenizer" not in kind.__name__ and not any((folder / name).is_file() for name in _SETTINGS):
        return None
    try:
        return kind.from_pretrained(str(folder) if folder.is_dir() else where, local_files_only=folder.is_dir(), **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        raise ConfigError(
            f"modalities.{modality}.encoder = {where!r}, but no processor of its inputs can be read there "
            f"({type(error).__name__}: {reason}). Give a folder that has one, or name that with modalities.{modality}.processor."
        ) from error
