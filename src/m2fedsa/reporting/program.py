"""How the program is called here, so that a command that is told can be typed as it stands."""

import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "m2fedsa"
_COMMAND = re.compile(rf"(?<![\w./-]){NAME} (?=run|config|recipes|report|cut|plan|--)")


def program() -> str:
    """`m2fedsa` where that is found, else the way in which this process was started, e.g. `.venv/bin/m2fedsa`."""
    if shutil.which(NAME):
        return NAME
    started = Path(sys.argv[0])
    if started.name == NAME:
        return shlex.quote(_near(started))
    if started.name == "__main__.py" and started.parent.name == NAME:
        return f"{shlex.quote(_near(Path(sys.executable)))} -m {NAME}"
    return NAME


def word(path: Path | str) -> str:
    """A path as one word of a command that is told, quoted where a shell would take it apart."""
    return shlex.quote(str(path))


def as_called(text: str) -> str:
    """A message whose commands can be typed here."""
    return _COMMAND.sub(f"{program()} ".replace("\\", r"\\"), text)


def _near(path: Path) -> str:
    """The path as seen from the working directory, where it lies below that."""
    here, whole = Path.cwd(), Path.cwd() / path
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
