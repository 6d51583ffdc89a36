"""The Flower ClientApp: it passes a task to the resident client beside it, and its answer back. Nothing else happens in its process."""

from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from m2fedsa.federation.doorstep import ask

RECORD = "m2fedsa"
"""Name of the one record of a message."""
client_app = ClientApp()


@client_app.train()
@client_app.evaluate()
@client_app.query()
def _pass_on(message: Message, context: Context) -> Message:
    """`context.node_config` names the client's `socket`, and the `silence` in seconds after which it counts as lost."""
    given, node = message.content[RECORD], context.node_config
    found = ask(Path(str(node["socket"])), str(given["envelope"]), cast(bytes, given["task"]), float(node["silence"]))
    told = ConfigRecord({"kind": found.kind, "message": found.message})
    if found.result is not None:
        told["result"] = found.result
    return Message(RecordDict({RECORD: told}), reply_to=message)
