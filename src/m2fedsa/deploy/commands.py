"""The commands of a deployment: `m2fedsa deploy ...`, and the programs `fed-server` and `client`."""

from pathlib import Path
from typing import Annotated

import typer

from m2fedsa.cli_help import Commands

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="What `m2fedsa deploy init` wrote.")]
Program = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The program's settings, in its party's folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set federation.rounds=10; key=none unsets it. Repeatable."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]
"""Read by `cli.main`."""

deploy = Commands(name="deploy", help="From one machine to many: make folders for the parties, start, check, explain, revoke.")


@deploy.command()
def init(
    target: Annotated[str, typer.Argument(metavar="RECIPE | FILE.toml", help="Whose settings; see `m2fedsa recipes`.")],
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write; must not be there yet.")],
    clients: Annotated[int | None, typer.Option(metavar="N", min=1, help="Clients that train, if not as in the settings.")] = None,
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients will reach the fed server.")] = "127.0.0.1:9092",
    main_server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where they will reach the main server.")] = "127.0.0.1:9443",
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Write a folder for each party: settings, slices, keys, and each client's own samples."""
    from m2fedsa.deploy.setup import Addresses, set_up
    from m2fedsa.deploy.told import show
    from m2fedsa.recipes import settings_of

    changes = [*(settings or []), *([f"data.clients={clients}"] if clients is not None else [])]
    show(set_up(settings_of(target, changes), directory, Addresses.of(superlink, main_server)))


@deploy.command()
def local(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="The run directory, if not DIR/fed-server/run.")] = None,
    debug: Debug = False,
) -> None:
    """Start all parties on this machine, each a process of its own, and show how the run goes."""
    from m2fedsa.deploy.local import Local

    Local(directory, out).through()


@deploy.command()
def check(
    directory: Directory,
    network: Annotated[bool, typer.Option("--network/--no-network", help="Also call the servers.")] = True,
    debug: Debug = False,
) -> None:
    """Look at keys, slices, versions, clocks and ways, and say what to mend; DIR may be one party's folder."""
    from m2fedsa.deploy.check import check as look
    from m2fedsa.deploy.told import show_findings

    raise typer.Exit(show_findings(look(directory, network)))


@deploy.command()
def revoke(
    directory: Directory,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Its name.")],
    debug: Debug = False,
) -> None:
    """Let a client in no more, at neither server."""
    from m2fedsa.deploy.revoke import revoke as put_out

    found = put_out(directory, client)
    for line in (*found.done, *(f"still to do: {one}" for one in found.open)):
        print(line)
    raise typer.Exit(1 if found.open else 0)


@deploy.command()
def explain(directory: Directory, debug: Debug = False) -> None:
    """Show every kind of message that leaves a site, with an example of its content, its size and its purpose."""
    from m2fedsa.deploy.explain import explain as examples
    from m2fedsa.deploy.told import show_examples

    show_examples(examples(directory))


def fed_server(program: Program, debug: Debug = False) -> None:
    """The fed server: a Flower SuperLink, and the run on it. Goes on where it stopped."""
    from m2fedsa.deploy.fed_server import FedServerService

    print(FedServerService(program).through())


def main_server(program: Program, debug: Debug = False) -> None:
    """The main server: holds the tails, serves clients and the fed server."""
    from m2fedsa.deploy.main_server import serve_main

    serve_main(program)


def client(program: Program, debug: Debug = False) -> None:
    """A client: its samples and heads stay here; its SuperNode dials out."""
    from m2fedsa.deploy.client import ClientService

    ClientService(program).serve()
