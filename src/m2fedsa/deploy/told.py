"""What `m2fedsa deploy init` says: who gets what."""

from typing import TYPE_CHECKING

from m2fedsa.reporting.units import plural, size

if TYPE_CHECKING:
    from m2fedsa.deploy.setup import SetUp


def told(made: "SetUp") -> list[str]:
    """The lines, in rich's markup."""
    deployment, sizes = made.deployment, made.sizes
    coordination = deployment.coordination
    clients = [name for name in sizes if name.startswith("clients/")]
    each = [sizes[name] for name in clients]
    spread = size(min(each)) if min(each) == max(each) else f"{size(min(each))} to {size(max(each))}"
    return [
        f"[bold]{made.directory}[/bold]: {plural(len(clients), 'client')}, a fed server and a main server of the run {deployment.run}.",
        f"  fed-server   {size(sizes['fed-server'])}: registry and blueprint; at {deployment.superlink}",
        f"  main-server  {size(sizes['main-server'])}: tails; at {deployment.main_server} for clients, {coordination} for the fed server",
        f"  clients/     {spread} each: heads, its own samples, its key",
        "  authority/   the key that signs certificates: stays here",
        f"All on this machine: [bold]m2fedsa deploy local {made.directory}[/bold]. On many: docs/deploy.md.",
    ]


def show(made: "SetUp") -> None:
    """Print the lines."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in told(made):
        console.print(line)
