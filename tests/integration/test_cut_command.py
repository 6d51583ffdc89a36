"""`m2fedsa cut`, and runs on what it wrote: each party reads its own folder, and the run is the one of the whole encoders."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tests.integration import small

from m2fedsa.cli import main


def cut(encoder, out, *options):
    return main(["cut", str(encoder), "--block", "1", "--out", str(out), *options])


def digest(directory):
    return json.loads((directory / "result.json").read_text())["digest"]


def run(folder, encoders, **modality):
    """The small run, two rounds, on these encoders; the digest of what it trained."""
    tables = small.tables(encoders)
    tables["federation"]["rounds"] = 2
    for one in tables["modalities"].values():
        one |= modality
    folder.mkdir()
    assert small.call("run", small.write(folder / "settings.toml", tables), "--out", folder / "run") == 0
    return digest(folder / "run")


@pytest.fixture(scope="module")
def cut_up(encoders, tmp_path_factory):
    """Both tiny encoders cut after their first block, in float32 and in int8."""
    folder = tmp_path_factory.mktemp("cut")
    for dtype in ("float32", "int8"):
        for name in ("image", "text"):
            assert cut(encoders / name, folder / dtype / name, "--head-dtype", dtype) == 0
    return folder


def test_it_says_what_each_side_has_and_how_exact_it_is(encoders, tmp_path, capsys):
    assert cut(encoders / "text", tmp_path / "exact") == 0
    told = capsys.readouterr().out
    assert f"cut after 1 of {small.DEPTH} blocks" in told
    assert f"{tmp_path}/exact/head: " in told
    assert "Exact: both sides, read back from these files, are the whole encoder to the bit." in told
    assert f'modalities.NAME.encoder = "{tmp_path}/exact", block = 1' in told
    assert cut(encoders / "text", tmp_path / "few", "--head-dtype", "int8") == 0
    told = capsys.readouterr().out
    assert "weights in int8" in told
    assert "The cut is exact" in told
    assert "head's output is off by" in told


def test_a_run_on_cut_folders_is_the_run_on_whole_encoders(cut_up, encoders, tmp_path):
    """The same tensors after two rounds, to the bit; in few bits too, made at the cut or at the start of the run."""
    whole = run(tmp_path / "whole", encoders)
    assert run(tmp_path / "cut", cut_up / "float32") == whole
    few = run(tmp_path / "few", encoders, head_dtype="int8")
    assert few != whole
    assert run(tmp_path / "cut few", cut_up / "int8") == few
    assert run(tmp_path / "said", cut_up / "int8", head_dtype="int8") == few


READER = """
import json, sys
opened = []
from m2fedsa.models.slices import load_head, load_tail
from transformers.models.bert import modeling_bert  # what loads code is not counted
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
loaded = (load_head if sys.argv[2] == "head" else load_tail)(__import__("pathlib").Path(sys.argv[1]))
real = sum(t.nbytes for t in loaded.state_dict().values() if not t.is_meta)
print(json.dumps([opened, real]))
"""


@pytest.mark.parametrize("side", ["head", "tail"])
def test_a_party_reads_its_own_folder_and_no_more(side, cut_up, tmp_path):
    """In a process of its own: every file of a model that it opens, every byte that it holds."""
    folder = tmp_path / "machine" / side
    shutil.copytree(cut_up / "float32" / "text" / side, folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READER, str(folder), side]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    opened, real = json.loads(output.splitlines()[-1])
    models = [path for path in opened if path.endswith((".safetensors", ".bin", ".json"))]
    assert models
    assert all(path.startswith(str(folder)) for path in models)
    weights = (folder / "model.safetensors").read_bytes()
    assert real == len(weights) - 8 - int.from_bytes(weights[:8], "little")


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


def test_what_cannot_be_cut_is_refused(encoders, tmp_path, capsys):
    text, out = encoders / "text", tmp_path / "out"
    assert "block = 9, but BertModel has 2 blocks (0 … 2)" in refused(capsys, "cut", text, "--block", 9, "--out", out)
    assert "'int2' is not one of" in refused(capsys, "cut", text, "--block", 1, "--out", out, "--head-dtype", "int2")
    assert "has no config.json" in refused(capsys, "cut", tmp_path, "--block", 1, "--out", out)
    assert "Missing option '--block'" in refused(capsys, "cut", text, "--out", out)
    assert "`keep` names ['nothing']" in refused(capsys, "cut", text, "--block", 1, "--out", out, "--keep", "nothing")
    assert "has no pooler" in refused(capsys, "cut", text, "--block", 1, "--out", out, "--pooling", "pooler")
    broken = tmp_path / "broken"
    shutil.copytree(text, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "is broken or cut short" in refused(capsys, "cut", broken, "--block", 1, "--out", out)
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [broken]
    out.mkdir()
    (out / "mine").write_text("")
    assert "is there already, and not empty" in refused(capsys, "cut", text, "--block", 1, "--out", out)
