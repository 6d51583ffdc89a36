"""What the commands of a deployment say."""

from typing import TYPE_CHECKING

from m2fedsa.reporting.units import plural, size

if TYPE_CHECKING:
    from m2fedsa.deploy.check import Finding
    from m2fedsa.deploy.explain import Example
    from m2fedsa.deploy.setup import SetUp


def told(made: "SetUp") -> list[str]:
    """Who gets what, in rich's markup."""
    deployment, sizes = made.deployment, made.sizes
    coordination = deployment.coordination
    clients = [name for name in sizes if name.startswith("clients/")]
    each = [sizes[name] for name in clients]
    spread = size(min(each)) if min(each) == max(each) else f"{size(min(each))} to {size(max(each))}"
    return [
        f"[bold]{made.directory}[/bold]: the run {deployment.run}, with a folder for each party.",
        f"  fed-server   {size(sizes['fed-server'])}: registry and blueprint; at {deployment.superlink}",
        f"  main-server  {size(sizes['main-server'])}: tails; at {deployment.main_server} for clients, {coordination} for the fed server",
        f"  clients/     {_who(made.training, len(clients))}; {spread} each: heads, its own samples, its key",
        "  authority/   the key that signs certificates: stays here",
        f"All on this machine: [bold]m2fedsa deploy local {made.directory}[/bold]. On many: docs/deploy.md.",
    ]


def _who(training: int, clients: int) -> str:
    """How many clients there are, and what they do."""
    if training == clients:
        return plural(clients, "client")
    train = plural(training, "client that trains", "clients that train")
    return f"{train}, and {clients - training} that only {'evaluates' if clients - training == 1 else 'evaluate'}"


def show(made: "SetUp") -> None:
    """Print what was made."""
    _print(told(made))


def show_findings(findings: "list[Finding]") -> int:
    """Print what was found, and what to mend; the exit status."""
    from rich.markup import escape

    wrong = [one for one in findings if one.mend is not None]
    for one in findings:
        sign = "[green]ok[/green]  " if one.mend is None else "[red]mend[/red]"
        _print([f"{sign}  {escape(one.place)}: {escape(one.what)}", *([f"      {escape(one.mend)}"] if one.mend else [])])
    _print([f"{plural(len(wrong), 'thing')} to mend." if wrong else "All is well."])
    return 1 if wrong else 0


def show_examples(examples: "list[Example]") -> None:
    """Print every message with what stands in it."""
    from rich.markup import escape

    for one in examples:
        _print(["", f"[bold]{one.name}[/bold] to the {one.to}, {size(one.nbytes)} (by {one.client}): {one.purpose}"])
        width = max(len(place) for place, _ in one.content)
        _print([f"  {escape(f'{place:<{width}}')}  {escape(text)}" for place, text in one.content])
    _print(
        [
            "",
            "Beside these, the SuperNode tells the SuperLink its public key, and that it is alive.",
            "Nothing else leaves a site: no input, label or logit of a sample.",
        ]
    )


def _print(lines: list[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)
