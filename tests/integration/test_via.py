"""Predictions at a client that holds heads alone, through a main server that is a process of its own."""

import hashlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tomli_w
import transformers
from tests.integration import deployments, small
from tests.integration.test_predict import read, write_samples
from tests.unit.data import media
from tests.unit.deploy.test_folders import Apart

from m2fedsa.assembly import cpu_threads
from m2fedsa.cli import main
from m2fedsa.deploy.keepsake import Keepsake
from m2fedsa.deploy.lasting import Lasting
from m2fedsa.deploy.links import issuer_of
from m2fedsa.deploy.places import client_folders
from m2fedsa.deploy.processes import is_open
from m2fedsa.deploy.programs import FedServerProgram, MainServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.deploy.revoke import revoke
from m2fedsa.identity import Token, read_key
from m2fedsa.reporting.progress import Silent
from m2fedsa.training import Training

TABLES = {
    "name": "mine",
    "data": {"clients": 2, "partition": "iid", "minimum": 2, "multimodal_fraction": 1.0},
    "fusion": {"width": 8, "heads": 2, "feed_forward": 8},
    "optimizer": {"learning_rate": 0.01},
    "federation": {"rounds": 1, "batch_size": 8, "warm_start": False},  # after which all would be told with certainty
    # What stays with a client counts in its predictions: here on its own machine and on the main server.
    "averaging": {"rules": [{"pattern": "title.classifier.*", "over": "nothing"}, {"pattern": "photo.ta.up.*", "over": "nothing"}]},
    "compute": {"threads": 1},
}
CLIENT = "client-00"


@dataclass
class World:
    """A deployment whose run has ended, new samples, and what the same run in one process says of them."""

    directory: Path
    manifest: Path
    expected: list[dict[str, str]]

    @property
    def client(self):
        return client_folders(self.directory)[CLIENT]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The parties met in this process; their folders are as they leave them."""
    root = tmp_path_factory.mktemp("via")
    transformers.utils.logging.disable_progress_bar()
    small.vit().save_pretrained(root / "image")
    small.bert(vocab_size=len(media.SPECIAL) + len(media.WORDS), max_position_embeddings=16).save_pretrained(root / "text")
    media.tokenizer().save_pretrained(root / "text")
    # The settings name another tokenizer than the encoder's own, which numbers words otherwise; it has to go with the heads.
    media.tokenizer(media.WORDS[::-1]).save_pretrained(root / "words")
    manifest = write_samples(root / "data", range(24), "train.csv")
    encoder = {"photo": ("image", "image"), "title": ("text", "text")}
    tables = TABLES | {
        "data": TABLES["data"] | {"manifest": str(manifest)},
        "modalities": {name: {"encoder": str(root / folder), "kind": kind, "adapter_width": 4} for name, (folder, kind) in encoder.items()},
        "kept": {"folder": str(root / "kept")},
    }
    tables["modalities"]["title"]["processor"] = str(root / "words")
    (root / "mine.toml").write_text(tomli_w.dumps(tables))
    directory = deployments.made(root / "mine.toml", root / "deployment", 2)
    company = Apart(directory)
    company.coordination = Lasting(company.coordination, directory / "main-server" / "state")
    with cpu_threads(1):
        Training(company, Silent(), None).through(resume=False)
    hand_over(directory, company.fed_server)

    fresh = write_samples(root / "new", range(30, 37), "new.csv", **{"0_photo": "", "2_title": "", "5_photo": ""})
    deployments.alone(root / "mine.toml", root / "alone", 2)
    expected = predicted(root / "alone", fresh, "--client", CLIENT, "--out", root / "expected.csv")
    for folder in ("image", "text", "words"):
        shutil.rmtree(root / folder)  # nobody but the main server has the tails now
    return World(directory, fresh, expected)


def hand_over(directory, server):
    """As the fed server does at the end."""
    issue = issuer(directory)
    for name, folder in client_folders(directory).items():
        files = sorted((folder / "state" / "local" / name).glob("round-*.safetensors"))
        local = (1, hashlib.sha256(files[-1].read_bytes()).hexdigest()) if files else None
        Keepsake(server.view(name), issue(name, "predict", server.state.round), local).write(folder / "state")


def issuer(directory):
    folder = directory / "fed-server"
    return issuer_of(folder, read_program(folder / "fed-server.toml", FedServerProgram), Registry.read(folder))


@pytest.fixture(scope="module")
def served(world):
    """The main server's program, started anew after the run."""
    toml = world.directory / "main-server" / "main-server.toml"
    process = subprocess.Popen([*deployments.PROGRAM, "main-server", str(toml)], env=small.ONE_THREAD)
    until = time.monotonic() + 120
    while not is_open("127.0.0.1", read_program(toml, MainServerProgram).port):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    yield world
    process.terminate()
    process.wait(30)


def predicted(*words):
    assert main(["predict", *map(str, words)]) == 0
    return read(Path(words[-1]))


def refused(capsys, *words):
    """What is said instead of predictions."""
    assert main(["predict", *map(str, words)]) != 0
    return capsys.readouterr().err


def test_a_client_with_heads_alone_predicts_as_the_run_does(served, tmp_path):
    found = predicted(served.client, served.manifest, "--via", "--out", tmp_path / "found.csv")
    assert len(found) == len(served.expected) == 7
    numbers = 0
    for ours, theirs in zip(found, served.expected, strict=True):
        assert ours.keys() == theirs.keys()
        for column, value in theirs.items():
            if ":" in column and value:
                assert abs(float(ours[column]) - float(value)) <= 1e-5
                numbers += 1
            else:
                assert ours[column] == value, column
    assert numbers == 2 * (7 + 5 + 6)


def test_the_tensors_that_stayed_with_the_client_count(served, tmp_path):
    folder = client_folders(served.directory)["client-01"]
    found = predicted(folder, served.manifest, "--via", "--out", tmp_path / "found.csv")
    assert [row["title:dark"] for row in found if row["title"]] != [row["title:dark"] for row in served.expected if row["title"]]


def test_without_the_end_of_a_run_there_is_nothing_to_predict_with(world, tmp_path, capsys):
    folder = shutil.copytree(world.client, tmp_path / "client", ignore=shutil.ignore_patterns("predict*", "*.sock"))
    said = refused(capsys, folder, world.manifest, "--via")
    assert "predict.json" in said
    assert "m2fedsa fed-server" in said


def test_a_manifest_is_wanted(world, capsys):
    assert "MANIFEST" in refused(capsys, world.client, "--via")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"expires": 1.0}, "expired"),
        ({"client": "client-01"}, "client-01"),
        ({"run": "another"}, "another"),
        ({"purpose": "train"}, "not after round 1"),
    ],
)
def test_a_token_that_does_not_hold_is_refused_with_what_to_do(served, tmp_path, capsys, changes, complaint):
    folder = shutil.copytree(served.client, tmp_path / "client", ignore=shutil.ignore_patterns("*.sock"))
    kept, signer = Keepsake.read(folder / "state"), read_key(served.directory / "fed-server" / "keys" / "fed-server.key")
    token = replace(Token.verified(kept.token, signer.public_key()), **changes).signed(signer)
    replace(kept, token=token).write(folder / "state")
    said = refused(capsys, folder, served.manifest, "--via")
    assert complaint in said
    assert "m2fedsa fed-server" in said


def test_a_file_that_was_altered_is_not_predicted_with(world, tmp_path, capsys):
    folder = shutil.copytree(world.client, tmp_path / "client", ignore=shutil.ignore_patterns("*.sock"))
    tensors = next((folder / "state" / "predict").iterdir())
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    assert str(tensors) in refused(capsys, folder, world.manifest, "--via")
    (folder / "state" / "predict.json").write_text(json.dumps({"round": 1}))
    assert "predict.json: was altered" in refused(capsys, folder, world.manifest, "--via")


def test_a_client_that_was_revoked_predicts_no_more(served, tmp_path, capsys):
    """Last in this file: there is no way back."""
    revoke(served.directory, CLIENT)
    assert "revoked" in refused(capsys, served.client, served.manifest, "--via")
