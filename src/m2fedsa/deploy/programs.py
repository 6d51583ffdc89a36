"""The one TOML of each program: where it listens, whom it calls, how patient it is. Paths are those of the folder that the file lies in."""

import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

import tomli_w
from pydantic import Field, ValidationError

from m2fedsa.complaints import complaints
from m2fedsa.config import Section
from m2fedsa.durable import write_atomically
from m2fedsa.errors import ConfigError

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0.0)]
SILENCE = 120.0


class Address(Section):
    """Where a server is reached."""

    host: str
    """A name or an IP address; the server's certificate is made out to it."""
    port: Port

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class FedServerProgram(Section):
    """`fed-server.toml`."""

    run: str
    """Name of the deployment; tasks, tokens and logs carry it."""
    listen: str = "0.0.0.0"
    """Address on which the SuperLink listens."""
    superlink: Address
    """Where clients reach the SuperLink."""
    coordination: Address
    """Where the main server is reached."""
    out: str = "run"
    """The run directory, in this folder unless it is an absolute path."""
    wait_for_clients: Seconds = 300.0
    """Seconds to wait before the first round until all registered clients are connected; then it goes on with those that are."""
    wait_for_return: Seconds = 120.0
    """Seconds to wait, once, for a client that was lost within the warm start or an evaluation; then these go on without it until it comes
    back."""
    answer_hours: Seconds = 24.0
    """Hours after which a task counts as lost whose client stays connected and never answers; longer than any task takes."""
    attempts: Annotated[int, Field(ge=1)] = 5
    """How often a round is begun again when too few clients finish it or the main server was started anew, before the run stops."""
    patience: Seconds = 600.0
    """Seconds for which a main server that cannot be reached is tried again."""
    token_hours: Seconds = 24.0
    """Hours for which a token lets a client into its round."""
    predict_days: Seconds = 365.0
    """Days after the end of the run for which its clients may predict; `m2fedsa fed-server` once more gives them as many again."""


class ClientProgram(Section):
    """`client.toml`."""

    run: str
    """Name of the deployment."""
    name: str
    """Its name in the registry."""
    modalities: list[str]
    """What it holds, in the run's order."""
    superlink: Address
    """Where the SuperLink is reached."""
    main_server: Address
    """Where the main server is reached."""
    runtime_port: Port
    """Of this machine, where the SuperNode and its ClientApps meet; only this machine reaches it."""
    silence: Seconds = SILENCE
    """Seconds without any step forward after which a task counts as lost."""


class MainServerProgram(Section):
    """`main-server.toml`."""

    run: str
    """Name of the deployment."""
    listen: str = "0.0.0.0"
    """Address on which it listens."""
    port: Port
    """For clients."""
    coordination: Port
    """For the fed server."""
    metrics: Port | None = None
    """For `/metrics` and `/health` over HTTP; unset: none."""
    metrics_host: str = "127.0.0.1"
    """Address for these: they are not encrypted, and tell how many clients there are."""
    silence: Seconds = 300.0
    """Seconds without a frame after which a client's stream is ended."""
    streams: Annotated[int, Field(ge=1)] = 256
    """Streams at once; more are refused."""
    frame: Annotated[int, Field(ge=4096, le=2**24)] = 2**20
    """Largest part of a message that travels at once, bytes."""
    largest_message: Annotated[int, Field(ge=4096)] = 2**28
    """Largest message that is taken, bytes."""
    window: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Seconds for which a step waits for those of other clients, to run as one batch with them; results then differ by rounding. 0: no
    waiting, and the bits of a run in one process."""
    drain: Annotated[float, Field(ge=0.0)] = 30.0
    """Seconds that an open round has to end when the server is told to stop."""


class Deployment(Section):
    """`deploy.toml`, of whoever set the deployment up."""

    run: str
    """Name of the deployment."""
    superlink: Address
    """Where clients reach the fed server."""
    main_server: Address
    """Where clients reach the main server."""
    coordination: Address
    """Where the fed server reaches the main server."""


Program = TypeVar("Program", bound=Section)


def write_program(path: Path, program: Section) -> None:
    """The file, every key with its value."""
    write_atomically(path, tomli_w.dumps(program.model_dump(mode="json", exclude_none=True)).encode())


def read_program(path: Path, kind: type[Program]) -> Program:
    """A program's settings. `ConfigError` names file, key, what was found and what would be right."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file. `m2fedsa deploy init` writes it.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}.") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n       ".join(f"{path}: {line}" for line in complaints(error, values, kind))) from error
