"""What is laid around a session and changes what passes: it opens and closes with the session inside."""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from m2fedsa.links.port import Session


@dataclass(frozen=True)
class AroundSession:
    """The half of `links.port.Session` that all of them share."""

    inner: Session

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.inner.__exit__(kind, error, traceback)
