import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import click
import pytest
import typer
from tests.integration import small as own
from tests.unit.reporting import invented

from m2fedsa.cli import app, main
from m2fedsa.config import Config

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {"federation.rounds": 2, "data.clients": 3, "federation.batch_size": 16}


def command(*arguments, **options):
    """Run the program as a person does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "m2fedsa", *map(str, arguments)], capture_output=True, text=True, env=ONE_THREAD, **options
    )


def small(out, **more):
    return ["run", "digits", "--out", out, *(word for key, value in {**SMALL, **more}.items() for word in ("--set", f"{key}={value}"))]


def refused(capsys, *arguments):
    """What is said of input that cannot be used."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err


# --- before anything heavy ----------------------------------------------------------------------------------------------------------


def every_command(group=None, words=()):
    """The words of each command."""
    for name, one in (group or typer.main.get_command(app)).commands.items():
        yield from every_command(one, (*words, name)) if isinstance(one, click.Group) else [(*words, name)]


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_help_says_what_each_argument_is(words, capsys):
    assert main([*words, "--help"]) == 0
    told = capsys.readouterr().out
    assert "\\" not in told
    assert "Positional arguments" not in told
    if "Arguments:" in told:
        arguments = told.partition("Arguments:\n")[2].partition("\n\n")[0].splitlines()
        assert all(re.match(r"  \S.*?  +[^\s\[]|    ", line) for line in arguments), arguments


def test_help_of_predict_names_what_it_takes(capsys):
    assert main(["predict", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "DIR A run directory, what `m2fedsa export` wrote, or with --via a client's folder. [required]" in told
    assert "[MANIFEST] New samples, with any of the modalities. Without: the test samples of a run directory." in told
    assert ".csv, .tsv, .jsonl or .parquet. [default: predictions.csv]" in told


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_answers_at_once(arguments):
    """Within half a second, at the best of three: other processes may be at work."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert command(*arguments).returncode == 0
        seconds.append(time.perf_counter() - began)
    assert min(seconds) <= 0.5


@pytest.mark.parametrize(
    "code",
    [
        "import m2fedsa",
        "import m2fedsa.cli; m2fedsa.cli.main(['--help'])",
        "import m2fedsa.cli; m2fedsa.cli.main(['config', 'digits'])",
        "import m2fedsa.reporting.run_directory",
    ],
)
def test_nothing_heavy_is_loaded(code):
    heavy = "{'torch', 'transformers', 'matplotlib', 'datasets', 'torchmetrics', 'pandas', 'numpy'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; assert not {heavy} & set(sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_both_ways_to_call_it_are_one():
    program = Path(sys.executable).parent / "m2fedsa"
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout == command("--version").stdout


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= {"digits", "match", "few_labels"}
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("recipe", ["digits", "match", "few_labels"])
def test_settings_of_a_recipe_can_be_saved_and_read(capsys, tmp_path, recipe):
    assert main(["config", recipe]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(text)
    assert main(["config", str(tmp_path / "mine.toml")]) == 0
    assert capsys.readouterr().out == text
    assert Config.from_toml(text).name == recipe


def test_settings_are_changed_by_set(capsys):
    assert main(["config", "digits", "--set", "federation.rounds=3", "--set", "transfer.start=never"]) == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (values["federation"]["rounds"], values["transfer"]["start"]) == (3, "never")
    assert main(["config", "digits", "--set", "data.options.text_mask=none", "--set", "federation.clients_per_round=3"]) == 0
    values = tomllib.loads(capsys.readouterr().out)
    assert (set(values["data"]["options"]), values["federation"]["clients_per_round"]) == ({"image_noise", "audio_snr_db"}, 3)


# --- bad input ----------------------------------------------------------------------------------------------------------------------


def test_wrong_words(capsys):
    assert "'--out'" in refused(capsys, "run", "--oot", "x")
    assert "No such command 'rn'" in refused(capsys, "rn")
    assert "recipe" in refused(capsys, "run")
    assert "exclude each other" in refused(capsys, "run", "--resume", "a", "--out", "b")


def test_unknown_recipe_suggests_the_nearest(capsys):
    assert "digits" in refused(capsys, "run", "digit")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("a = = 1", "not valid TOML"),
        (
            "[federation]\nronds = 3\n[modalities.text]\nencoder = 'x'",
            "unknown key federation.ronds.\n       Did you mean federation.rounds?",
        ),
        ("[federation]\nrounds = 'three'\n[modalities.text]\nencoder = 'x'", "federation.rounds = 'three'"),
        ("[modalities.text]\nblock = 1", "modalities.text.encoder is missing"),
    ],
)
def test_wrong_settings(capsys, tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("mine.toml").write_text(content)
    message = refused(capsys, "run", "mine.toml")
    assert said in message
    assert "mine.toml" in message
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["mine.toml"])


def test_directory_of_another_run(capsys, tmp_path):
    path = invented.write(tmp_path / "run", finished=False)
    assert f"m2fedsa run --resume {path}" in refused(capsys, "run", "digits", "--out", path)


def test_a_directory_is_neither_recipe_nor_file(capsys, tmp_path):
    path = invented.write(tmp_path / "run", finished=False)
    for command_name in ("run", "config"):
        said = refused(capsys, command_name, path)
        assert f"{path} is a run directory, not a recipe or a TOML file." in said
        assert f"`m2fedsa run --resume {path}`; the same settings anew: `m2fedsa run {path}/config.toml`." in said
    assert f"{tmp_path} is a directory. " in " ".join(refused(capsys, "run", tmp_path).split()) + " "


def test_a_recipe_comes_before_a_directory_of_its_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert main(["config", "digits"]) == 0
    assert 'name = "digits"' in capsys.readouterr().out


def test_resume_with_other_settings_shows_the_differences(capsys, tmp_path):
    path = invented.write(tmp_path / "run", finished=False)
    assert "federation.batch_size: 32 -> 8" in refused(capsys, "run", "--resume", path, "--set", "federation.batch_size=8")


def test_report_of_nothing(capsys, tmp_path):
    assert "holds no run" in refused(capsys, "report", tmp_path)


def test_debug_shows_the_place():
    done = command("config", "nothing.toml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-2].startswith("error: nothing.toml: no such file.")


# --- reports ------------------------------------------------------------------------------------------------------------------------


def test_report(capsys, tmp_path):
    first, second = (invented.write(tmp_path / name) for name in "ab")
    assert main(["report", str(first)]) == 0
    assert capsys.readouterr().out.split() == [str(first / "report.html")]
    assert main(["report", str(first), str(second), "--out", str(tmp_path / "both.html")]) == 0
    assert "2 runs" in (tmp_path / "both.html").read_text()


def test_a_reader_that_leaves_early_is_no_fault():
    done = subprocess.run(f"{sys.executable} -m m2fedsa config digits | head -n 1", shell=True, capture_output=True, text=True)
    assert done.stderr == ""


# --- a run --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run from beginning to end, as plain lines."""
    path = tmp_path_factory.mktemp("finished") / "run"
    done = command(*small(path))
    assert done.returncode == 0, done.stderr
    return path, done


def test_a_run_leaves_its_contract(finished):
    path, done = finished
    assert {"config.toml", "rounds.jsonl", "result.json", "checkpoint", "report.html"} <= {entry.name for entry in path.iterdir()}
    rounds = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in rounds] == [1, 2]
    modalities = {"image", "audio", "text"}
    for record in rounds:
        assert {"round", "phase", "clients", "loss", "bytes", "seconds", "metrics"} <= set(record)
        assert set(record["loss"]) == {*modalities, "fused"}
        assert set(record["bytes"]) == {"up", "down"}
    result = json.loads((path / "result.json").read_text())
    assert {"metrics", "validation", "per_client", "ledger", "digest", "rounds", "seconds", "versions"} <= set(result)
    assert set(result["ledger"]) == modalities
    assert {"fused", "image+audio", *modalities} <= set(result["metrics"])
    assert {"accuracy", "uar", "macro_f1", "auc"} <= set(result["metrics"]["fused"])
    assert len(result["digest"]) == 64
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith(f"report: {path}/report.html")


def test_a_run_without_a_name_makes_its_own_directory(tmp_path, monkeypatch, capsys):
    """What `make demo` does: the directory is called after the run, and stands below runs/."""
    monkeypatch.chdir(tmp_path)
    made = own.write(tmp_path / "small.toml", own.tables(own.save_encoders(tmp_path / "encoders")))
    assert main(["run", str(made)]) == 0
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("small")
    assert f"report: runs/{directory.name}/report.html" in capsys.readouterr().out
    assert own.result(directory)["digest"]


def test_the_written_settings_give_the_same_digest(finished, tmp_path):
    path, _ = finished
    assert command("run", path / "config.toml", "--out", tmp_path / "again").returncode == 0
    first, again = (json.loads((folder / "result.json").read_text())["digest"] for folder in (path, tmp_path / "again"))
    assert first == again


def test_a_setting_that_cannot_be_run_leaves_no_directory(tmp_path):
    done = command(*small(tmp_path / "run", **{"modalities.image.block": 99}))
    assert done.returncode == 2
    assert "modalities.image.block" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_resume_and_resuming_ends_with_the_same_digest(finished, tmp_path):
    path = tmp_path / "run"
    # Tests that a shell runs in its background inherit that Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "m2fedsa", *map(str, small(path))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )
    signal.signal(signal.SIGINT, before)
    for line in process.stdout:
        if line.startswith("clients"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"m2fedsa run --resume {path}" in said
    assert "Traceback" not in said
    resumed = command("run", "--resume", path)
    assert resumed.returncode == 0, resumed.stderr
    digests = [json.loads((folder / "result.json").read_text())["digest"] for folder in (path, finished[0])]
    assert digests[0] == digests[1]
