"""`m2fedsa deploy init`: from the settings of a run to a folder for each party, with all that it needs and nothing else.

Whoever runs it sees all samples and encoders, as on one machine. Then each folder goes to its party, and the directory stays with whoever
set the deployment up: it holds the key that signs certificates.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m2fedsa.assembly import Extensions, Parties, compose, cpu_threads, samples_of
from m2fedsa.config import Config
from m2fedsa.data.site_files import write_samples
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.keys import Authority
from m2fedsa.deploy.places import (
    AUTHORITY,
    CLIENT_TOML,
    CLIENTS,
    DATA,
    DEPLOY_TOML,
    FED_SERVER,
    FED_SERVER_TOML,
    HEADS,
    MAIN_SERVER,
    MAIN_SERVER_TOML,
    TAILS,
)
from m2fedsa.deploy.programs import Address, ClientProgram, Deployment, FedServerProgram, MainServerProgram, write_program
from m2fedsa.deploy.registry import Member, Registry
from m2fedsa.deploy.slices import check_deployable, cut_all, described
from m2fedsa.durable import unfinished
from m2fedsa.errors import ConfigError, StorageError

RUNTIME_PORT = 9500
"""Of the first client, where its SuperNode and its ClientApps meet; others follow, so that all can run on one machine."""


@dataclass(frozen=True)
class Addresses:
    """Where the servers will be reached."""

    superlink: Address
    main_server: Address

    @classmethod
    def of(cls, superlink: str, main_server: str) -> "Addresses":
        """From `host:port` each. `ConfigError` for anything else."""
        return cls(_address("--superlink", superlink), _address("--main-server", main_server))


def _address(option: str, text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{option} {text}: write host:port, e.g. {option} fed.example.org:9092.")
    return Address(host=host, port=int(port))


@dataclass(frozen=True)
class SetUp:
    """What was written."""

    directory: Path
    deployment: Deployment
    clients: Mapping[str, tuple[str, ...]]
    """name -> modalities"""
    sizes: Mapping[str, int]
    """bytes of each folder below the directory"""
    training: int
    """clients that have samples to train on; the others only evaluate"""


def set_up(config: Config, directory: Path, addresses: Addresses) -> SetUp:
    """Write the directory. `InputError` if settings, data or encoders do not fit, or if the directory is in use: nothing is written."""
    check_deployable(config)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(f"{directory}: is there already, and not empty. Choose another --dir, or remove it.")
    place = unfinished(directory.absolute())
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        with cpu_threads(config.compute.threads):
            data = samples_of(config, Extensions())
            slices = place / "slices"
            parties = compose(config, data, cut_all(config, data, slices), Extensions())
            deployment = _write(place, parties, slices, addresses)
        shutil.rmtree(slices)
        sizes = {str(folder.relative_to(place)): _size(folder) for folder in _folders(place)}
        if directory.exists():
            directory.rmdir()
        place.rename(directory)
    except OSError as error:
        raise StorageError(f"{directory}: cannot be written: {error.strerror or error}. Make room, or choose another --dir.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    training = sum(client.train is not None and len(client.train.labels) > 0 for client in data.clients.values())
    return SetUp(directory, deployment, {name: client.modalities for name, client in data.clients.items()}, sizes, training)


def _write(place: Path, parties: Parties, slices: Path, addresses: Addresses) -> Deployment:
    config, blueprint = parties.blueprint.config, parties.blueprint
    drawing = Drawing(blueprint, parties.data.classes, parties.shared.shortens, {m: described(slices / m) for m in blueprint.modalities})
    main_server = addresses.main_server
    coordination = Address(host=main_server.host, port=main_server.port + 1)
    deployment = Deployment(run=config.name, superlink=addresses.superlink, main_server=main_server, coordination=coordination)
    write_program(place / DEPLOY_TOML, deployment)
    authority = Authority.new(place / AUTHORITY, config.name)
    members = {}
    for number, info in enumerate(parties.federation.clients()):
        folder = place / CLIENTS / info.name
        drawing.write(folder)
        program = ClientProgram(
            run=config.name,
            name=info.name,
            modalities=list(info.modalities),
            superlink=addresses.superlink,
            main_server=addresses.main_server,
            runtime_port=RUNTIME_PORT + number,
        )
        write_program(folder / CLIENT_TOML, program)
        for modality in info.modalities:
            shutil.copytree(slices / modality / "head", folder / HEADS / modality)
        write_samples(parties.data.clients[info.name], folder / DATA)
        members[info.name] = Member(info, authority.client(folder, info.name))
    registry = Registry(members, parties.ledger(), parties.data.notes)
    _write_servers(place, drawing, registry, slices, authority, deployment)
    return deployment


def _write_servers(place: Path, drawing: Drawing, registry: Registry, slices: Path, authority: Authority, deployment: Deployment) -> None:
    fed_server, main_server = place / FED_SERVER, place / MAIN_SERVER
    drawing.write(fed_server)
    registry.write(fed_server)
    listening = FedServerProgram(run=deployment.run, superlink=deployment.superlink, coordination=deployment.coordination)
    write_program(fed_server / FED_SERVER_TOML, listening)
    drawing.write(main_server)
    for modality in drawing.blueprint.modalities:
        shutil.copytree(slices / modality / "tail", main_server / TAILS / modality)
    serving = MainServerProgram(run=deployment.run, port=deployment.main_server.port, coordination=deployment.coordination.port)
    write_program(main_server / MAIN_SERVER_TOML, serving)
    authority.servers(fed_server, main_server, deployment)


def _folders(place: Path) -> list[Path]:
    return [place / FED_SERVER, place / MAIN_SERVER, *sorted((place / CLIENTS).iterdir())]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
