"""The Flower ServerApp: the fed server, in the process that a SuperLink starts for it."""

import threading
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from m2fedsa.deploy.lead import lead
from m2fedsa.deploy.processes import end_with

server_app = ServerApp()


@server_app.main()
def _main(grid: Grid, context: Context) -> None:
    """`context.run_config` names the fed server's `folder`, and the process that looks after the run."""
    supervisor = str(context.run_config["supervisor"])
    if supervisor:
        threading.Thread(target=end_with, args=(int(supervisor),), daemon=True).start()
    lead(grid, Path(str(context.run_config["folder"])))
