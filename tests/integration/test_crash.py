"""Wherever a run dies, it ends as if it had not."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.integration import small

from m2fedsa import durable
from m2fedsa.checkpoint import Manifest
from m2fedsa.client import Client
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.main_server import MainServer
from m2fedsa.reporting import run_directory


class Crash(BaseException):
    """What nothing in the code can catch, as a kill -9."""


def go_on(settings, path):
    """Begin, or go on where there is something to go on from."""
    return small.call("run", "--resume", path) if (path / "config.toml").exists() else small.call("run", settings, "--out", path)


def crashes(settings, path):
    """Whether the process dies on its way."""
    try:
        status = go_on(settings, path)
    except Crash:
        return True
    assert status == 0
    return False


def assert_same(path, uninterrupted):
    """Digest, rounds, accounts, metrics, ledger: all but the time; the same manifest, and the same files with the same tensors."""
    assert small.outcome(path) == small.outcome(uninterrupted)
    assert Manifest.read(path / "checkpoint") == Manifest.read(uninterrupted / "checkpoint")
    ours, theirs = (small.files(directory) for directory in (path, uninterrupted))
    assert all(ours[name] == content for name, content in theirs.items() if name.endswith(".safetensors"))
    assert set(theirs) <= set(ours)
    # A client that died before its commit may keep a file of an earlier round.
    assert {name.split("/")[1] for name in set(ours) - set(theirs)} <= {"clients"}


def test_the_small_run_has_every_kind_of_state(uninterrupted):
    """Otherwise the tests below would prove less than they say."""
    from safetensors import safe_open

    held = {}
    for file in (uninterrupted / "checkpoint").rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            held[file.parent.relative_to(uninterrupted / "checkpoint").as_posix()] = set(opened.keys())
    assert any(name.startswith("velocity/image.ma.") for name in held["fed_server"])
    assert any(name.startswith("velocity/fusion.") for name in held["main_server"])
    assert any(name.startswith("local/client-") and ".ta.up." in name for name in held["main_server"])
    clients = {name: tensors for name, tensors in held.items() if name.startswith("clients/")}
    assert any("teacher.fused" in tensors for tensors in clients.values())
    assert all(any(".classifier." in name for name in tensors) for tensors in clients.values())
    records = small.rounds(uninterrupted)
    assert [record["phase"] for record in records] == ["fusion", "transfer", "transfer"]
    assert len({tuple(record["clients"]) for record in records}) > 1, "some client has local tensors that are older than a round"


# --- at every write -----------------------------------------------------------------------------------------------------------------


def moments(monkeypatch, at):
    """Call `at` whenever something goes to the disk, with a name of the moment: which file, before or after it is in place, which round.

    A file is flushed before it is renamed, its directory after.
    """
    flush, last = os.fsync, ["", ""]

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if not path.is_dir():
            last[:] = [path.name, str(path)]
        root = next((parent for parent in (path, *path.parents) if (parent / "rounds.jsonl").exists()), None)
        manifest = Manifest.read(root / "checkpoint") if root else None
        at((last[0], "after" if path.is_dir() else "before", None if manifest is None else manifest.round), Path(last[1]))
        return flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_crash_at_every_write(settings, uninterrupted, tmp_path, monkeypatch):
    """One run that dies at each of its writes in turn, before the file is in place and after, and at last ends like any other."""
    seen, path = set(), tmp_path / "run"

    def at(moment, file):
        if moment not in seen:
            seen.add(moment)
            if moment[1] == "before" and moment[0] != "rounds.jsonl":
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # torn
            raise Crash

    with monkeypatch.context() as patched:
        moments(patched, at)
        while crashes(settings, path):
            assert len(seen) < 200
    assert_same(path, uninterrupted)
    names = {name.removeprefix(".").removesuffix(".new") for name, _, _ in seen}
    assert {"config.toml", "clients.json", "warm_start.json", "rounds.jsonl", "manifest.json", "result.json", "report.html"} <= names
    assert {f"round-{number:06d}.safetensors" for number in range(4)} <= names


def test_a_full_disk_at_every_write(settings, uninterrupted, tmp_path, monkeypatch, capsys):
    """The disk refuses, from each write on in turn: exit 1, a sentence that names the file, and at last a run like any other."""
    seen, path, full = set(), tmp_path / "run", [False]

    def at(moment, file):
        full[0] = full[0] or moment not in seen
        seen.add(moment)
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        moments(patched, at)
        while (status := go_on(settings, path)) == 1:
            said = capsys.readouterr().err
            place, _, told = said.removeprefix("error: ").partition(": cannot be written: No space left on device.")
            assert place.startswith(str(path))
            assert told.split(";")[0].split() == ["Nothing", "written", "earlier", "is", "lost.", "Make", "room"]
            assert ("before it began; nothing was changed" in said) != path.exists()
            assert (f"Go on with: m2fedsa run --resume {path}" in said) == path.exists()
            manifest = Manifest.read(path / "checkpoint")
            if manifest is not None:
                assert f"after round {manifest.round} of 3, which is kept" in said
            full[0] = False
            assert len(seen) < 200
    assert status == 0
    assert_same(path, uninterrupted)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own that can be made larger, where this machine lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield place, lambda kilobytes: subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", place], check=True)
    subprocess.run(["umount", place], check=True)


def test_a_small_disk(settings, uninterrupted, tmp_path, disk, capsys):
    """A real one, that is full at several places, and holds whole files whenever it is."""
    (place, resize), kilobytes, failed = disk, 8, []
    while go_on(settings, place / "run") == 1:
        failed.append(capsys.readouterr().err.partition(": cannot be written: No space left on device")[0].rpartition("/")[2])
        kilobytes += 12
        resize(kilobytes)
    assert len(set(failed)) >= 3, failed
    assert_same(place / "run", uninterrupted)


# --- between the parties ------------------------------------------------------------------------------------------------------------


def dies_after(monkeypatch, kind, name, when):
    """The process dies at the end of a method, the first time that `when` holds of its arguments."""
    method = getattr(kind, name)

    def dying(self, *arguments):
        answer = method(self, *arguments)
        if when(*arguments):
            raise Crash
        return answer

    monkeypatch.setattr(kind, name, dying)


POINTS = {
    "the main server has averaged": (MainServer, "end", lambda acceptance: acceptance.round == 2),
    "the main server has committed, no client has": (MainServer, "commit", lambda number: number == 2),
    "one client of three has committed": (Client, "commit", lambda number: number == 2),
    "everyone has committed": (InProcessFederation, "commit", lambda number, accepted: number == 2),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_between_the_parties(settings, uninterrupted, tmp_path, monkeypatch, point):
    with monkeypatch.context() as patched:
        dies_after(patched, *POINTS[point])
        with pytest.raises(Crash):
            go_on(settings, tmp_path / "run")
    assert go_on(settings, tmp_path / "run") == 0
    assert_same(tmp_path / "run", uninterrupted)


def test_a_line_of_rounds_that_was_cut_off(settings, uninterrupted, tmp_path, monkeypatch):
    def half(path, content):
        if b'"round": 2' in content:
            durable.append(path, content[: len(content) // 2])
            raise Crash
        durable.append(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(run_directory, "append", half)
        with pytest.raises(Crash):
            go_on(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "rounds.jsonl").read_text().endswith("\n")
    assert go_on(settings, tmp_path / "run") == 0
    assert_same(tmp_path / "run", uninterrupted)


# --- kill -9 and Ctrl-C, at any time ------------------------------------------------------------------------------------------------

NURSERY = """
import os, signal, sys
import m2fedsa.training, transformers.models.bert.modeling_bert, transformers.models.vit.modeling_vit
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


def words(settings, path):
    return ["run", "--resume", path] if (path / "config.toml").exists() else ["run", settings, "--out", path]


@pytest.mark.parametrize("number", [*range(5), *(pytest.param(number, marks=pytest.mark.slow) for number in range(5, 100))])
def test_kill_9(nursery, span, settings, uninterrupted, tmp_path, number):
    """Killed once at a random moment; every second time once more while it goes on. A child that was faster is started again."""
    draw, path = random.Random(number), tmp_path / "run"
    for _ in range(1 + number % 2):
        whole = span
        while nursery.run(tmp_path / "said", *words(settings, path), after=draw.uniform(0.02, whole)) != -signal.SIGKILL:
            shutil.rmtree(path)
            whole *= 0.8
    assert nursery.run(tmp_path / "said", *words(settings, path)) == 0, (tmp_path / "said.err").read_text()
    assert_same(path, uninterrupted)


@pytest.mark.parametrize("number", [*range(2), *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, 20))])
def test_ctrl_c(nursery, span, settings, uninterrupted, tmp_path, number):
    """Exit 130 with a sentence that is true and tells how to go on, whenever it comes."""
    draw, path, said = random.Random(1000 + number), tmp_path / "run", tmp_path / "said"
    whole = span
    while nursery.run(said, *words(settings, path), after=draw.uniform(0.05, whole), sent=signal.SIGINT) != 130:
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
    assert nursery.run(said, *words(settings, path)) == 0
    assert_same(path, uninterrupted)


def test_a_reader_that_leaves_stops_the_run(nursery, settings, uninterrupted, tmp_path):
    """`m2fedsa run | head -n 1` leaves a run that can go on, and says so."""
    path = tmp_path / "run"
    os.mkfifo(tmp_path / "said")
    nursery.begin(tmp_path / "said", *words(settings, path))
    with (tmp_path / "said").open() as reader:
        assert reader.readline().startswith("m2fedsa")
    assert nursery.end() == 130
    told = (tmp_path / "said.err").read_text()
    assert f"Go on with: m2fedsa run --resume {path}" in told
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert go_on(settings, path) == 0
    assert_same(path, uninterrupted)
