"""Wherever a run dies, it ends as if it had not."""

import errno
import os
import subprocess
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


def crashes(settings, path):
    """Whether the process dies on its way."""
    try:
        status = small.call(*small.go_on(settings, path))
    except Crash:
        return True
    assert status == 0
    return False


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
    assert any("teacher/fused" in tensors for tensors in clients.values())
    assert all(any(".classifier." in name for name in tensors) for tensors in clients.values())
    records = small.rounds(uninterrupted)
    assert [record["phase"] for record in records] == ["fusion", "transfer", "transfer"]
    assert len({tuple(record["clients"]) for record in records}) > 1, "some client has local tensors that are older than a round"


# --- at every write -------------------------------------------------------------------------------------------------------------------


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
    small.assert_same(path, uninterrupted)
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
        while (status := small.call(*small.go_on(settings, path))) == 1:
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
    small.assert_same(path, uninterrupted)


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
    while small.call(*small.go_on(settings, place / "run")) == 1:
        failed.append(capsys.readouterr().err.partition(": cannot be written: No space left on device")[0].rpartition("/")[2])
        kilobytes += 12
        resize(kilobytes)
    assert len(set(failed)) >= 3, failed
    small.assert_same(place / "run", uninterrupted)


# --- between the parties --------------------------------------------------------------------------------------------------------------


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
            small.call(*small.go_on(settings, tmp_path / "run"))
    assert small.call(*small.go_on(settings, tmp_path / "run")) == 0
    small.assert_same(tmp_path / "run", uninterrupted)


def test_a_line_of_rounds_that_was_cut_off(settings, uninterrupted, tmp_path, monkeypatch):
    def half(path, content):
        if b'"round": 2' in content:
            durable.append(path, content[: len(content) // 2])
            raise Crash
        durable.append(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(run_directory, "append", half)
        with pytest.raises(Crash):
            small.call(*small.go_on(settings, tmp_path / "run"))
    assert not (tmp_path / "run" / "rounds.jsonl").read_text().endswith("\n")
    assert small.call(*small.go_on(settings, tmp_path / "run")) == 0
    small.assert_same(tmp_path / "run", uninterrupted)
