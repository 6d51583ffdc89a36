"""`m2fedsa deploy check`: whether a party's folder, or all of them, can go to work; and what to mend if not."""

import hashlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.keys import CA, CLIENT_KEYS, FED_SERVER_KEYS, MAIN_SERVER_KEYS, check_keys, identity_of
from m2fedsa.deploy.links import coordination_of, fingerprint_of, link_of
from m2fedsa.deploy.places import (
    CLIENT_TOML,
    FED_SERVER,
    FED_SERVER_TOML,
    HEADS,
    KEYS,
    MAIN_SERVER,
    MAIN_SERVER_TOML,
    TAILS,
    client_folders,
)
from m2fedsa.deploy.programs import Address, ClientProgram, FedServerProgram, MainServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.errors import ConfigError, M2FedSAError, RunError
from m2fedsa.identity import fingerprint, public_key, read_certificate
from m2fedsa.links.talk import Description
from m2fedsa.models.slices import WEIGHTS

FLWR = "1.41.0"
_SKEW = 60.0
"""Seconds by which the main server's clock may differ."""
_PATIENCE = 5.0
_SOON = 30
"""Days before its end at which a certificate is told."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    place: str
    what: str
    mend: str | None = None
    """what to do; None: all is well"""


def check(directory: Path, reach: bool = True) -> list[Finding]:
    """Look at one party's folder, or at all below a directory. `reach`: also call the servers. `ConfigError` if there is no folder."""
    kinds: list[tuple[str, Callable[[Path, bool], Iterator[Finding]]]] = [
        (FED_SERVER_TOML, _fed_server),
        (MAIN_SERVER_TOML, _main_server),
        (CLIENT_TOML, _client),
    ]
    folders = [directory, directory / FED_SERVER, directory / MAIN_SERVER, *client_folders(directory).values()]
    found: list[Finding] = []
    for folder in folders:
        for file, look in kinds:
            if (folder / file).is_file():
                found += _gathered(folder, look, reach)
    if not found:
        raise ConfigError(f"{directory}: holds no party's folder. Name what `m2fedsa deploy init` wrote, or one of the folders in it.")
    return found


def _gathered(folder: Path, look: Callable[[Path, bool], Iterator[Finding]], reach: bool) -> Iterator[Finding]:
    """Findings up to the first that makes the others senseless."""
    place = str(folder)
    try:
        check_keys(folder)
        yield from _packages(place)
        yield from look(folder, reach)
    except M2FedSAError as error:
        what, _, mend = str(error).partition(". ")
        yield Finding(place, what.strip("."), mend or "Copy the folder again, as `m2fedsa deploy init` wrote it.")


def _packages(place: str) -> Iterator[Finding]:
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = "none"
    if found != FLWR:
        yield Finding(
            place, f"flwr {found} is installed, but {FLWR} is needed", "Install m2fedsa with its extra: pip install 'm2fedsa[deploy]'"
        )
    else:
        yield Finding(place, f"m2fedsa {version('m2fedsa')}, flwr {found}")


def _certificate(folder: Path, file: str) -> Iterator[Finding]:
    identity = identity_of(folder, file)
    left = (identity.certificate.not_valid_after_utc.timestamp() - time.time()) / 86400
    if left < _SOON:
        yield Finding(str(folder), f"the certificate of {identity.name} ends in {left:.0f} days", "Have the authority issue a new one.")
    else:
        yield Finding(str(folder), f"key and certificate of {identity.name}, for {left:.0f} days more")


def _slices(folder: Path, side: str, modalities: list[str], drawing: Drawing) -> Iterator[Finding]:
    for modality in modalities:
        file = folder / modality / WEIGHTS
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            yield Finding(str(file), f"cannot be read: {error.strerror}", "Copy the folder again.")
            continue
        if found != drawing.slices[modality][side]:
            yield Finding(str(file), f"is not the {side} of this deployment ({found[:12]}…)", "Copy the folder again.")
        else:
            yield Finding(str(file.parent), f"{side} of {drawing.slices[modality]['encoder']}, SHA-256 {found[:12]}…")


# --- parties ------------------------------------------------------------------------------------------------------------------------


def _fed_server(folder: Path, reach: bool) -> Iterator[Finding]:
    program, _, registry = read_program(folder / FED_SERVER_TOML, FedServerProgram), Drawing.read(folder), Registry.read(folder)
    yield from _certificate(folder, FED_SERVER_KEYS)
    admitted = registry.admitted()
    yield Finding(str(folder), f"{len(admitted)} of {len(registry.members)} registered clients may take part")
    yield from _registered(folder, registry)
    if reach:
        yield from _reached(str(folder), lambda: _of_fed_server(folder, program), program.run, Drawing.read(folder), program.coordination)
        yield from _superlink(folder, program.superlink)


def _registered(folder: Path, registry: Registry) -> Iterator[Finding]:
    """Whether the clients' folders beside the fed server's, where there are some, are those that it knows."""
    for name, other in client_folders(folder.parent).items():
        known = registry.members.get(name)
        own = fingerprint(public_key(read_certificate(other / KEYS / f"{CLIENT_KEYS}.pem")))
        if known is None or fingerprint_of(known.key) != own:
            yield Finding(
                str(other), f"its key is not one that the registry has for {name}", "Run `m2fedsa deploy init` into a new directory."
            )


def _main_server(folder: Path, _reach: bool) -> Iterator[Finding]:
    read_program(folder / MAIN_SERVER_TOML, MainServerProgram)
    drawing = Drawing.read(folder)
    yield from _certificate(folder, MAIN_SERVER_KEYS)
    yield from _slices(folder / TAILS, "tail", list(drawing.blueprint.modalities), drawing)


def _client(folder: Path, reach: bool) -> Iterator[Finding]:
    program, drawing = read_program(folder / CLIENT_TOML, ClientProgram), Drawing.read(folder)
    yield from _certificate(folder, CLIENT_KEYS)
    yield from _slices(folder / HEADS, "head", program.modalities, drawing)
    if reach:
        yield from _reached(str(folder), lambda: _of_client(folder, program), program.run, drawing, program.main_server)
        yield from _superlink(folder, program.superlink)


# --- ways ---------------------------------------------------------------------------------------------------------------------------


def _of_fed_server(folder: Path, program: FedServerProgram) -> Description:
    with coordination_of(folder, program.model_copy(update={"patience": _PATIENCE})) as coordination:
        return coordination.describe()


def _of_client(folder: Path, program: ClientProgram) -> Description:
    with link_of(folder, program) as link:
        link.patience = _PATIENCE
        return link.describe()


def _reached(place: str, ask: Callable[[], Description], run: str, drawing: Drawing, address: Address) -> Iterator[Finding]:
    """What the main server says of itself; a finding too if it says nothing, so that the SuperLink is looked at as well."""
    try:
        found = ask()
    except RunError as error:
        mend = "Start `m2fedsa main-server`, or open the way to it (clients only dial out)."
        yield Finding(place, f"the main server at {address} cannot be reached ({error})", mend)
    else:
        yield from _described(place, found, run, drawing, str(address))


def _described(place: str, found: Description, run: str, drawing: Drawing, address: str) -> Iterator[Finding]:
    skew = found.now - time.time()
    ours = {name: one["digest"] for name, one in drawing.slices.items()}
    other = [name for name, digest in ours.items() if found.slices.get(name) != digest]
    if found.run != run:
        yield Finding(
            place, f"the main server at {address} is of the run {found.run}, but this folder is of {run}", "Use one deployment's folders."
        )
    elif found.version != version("m2fedsa"):
        yield Finding(
            place, f"the main server has m2fedsa {found.version}, here is {version('m2fedsa')}", "Install the same version on both."
        )
    elif other:
        yield Finding(
            place, f"the main server's tail of {other[0]} is of another encoder than the head here", "Use one deployment's folders."
        )
    elif abs(skew) > _SKEW:
        yield Finding(place, f"the clocks differ by {skew:.0f} seconds: tokens would count as expired", "Set both clocks (NTP).")
    else:
        yield Finding(place, f"main server at {address}: same version, same encoders, clocks {abs(skew):.1f} s apart, round {found.round}")


def _superlink(folder: Path, address: Address) -> Iterator[Finding]:
    context = ssl.create_default_context(cafile=str(folder / KEYS / CA))
    try:
        with socket.create_connection((address.host, address.port), _PATIENCE) as plain:
            context.wrap_socket(plain, server_hostname=address.host).close()
    except ssl.SSLError as error:
        yield Finding(str(folder), f"the server at {address} is not this deployment's SuperLink ({error.reason})", "Look at the address.")
    except OSError as error:
        mend = "Start `m2fedsa fed-server`, or open the way to it (clients only dial out)."
        yield Finding(str(folder), f"the SuperLink at {address} cannot be reached ({error})", mend)
    else:
        yield Finding(str(folder), f"SuperLink at {address}: there, with a certificate of this deployment")
