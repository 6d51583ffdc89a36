"""Texts. N items, L tokens."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from m2fedsa.data.processors import Inputs, own, place_of
from m2fedsa.data.processors.embedded import TEXT, DigitText
from m2fedsa.data.processors.words import Lengths, Words
from m2fedsa.errors import ConfigError

_UNBOUNDED = 10**6
"""Tokenizers that know no limit say a huge number."""
PLAIN_TOKENS = 512


@dataclass(frozen=True)
class TextProcessor:
    """A tokenizer and how many tokens of a text are read."""

    tokenizer: Any
    limit: int
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Tokenizers keep how they pad and cut within themselves, so one thread at a time asks them."""

    def lengths(self, texts: Sequence[str]) -> list[Lengths]:
        """Tokens of each text, uncut."""
        with self._alone:
            found = self.tokenizer(list(texts), add_special_tokens=True, return_special_tokens_mask=True, verbose=False)
        pairs = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
        return [Lengths(len(ids), all(special)) for ids, special in pairs]

    def __call__(self, texts: Sequence[str], width: int) -> Inputs:
        """{`input_ids`, `attention_mask`: (N, L) int64}, cut and padded to `width` tokens."""
        with self._alone:
            padded = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=width, return_tensors="pt")
        return {name: padded[name] for name in ("input_ids", "attention_mask")}


def text_processor(processors: Mapping[str, str], modality: str, tokens: int = 0) -> Words:
    """The tokenizer of a modality's encoder.

    processors: modality -> where its processor lies. tokens: read at most so many of a text; 0 for as many as the tokenizer says.
    Errors: ConfigError where there is no tokenizer, or when it takes fewer.
    """
    where = place_of(processors, modality)
    if where == TEXT:
        return DigitText(_within(tokens, DigitText.limit, where))
    from transformers import AutoTokenizer

    tokenizer = own(AutoTokenizer, processors, modality)
    # Where its files are missing transformers makes some tokenizers up, to which every word is unknown.
    if tokenizer is None or tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ConfigError(
            f"modalities.{modality}.encoder = {where!r}, but no tokenizer lies there. Give a folder that has one (tokenizer.json or "
            f"vocab.txt beside config.json), or name that with modalities.{modality}.processor."
        )
    most = int(tokenizer.model_max_length)
    most = PLAIN_TOKENS if most > _UNBOUNDED else most
    limit = _within(tokens, most, where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return TextProcessor(tokenizer, limit)


def _within(tokens: int, most: int, where: str) -> int:
    if not 0 <= tokens <= most:
        raise ConfigError(f"text_tokens is {tokens}; the tokenizer of {where} takes 1 to {most} tokens, and 0 stands for all of these")
    return tokens or most
