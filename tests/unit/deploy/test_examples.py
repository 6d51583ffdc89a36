"""What examples/deploy starts: every command is one of the program's, with a file that `m2fedsa deploy init` writes."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from m2fedsa.assembly import Extensions, samples_of
from m2fedsa.cli import BAD_INPUT, app
from m2fedsa.deploy.places import CLIENT_TOML, FED_SERVER_TOML, MAIN_SERVER_TOML
from m2fedsa.deploy.programs import MainServerProgram
from m2fedsa.recipes import settings_of

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "deploy"
FILES = {"fed-server": FED_SERVER_TOML, "main-server": MAIN_SERVER_TOML, "client": CLIENT_TOML}
COMPOSE = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
UNITS = sorted(EXAMPLES.glob("*.service"))


def parsed(words):
    """The command that these words are for, once its arguments have been read as the program reads them; nothing is run."""
    group = typer.main.get_command(app)
    while hasattr(group, "commands"):
        assert words[0] in group.commands, words
        group, words = group.commands[words[0]], words[1:]
    return group.make_context(group.name, list(words)).info_name


def unit(path):
    """A systemd unit; a key stands in it once."""
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str
    found.read(path)
    return found["Service"]


def commented(path):
    """Commands in a file's comments."""
    return [line.removeprefix("#").split() for line in path.read_text().splitlines() if re.match(r"#\s+m2fedsa ", line)]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_of_the_compose_file(name):
    service = COMPOSE["services"][name]
    assert parsed(service["command"]) == service["command"][0]
    (volume,) = service["volumes"]
    folder, inside = volume.split(":")
    command, program = service["command"]
    assert program == f"{inside}/{FILES[command]}"
    assert folder.removeprefix("../../deployment/") == (name if command != "client" else f"clients/{name}")


def test_the_compose_file_has_the_deployment_that_it_tells_how_to_make():
    (words,) = commented(EXAMPLES / "compose.yaml")
    assert words[0] == "m2fedsa"
    assert parsed(words[1:]) == "init"
    number = words[words.index("--clients") + 1]
    clients = samples_of(settings_of(words[3], [f"data.clients={number}"]), Extensions()).clients
    assert set(COMPOSE["services"]) == {"fed-server", "main-server", *clients}
    for option, service in (("--superlink", "fed-server"), ("--main-server", "main-server")):
        host, port = words[words.index(option) + 1].split(":")
        assert host == service
        assert COMPOSE["services"][service]["ports"] == [f"{port}:{port}"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_units(path):
    service = unit(path)
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "m2fedsa"
    assert parsed(words) == words[0] == path.stem.removeprefix("m2fedsa-")
    folder, file = words[1].rsplit("/", 1)
    assert file == FILES[words[0]]
    assert service["ReadWritePaths"] == folder


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_folder_that_cannot_be_used_is_not_tried_again_and_again(path):
    assert int(unit(path)["RestartPreventExitStatus"]) == BAD_INPUT


def test_containers_run_as_the_owner_of_the_folders():
    """The keys in them are 0600."""
    assert {service["user"] for service in COMPOSE["services"].values()} == {"${M2FEDSA_USER:-1000:1000}"}
    assert "M2FEDSA_USER=$(id -u):$(id -g) docker compose" in (EXAMPLES / "compose.yaml").read_text()


def test_a_main_server_has_the_time_to_drain():
    drain = MainServerProgram(run="x", port=1, coordination=2).drain
    assert float(unit(EXAMPLES / "m2fedsa-main-server.service")["TimeoutStopSec"]) > drain
    assert float(COMPOSE["services"]["main-server"]["stop_grace_period"].removesuffix("s")) > drain


def test_there_is_a_unit_for_each_program():
    assert {path.stem for path in UNITS} == {f"m2fedsa-{command}" for command in FILES}


def test_an_image_holds_no_deployment():
    """`deploy init --dir deployment` and `docker build` are run in the same folder: no key may get into an image that people pass on."""
    copied = {
        word for line in (EXAMPLES / "Dockerfile").read_text().splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]
    }
    assert copied == {"src", "pyproject.toml", "README.md", "LICENSE", "LICENSES"}
    assert "ADD " not in (EXAMPLES / "Dockerfile").read_text()
    everything, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert everything == "*"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_no_deployment_gets_into_the_repository():
    assert "/deployment/" in (ROOT / ".gitignore").read_text().splitlines()
