"""kill -9, Ctrl-C and a reader that leaves, at any time: the run ends as if nothing had been.

Five kills here; `make nightly` makes it a hundred."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tests.integration import small

from m2fedsa.checkpoint import Manifest

NURSERY = """
import os, signal, sys
import m2fedsa.running, transformers.models.bert.modeling_bert, transformers.models.vit.modeling_vit
from m2fedsa.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        words = line.rstrip("\\n").split("\\t")
        for stream, name in ((1, words[0]), (2, words[0] + ".err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        status = main(words[1:])
        sys.stdout.flush()
        os._exit(status)
    print(child, flush=True)
    sys.stdin.readline()  # until then its number is its own, even when it has ended
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Processes of the command line, forked from one that has imported everything: a start in no time, and a life of their own."""

    def __init__(self):
        words = [sys.executable, "-c", NURSERY]
        self.parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=small.ONE_THREAD)
        assert self.parent.stdout.readline() == "ready\n"

    def run(self, said, *arguments, after=None, sent=signal.SIGKILL):
        """Run to the end, or until a signal after so many seconds; its exit status. Output goes to the file `said`, errors beside it."""
        child = self.begin(said, *arguments)
        if after is not None:
            time.sleep(after)
            os.kill(child, sent)
        return self.end()

    def begin(self, said, *arguments):
        self.parent.stdin.write("\t".join(map(str, [said, *arguments])) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def end(self):
        self.parent.stdin.write("\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def close(self):
        self.parent.stdin.close()
        assert self.parent.wait(10) == 0
        self.parent.stdout.close()


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def span(nursery, settings, tmp_path_factory):
    """Seconds that the whole run takes as a process of its own."""
    folder = tmp_path_factory.mktemp("span")
    began = time.monotonic()
    assert nursery.run(folder / "said", "run", settings, "--out", folder / "run") == 0
    return time.monotonic() - began


@pytest.mark.parametrize("number", [*range(5), *(pytest.param(number, marks=pytest.mark.slow) for number in range(5, 100))])
def test_kill_9(nursery, span, settings, uninterrupted, tmp_path, number):
    """Killed once at a random moment; every second time once more while it goes on. A child that was faster is started again."""
    draw, path = random.Random(number), tmp_path / "run"
    for _ in range(1 + number % 2):
        whole = span
        while nursery.run(tmp_path / "said", *small.go_on(settings, path), after=draw.uniform(0.02, whole)) != -signal.SIGKILL:
            shutil.rmtree(path)
            whole *= 0.8
    assert nursery.run(tmp_path / "said", *small.go_on(settings, path)) == 0, (tmp_path / "said.err").read_text()
    small.assert_same(path, uninterrupted)


@pytest.mark.parametrize("number", [*range(2), *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 20))])
def test_ctrl_c(nursery, span, settings, uninterrupted, tmp_path, number):
    """Exit 130 with a sentence that is true and tells how to go on, whenever it comes."""
    draw, path, said = random.Random(1000 + number), tmp_path / "run", tmp_path / "said"
    whole = span
    while nursery.run(said, *small.go_on(settings, path), after=draw.uniform(0.05, whole), sent=signal.SIGINT) != 130:
        shutil.rmtree(path)
        whole *= 0.8
    told = (tmp_path / "said.err").read_text()
    assert "Traceback" not in told
    if not (path / "config.toml").exists():
        assert "nothing was changed." in told
    else:
        assert f"Go on with: m2fedsa run --resume {path}" in told
        manifest = Manifest.read(path / "checkpoint")
        assert ("before its first checkpoint" if manifest is None else f"stopped after round {manifest.round} of 3, which is kept") in told
    assert nursery.run(said, *small.go_on(settings, path)) == 0
    small.assert_same(path, uninterrupted)


def test_ctrl_c_before_there_is_a_run(settings, tmp_path, monkeypatch, capsys):
    """While data and encoders load, nothing is written yet."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("m2fedsa.running.assemble", interrupted)
    assert small.call("run", settings, "--out", tmp_path / "run") == 130
    assert capsys.readouterr().err == "stopped before it began; nothing was changed.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_stops_the_run(nursery, settings, uninterrupted, tmp_path):
    """`m2fedsa run | head -n 1` leaves a run that can go on, and says so."""
    path = tmp_path / "run"
    os.mkfifo(tmp_path / "said")
    nursery.begin(tmp_path / "said", *small.go_on(settings, path))
    with (tmp_path / "said").open() as reader:
        assert reader.readline().startswith("m2fedsa")
    assert nursery.end() == 130
    told = (tmp_path / "said.err").read_text()
    assert f"Go on with: m2fedsa run --resume {path}" in told
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert small.call(*small.go_on(settings, path)) == 0
    small.assert_same(path, uninterrupted)
