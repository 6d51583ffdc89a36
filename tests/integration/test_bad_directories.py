"""Run directories and checkpoints that cannot be used are refused, and stay as they are."""

import shutil

import pytest
from tests.integration import small

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.errors import InputError, RunDirectoryError
from m2fedsa.reporting.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("nothing_is_trained")


def test_a_directory_that_is_taken(capsys, tmp_path, settings, uninterrupted):
    before = small.files(uninterrupted)
    said = small.refused(capsys, "run", settings, "--out", uninterrupted)
    assert f"{uninterrupted}: holds another run (3 rounds, finished).\n       Look at it with `m2fedsa report {uninterrupted}`" in said
    assert small.files(uninterrupted) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    assert "thesis: is not empty and holds no run." in small.refused(capsys, "run", settings, "--out", "thesis")
    assert "chapter.tex: a file of this name exists." in small.refused(capsys, "run", settings, "--out", "thesis/chapter.tex")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    assert "chapter.tex is not a directory that may be written" in small.refused(capsys, "run", settings, "--out", "thesis/chapter.tex/run")


@pytest.fixture(scope="module")
def interrupted(settings, tmp_path_factory):
    """A run that stands after round 2 of 3."""
    path = tmp_path_factory.mktemp("interrupted") / "run"

    class Stop:
        def __getattr__(self, name):
            return lambda *_arguments, **_more: None

        def round_done(self, record):
            if record["round"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(m2fedsa.errors.Interrupted):
        m2fedsa.run(Config.from_file(settings), out=path, progress=Stop())
    return path


def test_resume_with_other_settings_shows_the_differences(capsys, interrupted, settings):
    before = small.files(interrupted)
    words = ["--set", "federation.rounds=9", "--set", "modalities.text.pooling=cls", "--set", "federation.local_steps=4"]
    said = small.refused(capsys, "run", settings, "--resume", interrupted, *words)
    assert said.splitlines() == [
        f"error: {interrupted}: was begun with other settings (kept -> given):",
        "         federation.local_steps: unset -> 4",
        "         federation.rounds: 3 -> 9",
        "         modalities.text.pooling: 'default' -> 'cls'",
        f"       Resume without settings: `m2fedsa run --resume {interrupted}`, or begin a new run with --out.",
    ]
    assert "was begun with other settings" in small.refused(capsys, "run", "digits", "--resume", interrupted)
    assert small.files(interrupted) == before


def test_commands_about_a_directory_with_a_space_can_be_typed(capsys, tmp_path, interrupted, settings):
    shutil.copytree(interrupted, tmp_path / "my run")
    assert "m2fedsa run --resume 'my run'`" in small.refused(capsys, "run", settings, "--out", "my run")
    assert "m2fedsa run --resume 'my run'`" in small.refused(capsys, "run", settings, "--resume", "my run", "--set", "seed=9")
    assert "m2fedsa run --resume 'my run'`" in small.refused(capsys, "run", "my run")


def test_resume_of_nothing(capsys, tmp_path):
    assert "nowhere: no such directory." in small.refused(capsys, "run", "--resume", "nowhere")
    assert "holds no run (config.toml is missing)" in small.refused(capsys, "run", "--resume", tmp_path)
    assert not list(tmp_path.iterdir())


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    """One bit, in the middle of the values."""
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


def reword(old, new):
    def change(file):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


SPOILS = {
    "manifest.json is cut short": ("checkpoint/manifest.json", truncate, "manifest.json: was altered or cut short"),
    "manifest.json is empty": ("checkpoint/manifest.json", lambda file: file.write_bytes(b""), "manifest.json: was altered or cut short"),
    "manifest.json has another round": ("checkpoint/manifest.json", reword('"round": 2', '"round": 1'), "SHA-256"),
    "manifest.json has another start of transfer": ("checkpoint/manifest.json", reword('"since": ', '"since": 1'), "SHA-256"),
    "manifest.json has no seal": ("checkpoint/manifest.json", reword('"sha256"', '"sha255"'), "was altered or cut short"),
    "manifest.json is a list": ("checkpoint/manifest.json", lambda file: file.write_text("[]"), "was altered or cut short"),
    **{
        f"{party}'s file is {what}": (f"checkpoint/{party}/round-000002.safetensors", spoil, told)
        for party in ("fed_server", "main_server", "clients/*")
        for what, spoil, told in (
            ("cut short", truncate, "round-000002.safetensors: was altered or cut short"),
            ("altered", flip, "round-000002.safetensors: was altered or cut short"),
            ("gone", lambda file: file.unlink(), "round-000002.safetensors: cannot be read: No such file or directory. The checkpoint is"),
        )
    },
    "rounds.jsonl lacks a round": (
        "rounds.jsonl",
        lambda file: file.write_text(file.read_text().partition("\n")[2]),
        "rounds.jsonl: does not tell of the rounds 1 to 2 that the checkpoint holds; it was altered.",
    ),
    "warm_start.json is gone": ("warm_start.json", lambda file: file.unlink(), "warm_start.json is missing. Restore it from a copy"),
    "warm_start.json is cut short": ("warm_start.json", truncate, "warm_start.json: cannot be read"),
    "config.toml is cut short": ("config.toml", lambda file: file.write_text("[federation\n"), "config.toml: not valid TOML"),
    "clients.json tells of other data": (
        "clients.json",
        reword('"labelled": ', '"labelled": 1'),
        "clients.json: the data is not that of this run any more (client client-00: ",
    ),
}


@pytest.mark.parametrize("case", SPOILS)
def test_a_checkpoint_that_was_altered(capsys, tmp_path, interrupted, case):
    name, spoil, told = SPOILS[case]
    shutil.copytree(interrupted, tmp_path / "run")
    spoil(next((tmp_path / "run").glob(name)))
    before = small.files(tmp_path / "run")
    said = " ".join(small.refused(capsys, "run", "--resume", "run").split())
    assert said.startswith("error: run")
    assert told in said
    assert small.files(tmp_path / "run") == before


def test_another_process_at_work(interrupted):
    holder = RunDirectory.resume(interrupted)
    with pytest.raises(RunDirectoryError, match="another process is writing this run"):
        m2fedsa.run(holder.config, out=interrupted, resume=True)
    holder.close()


def test_a_refused_resume_lets_go_of_the_directory(interrupted, settings, monkeypatch):
    """In a notebook the next attempt happens in the same process."""
    monkeypatch.setattr("m2fedsa.running.assemble", lambda *_: (_ for _ in ()).throw(InputError("no such thing")))
    for _ in range(2):
        with pytest.raises(InputError, match="no such thing"):
            m2fedsa.run(Config.from_file(settings), out=interrupted, resume=True)
