"""What a processor of texts is asked. N items, L tokens."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from m2fedsa.data.processors import Inputs


class Lengths(NamedTuple):
    """What tokenising says of a text."""

    tokens: int
    """with the special ones that every text has"""
    blank: bool
    """whether there is none beside these"""


class Words(Protocol):
    """Texts to inputs of equal shape."""

    @property
    def limit(self) -> int:
        """Tokens that it reads of a text; what is longer loses its end."""

    def lengths(self, texts: Sequence[str]) -> list[Lengths]:
        """Tokens of each text, uncut."""

    def __call__(self, texts: Sequence[str], width: int) -> Inputs:
        """Inputs cut and padded to `width` tokens, at most `limit`."""
