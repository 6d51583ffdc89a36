import shlex
import shutil
import sys
from pathlib import Path

import pytest

from m2fedsa.reporting.program import as_called, program, word

HERE = Path.cwd()


def test_a_path_is_one_word_of_a_command():
    for path in ("runs/digits-1", "my runs/it's", "runs/$HOME;ls"):
        assert shlex.split(f"m2fedsa run --resume {word(Path(path))}")[3:] == [path]
    assert word("runs/digits-1") == "runs/digits-1"


@pytest.mark.parametrize(
    ("found", "started", "called"),
    [
        ("/usr/bin/m2fedsa", "/usr/bin/m2fedsa", "m2fedsa"),
        (None, HERE / ".venv/bin/m2fedsa", ".venv/bin/m2fedsa"),
        (None, ".venv/bin/m2fedsa", ".venv/bin/m2fedsa"),
        (None, "/opt/my tools/m2fedsa", "'/opt/my tools/m2fedsa'"),
        (None, HERE / "src/m2fedsa/__main__.py", "env/bin/python -m m2fedsa"),
        (None, "notebook.py", "m2fedsa"),
    ],
)
def test_how_it_is_called(monkeypatch, found, started, called):
    """By its name where a shell finds that, else as it was started."""
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setattr(sys, "argv", [str(started)])
    monkeypatch.setattr(sys, "executable", str(HERE / "env/bin/python"))
    assert program() == called
    said = "error: x. Go on with: m2fedsa run --resume runs/m2fedsa run. Try `m2fedsa --help`; m2fedsa is a program."
    assert as_called(said) == (
        f"error: x. Go on with: {called} run --resume runs/m2fedsa run. Try `{called} --help`; m2fedsa is a program."
    )
