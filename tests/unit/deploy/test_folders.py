"""What `m2fedsa deploy init` hands out: to each its own, and together the run that it was in one process."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.integration import small

from m2fedsa.assembly import Extensions, assemble, cpu_threads
from m2fedsa.cli import main
from m2fedsa.deploy.check import check
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.explain import explain
from m2fedsa.deploy.fed_server import FedServerService
from m2fedsa.deploy.main_server import MainServerService
from m2fedsa.deploy.places import client_folders
from m2fedsa.deploy.processes import hold
from m2fedsa.deploy.programs import ClientProgram, Deployment, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.deploy.setup import Addresses, SetUp, set_up
from m2fedsa.deploy.site import client_of
from m2fedsa.deploy.told import told
from m2fedsa.deploy.trunk import main_server_of
from m2fedsa.errors import ConfigError, DataError, RunDirectoryError, WeightsError
from m2fedsa.fed_server import FedServer
from m2fedsa.federation.in_process import InProcessFederation
from m2fedsa.reporting.progress import Silent
from m2fedsa.running import run
from m2fedsa.training import Training

ADDRESSES = Addresses.of("localhost:19092", "localhost:19443")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return small.config(small.save_encoders(tmp_path_factory.mktemp("encoders")))


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    directory = tmp_path_factory.mktemp("deploy") / "deployment"
    set_up(settings, directory, ADDRESSES)
    return directory


@pytest.fixture
def deployment(made, tmp_path):
    return shutil.copytree(made, tmp_path / "deployment")


class Apart:
    """See `parties.Company`: everyone from a folder of its own, and only the ports in one process."""

    attempts = 1

    def __init__(self, directory):
        drawing, self.registry = Drawing.read(directory / "fed-server"), Registry.read(directory / "fed-server")
        self.blueprint, self.coordination = drawing.blueprint, main_server_of(directory / "main-server")
        clients = []
        for folder in client_folders(directory).values():
            program = read_program(folder / "client.toml", ClientProgram)
            clients.append(client_of(folder, program.name, tuple(program.modalities), self.coordination))
        self.federation = InProcessFederation(clients)
        self.fed_server = FedServer(self.blueprint, self.registry.clients())

    def facts(self):
        return {"modalities": [], "classes": [], "clients": {}}

    def ledger(self):
        return dict(self.registry.ledger)

    def keep_in(self, checkpoint):
        pass


def test_parties_from_their_folders_are_the_run_in_one_process(settings, deployment):
    together = run(settings)
    with cpu_threads(settings.compute.threads):
        apart = Training(Apart(deployment), Silent(), None).through(resume=False)
    assert apart.digest == together.digest
    assert apart.metrics == together.metrics
    assert apart.ledger == together.ledger


def test_each_has_its_own_and_nothing_else(settings, made):
    data = assemble(settings, Extensions()).data
    assert not list((made / "fed-server").rglob("*.safetensors"))
    assert {path.parent.name for path in (made / "main-server").rglob("*.safetensors")} == {"image", "text"}
    assert not [path for path in made.rglob("*") if "head" in path.name and "clients" not in path.parts]
    for name, folder in client_folders(made).items():
        assert {path.name for path in (folder / "heads").iterdir()} == set(data.clients[name].modalities)
        assert not (folder / "tails").exists()
        train = data.clients[name].train
        if train is not None:
            kept = load_file(folder / "data" / "train.safetensors")
            assert torch.equal(kept["labels"], train.labels)
            for column, modality in enumerate(train.modalities):
                rows = train.presence[:, column].nonzero().squeeze(1)
                found = load_file(folder / "data" / "train" / f"{modality}.safetensors")
                for argument, value in train.inputs(modality, rows).items():
                    assert torch.equal(found[argument], value)
    text = (made / "fed-server" / "registry.json").read_text()
    assert '"labels"' not in text
    assert "PRIVATE" not in text


@pytest.mark.parametrize(
    ("training", "clients", "said"),
    [
        (3, 9, "3 clients that train, and 6 that only evaluate"),
        (1, 2, "1 client that trains, and 1 that only evaluates"),
        (2, 2, "2 clients"),
    ],
)
def test_it_is_told_what_clients_are_for(training, clients, said):
    sizes = {"fed-server": 1, "main-server": 1, **{f"clients/{number}": 10 for number in range(clients)}}
    deployment = Deployment(run="x", **{key: {"host": "h", "port": 1} for key in ("superlink", "main_server", "coordination")})
    assert f"  clients/     {said}; 10 B each" in "\n".join(told(SetUp(Path("d"), deployment, {}, sizes, training)))


def test_keys_are_for_their_owner_alone(made):
    keys = [*made.rglob("*.key")]
    assert len(keys) == 1 + 2 + 1 + 2 * len(client_folders(made)), "authority; fed server and SuperLink; main server; two forms per client"
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    secrets = {path.read_bytes() for path in keys}
    assert len(secrets) == len(keys), "no two parties share one"
    assert not [path for path in made.rglob("*") if path.is_file() and path.suffix != ".key" and b"PRIVATE KEY" in path.read_bytes()]


def test_one_process_runs_on_a_servers_folder(deployment):
    """A second one would write the same files; nothing of the first is touched."""
    for party, serve in (
        ("the fed server", FedServerService(deployment / "fed-server" / "fed-server.toml").through),
        ("the main server", MainServerService(deployment / "main-server" / "main-server.toml").serve),
    ):
        lock = hold(deployment / party.split(" ", 1)[1].replace(" ", "-") / "state", party)
        with pytest.raises(RunDirectoryError, match=f"lock: {party} runs already"):
            serve()
        os.close(lock)


def test_a_check_without_network(deployment):
    assert all(one.mend is None for one in check(deployment, reach=False))
    client = next(iter(client_folders(deployment).values()))
    (client / "keys" / "client.key").chmod(0o644)
    tail = deployment / "main-server" / "tails" / "image" / "model.safetensors"
    tail.write_bytes(tail.read_bytes()[:-1] + b"\x00\x01")
    wrong = {one.place: one for one in check(deployment, reach=False) if one.mend is not None}
    assert set(wrong) == {str(client), str(tail)}
    assert "chmod 600" in wrong[str(client)].mend
    assert "is not the tail of this deployment" in wrong[str(tail)].what


def test_revoking_is_one_command(deployment, capsys):
    assert main(["deploy", "revoke", str(deployment), "client-01"]) == 1, "the SuperLink is not running: there is something left to do"
    said = capsys.readouterr().out
    assert "main server: refuses its key" in said
    assert "still to do: SuperLink" in said
    registry = Registry.read(deployment / "fed-server")
    assert "client-01" not in registry.admitted()
    assert "client-01" in [one.name for one in registry.clients()], "it stays in the records"
    assert list(json.loads((deployment / "main-server" / "keys" / "revoked.json").read_text()).values()) == ["client-01"]
    assert main(["deploy", "revoke", str(deployment), "nobody"]) == 2
    assert "no client has this name" in capsys.readouterr().err


def test_explain_tells_every_message_that_leaves(deployment):
    before = {path: path.read_bytes() for path in deployment.rglob("*") if path.is_file()}
    examples = {one.name: one for one in explain(deployment)}
    assert list(examples) == [
        "Open", "Close", "EvaluationRequest", "Activations", "Gradients", "SumsResult", "JudgeResult", "TrainResult", "EvaluateResult",
        "Failure", "KeepResult",
    ]  # fmt: skip
    assert {one.to for one in examples.values()} == {"main server", "fed server"}
    fields = {place for one in examples.values() for place, _ in one.content}
    assert not [place for place in fields if "label" in place or "logit" in place]
    hidden = dict(examples["Activations"].content)["modalities[image].hidden"]
    assert hidden.startswith("float32 (")
    assert f", {small.TOKENS['image']}, {small.WIDTHS['image']})" in hidden
    assert {path: path.read_bytes() for path in deployment.rglob("*") if path.is_file()} == before, "nothing was changed"


def test_explain_shows_numbers_as_they_travel(settings, made, tmp_path):
    """In eight bits they are others, and fewer bytes; what goes to the fed server is whole."""
    set_up(settings.override(["wire.up=int8"]), tmp_path / "deployment", ADDRESSES)
    exact, narrow = ({one.name: one for one in explain(directory)} for directory in (made, tmp_path / "deployment"))
    hidden = "modalities[image].hidden"
    assert narrow["Activations"].nbytes < exact["Activations"].nbytes
    assert dict(narrow["Activations"].content)[hidden] != dict(exact["Activations"].content)[hidden]
    assert narrow["TrainResult"].nbytes == exact["TrainResult"].nbytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"federation__server_update": "in_turn"}, "federation.server_update"),
        ({"federation__client_update": "relay"}, "federation.client_update"),
        ({"federation__split": "false"}, "federation.split"),
    ],
)
def test_what_only_one_process_can_do_is_refused_before_anything_is_written(settings, tmp_path, change, said):
    changed = settings.override([f"{name.replace('__', '.')}={value}" for name, value in change.items()])
    with pytest.raises(ConfigError, match=said):
        set_up(changed, tmp_path / "deployment", ADDRESSES)
    assert not list(tmp_path.iterdir())


def test_a_directory_in_use_is_left_alone(settings, made):
    with pytest.raises(ConfigError, match="not empty"):
        set_up(settings, made, ADDRESSES)


def test_folders_that_were_mixed_or_cut_short(deployment, made, settings, tmp_path):
    name, folder = next(iter(client_folders(deployment).items()))
    program = read_program(folder / "client.toml", ClientProgram)
    values = json.loads((folder / "blueprint.json").read_text())
    values["slices"]["image"]["head"] = "0" * 64
    (folder / "blueprint.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="of another encoder"):
        client_of(folder, name, tuple(program.modalities), None)
    values["format"] = 99
    (folder / "blueprint.json").write_text(json.dumps(values))
    with pytest.raises(RunDirectoryError, match="format 99"):
        Drawing.read(folder)
    shutil.copy(client_folders(made)[name] / "blueprint.json", folder / "blueprint.json")
    shutil.rmtree(folder / "data")
    with pytest.raises(DataError, match="holds no samples"):
        client_of(folder, name, tuple(program.modalities), None)
    (folder / "client.toml").write_text('nam = "x"\n')
    with pytest.raises(ConfigError, match=r"unknown key nam. Did you mean name\?"):
        read_program(folder / "client.toml", ClientProgram)
