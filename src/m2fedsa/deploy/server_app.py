"""The Flower ServerApp: the fed server, in the process that a SuperLink starts for it."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from m2fedsa.deploy.lead import lead

server_app = ServerApp()


@server_app.main()
def _main(grid: Grid, context: Context) -> None:
    """`context.run_config` names the fed server's `folder`."""
    lead(grid, Path(str(context.run_config["folder"])))
