import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import tomllib

import pytest
from tests.unit.reporting import invented

from m2fedsa.config import Config
from m2fedsa.errors import RunDirectoryError, StorageError
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.run_directory import RunDirectory


def lines(path):
    return [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]


def begun(path, rounds=0):
    directory = RunDirectory.create(invented.config(), path)
    directory.begin(invented.facts())
    for number in range(1, rounds + 1):
        directory.append(invented.record(number))
    return directory


def test_looking_leaves_nothing(tmp_path):
    RunDirectory.create(invented.config(), tmp_path / "new" / "run").close()
    RunDirectory.create(invented.config()).close()
    assert list(tmp_path.iterdir()) == []


def test_settings_are_complete_and_equal(tmp_path):
    settings = invented.config(seed=5)
    RunDirectory.create(settings, tmp_path / "a").begin(invented.facts())
    text = (tmp_path / "a" / "config.toml").read_text()
    assert Config.from_toml(text) == settings
    assert tomllib.loads(text)["federation"]["batch_size"] == settings.federation.batch_size


def test_names_count_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (RunDirectory.create(invented.config()) for _ in range(2))
    for directory in (first, second):
        directory.begin(invented.facts())
    assert first.path.parent.name == "runs"
    assert first.path.name.startswith("digits-20")
    assert (first.path.name[-2:], second.path.name[-2:]) == ("-1", "-2")


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")
    assert (tmp_path / "empty" / "config.toml").exists()


def test_refuses_what_is_taken(tmp_path):
    begun(tmp_path / "run", rounds=2).close()
    with pytest.raises(RunDirectoryError, match=r"holds another run \(2 rounds, not finished\).*--resume"):
        RunDirectory.create(invented.config(), tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear")
    with pytest.raises(RunDirectoryError, match="not empty"):
        RunDirectory.create(invented.config(), tmp_path / "notes")
    with pytest.raises(RunDirectoryError, match="a file of this name"):
        RunDirectory.create(invented.config(), tmp_path / "notes" / "letter.txt")
    with pytest.raises(RunDirectoryError, match=r"letter\.txt is not a directory"):
        RunDirectory.create(invented.config(), tmp_path / "notes" / "letter.txt" / "run")


def test_resume_wants_the_same_settings(tmp_path):
    begun(tmp_path / "run").close()
    with pytest.raises(RunDirectoryError, match=r"federation\.batch_size: 32 -> 16") as caught:
        RunDirectory.resume(tmp_path / "run", invented.config(seed=3, federation={"rounds": 20, "batch_size": 16}))
    assert "seed: 0 -> 3" in str(caught.value)
    assert RunDirectory.resume(tmp_path / "run", invented.config()).config == invented.config()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_resume_wants_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="no such directory|holds no run"):
        RunDirectory.resume(tmp_path / name)


def test_rounds_are_cut_back_to_the_checkpoint(tmp_path):
    directory = begun(tmp_path / "run", rounds=5)
    directory.finish(invented.result())
    directory.close()
    with (tmp_path / "run" / "rounds.jsonl").open("a") as file:
        file.write('{"round": 6, "pha')
    directory = RunDirectory.resume(tmp_path / "run")
    kept = directory.cut_back(3)
    assert [record["round"] for record in kept] == [1, 2, 3] == [record["round"] for record in lines(tmp_path / "run")]
    assert not (tmp_path / "run" / "result.json").exists()
    directory.append(invented.record(4))
    assert lines(tmp_path / "run")[-1] == invented.record(4)


def test_missing_rounds_are_noticed(tmp_path):
    directory = begun(tmp_path / "run", rounds=2)
    directory.append(invented.record(4))
    with pytest.raises(RunDirectoryError, match="rounds 1 to 4"):
        directory.cut_back(4)


def test_one_writer(tmp_path):
    directory = begun(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="another process"):
        RunDirectory.resume(tmp_path / "run")
    directory.close()
    RunDirectory.resume(tmp_path / "run").close()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_loses_nothing_written_earlier(tmp_path, monkeypatch):
    directory = begun(tmp_path / "run", rounds=2)
    directory.finish(invented.result(fused=0.5))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            directory.append(invented.record(3))
        with pytest.raises(StorageError, match="No space left on device"):
            directory.finish(invented.result(fused=0.6))
    assert [record["round"] for record in directory.cut_back(2)] == [1, 2]
    directory.finish(invented.result(fused=0.7))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["fused"]["accuracy"] == 0.7
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "clients.json",
        "config.toml",
        "report.html",
        "result.json",
        "rounds.jsonl",
    ]


def test_a_full_disk_at_the_beginning_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        begun(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    directory = begun(tmp_path / "run")
    record = invented.record(1)
    record["loss"]["fused"] = float("nan")
    directory.append(record)
    assert lines(tmp_path / "run")[0]["loss"]["fused"] is None


def test_a_killed_process_leaves_whole_lines(tmp_path):
    """kill -9 while rounds are appended: every round that the process told of is there, and the next process may write."""
    program = f"""
        from pathlib import Path
        from tests.unit.reporting import invented
        from m2fedsa.reporting.run_directory import RunDirectory
        directory = RunDirectory.create(invented.config(rounds=100000), Path({str(tmp_path / "run")!r}))
        directory.begin(invented.facts())
        for number in range(1, 100000):
            directory.append(invented.record(number))
            print(number, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(20)][-1]
    process.send_signal(signal.SIGKILL)
    told = max([told, *map(int, process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    directory = RunDirectory.resume(tmp_path / "run")
    assert len(directory.cut_back(told)) == told
    directory.close()


def test_reads_what_was_written(tmp_path):
    run = RunFiles.read(invented.write(tmp_path / "run"))
    assert run.facts == invented.facts()
    assert run.warm_start == invented.warm_start()
    assert run.result == invented.result()
    assert run.rounds == [invented.record(number) for number in range(1, 21)]


def test_a_broken_file_is_named(tmp_path):
    path = invented.write(tmp_path / "run")
    (path / "result.json").write_text('{"metrics": ')
    with pytest.raises(RunDirectoryError, match=r"result\.json: cannot be read"):
        RunFiles.read(path)
