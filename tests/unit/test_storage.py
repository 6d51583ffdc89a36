import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m2fedsa import durable
from m2fedsa.durable import append, unfinished, write_atomically
from m2fedsa.errors import RunDirectoryError, StorageError
from m2fedsa.storage import Store

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3).t(),
    "a": torch.tensor(3, dtype=torch.int64),
    "teacher": torch.tensor([[float("nan"), 1.0]], dtype=torch.float64),
}


# --- files --------------------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_what_happens_in_which_order(tmp_path, monkeypatch):
    """Flush the content, then rename, then flush the directory: after a power cut there is the old file or the new one."""
    walk, flush, replace = [], os.fsync, Path.replace

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").resolve()
        walk.append(("flush", name.name, name.read_bytes() if name.is_file() else None))
        flush(descriptor)

    def rename(path, target):
        walk.append(("rename", path.name, target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write_atomically(tmp_path / "file", b"content")
    temporary = unfinished(tmp_path / "file").name
    assert walk == [("flush", temporary, b"content"), ("rename", temporary, "file"), ("flush", tmp_path.name, None)]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", ["fsync", "open", "replace"])
def test_a_refusal_leaves_the_old_file(tmp_path, monkeypatch, at):
    write_atomically(tmp_path / "file", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(*{"fsync": (os, "fsync"), "open": (Path, "open"), "replace": (Path, "replace")}[at], full)
        with pytest.raises(StorageError) as refusal:
            write_atomically(tmp_path / "file", b"new")
    assert str(refusal.value) == f"{tmp_path}/file: cannot be written: No space left on device. Nothing written earlier is lost."
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_crash_left_does_not_disturb(tmp_path):
    unfinished(tmp_path / "file").write_bytes(b"half a fi")
    write_atomically(tmp_path / "file", b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_directory_that_may_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        StorageError, match=r"file/under: cannot be written: (Not a directory|File exists)\. Nothing written earlier is lost\."
    ):
        write_atomically(tmp_path / "file" / "under", b"x")


def test_append(tmp_path, monkeypatch):
    append(tmp_path / "lines", b"one\n")
    append(tmp_path / "lines", b"two\n")
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
    flushed = []
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").read_bytes()))
    append(tmp_path / "lines", b"three\n")
    assert flushed == [b"one\ntwo\nthree\n"], "on the disk before it returns"


def test_append_to_a_full_disk():
    with pytest.raises(StorageError, match="/dev/full: cannot be written: No space left on device"):
        append(Path("/dev/full"), b"line\n")


# --- a party's checkpoint -------------------------------------------------------------------------------------------------------------


def test_tensors_and_back(tmp_path):
    store = Store(tmp_path / "party")
    file = store.write(7, TENSORS)
    path = tmp_path / "party" / "round-000007.safetensors"
    assert file == hashlib.sha256(path.read_bytes()).hexdigest()
    for found in (store.read(7, file), load_file(path)):
        assert set(found) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name].nan_to_num(-1), tensor.nan_to_num(-1))


def test_equal_tensors_give_equal_files(tmp_path):
    """The digest in a manifest does not depend on the order in which tensors were made."""
    assert Store(tmp_path / "a").write(1, TENSORS) == Store(tmp_path / "b").write(1, dict(reversed(TENSORS.items())))


def test_parameters_are_stored_as_values(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    store = Store(tmp_path)
    assert not store.read(1, store.write(1, {"a": parameter}))["a"].requires_grad


def test_a_file_that_is_not_the_one(tmp_path):
    store = Store(tmp_path)
    file, other = store.write(1, TENSORS), store.write(2, {"a": torch.zeros(1)})
    with pytest.raises(RunDirectoryError, match=r"round-000001.safetensors: was altered or cut short: \d+ bytes with SHA-256"):
        store.read(1, other)
    with pytest.raises(RunDirectoryError, match=r"round-000003.safetensors: cannot be read: No such file"):
        store.read(3, file)
    content = store.path(1).read_bytes()
    for spoilt in (content[:-1], b"", content[:-1] + bytes([content[-1] ^ 1]), content + b"\0"):
        store.path(1).write_bytes(spoilt)
        with pytest.raises(RunDirectoryError, match="altered or cut short"):
            store.read(1, file)


def test_keep(tmp_path):
    """The other rounds' files go, and what a broken write left; what is not a round's stays."""
    store = Store(tmp_path)
    files = {number: store.write(number, TENSORS) for number in (1, 2, 3)}
    unfinished(store.path(4)).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    store.keep(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "round-000002.safetensors"]
    assert set(store.read(2, files[2])) == set(TENSORS)
    store.keep(2)
    Store(tmp_path / "nowhere").keep(1)


def test_the_file_that_stood_after_the_best_round_is_kept(tmp_path):
    """It may be older than that round: a client that sat the round out has written none."""
    store = Store(tmp_path)
    for number in (2, 5, 7):
        store.write(number, {"x": torch.zeros(1)})
    store.keep(7, best=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000005.safetensors", "round-000007.safetensors"]
    store.keep(7, best=7)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000007.safetensors"]
