"""A Flower SuperLink as the fed server runs it, and what is asked of it: register keys, start a run, look how it stands.

`python -m m2fedsa.federation.superlink ...` is `flower-superlink ...` with one thing more. Flower serves the clients' interface and the
one that starts runs at the same port, and whoever can start a run can run code of its own on every client. So both `/v1/control` and
`/v1/runtime` answer to this machine alone; from elsewhere only `/v1/fleet` can be reached, for which a node needs a registered key.
"""

import ipaddress
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2fedsa.errors import RunError
from m2fedsa.identity import read_openssh

HERE_ALONE = ("/v1/control", "/v1/runtime", "/docs", "/openapi.json")
"""Paths that answer to this machine alone."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
State = Literal["waiting", "running", "finished"]


@dataclass(frozen=True)
class HereAlone:
    """An ASGI middleware: 403 for a path that is for this machine, asked for from another."""

    app: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(HERE_ALONE) or _is_here(scope.get("client")):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"this interface answers to its own machine alone\n"})


def _is_here(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


class Control:
    """The SuperLink of this machine, as its operator sees it."""

    def __init__(self, port: int, authority: bytes) -> None:
        """`authority`: the certificate that vouches for the SuperLink's, PEM."""
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        told = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
        self._client = ControlHttpClient.from_server_address(f"127.0.0.1:{port}", False, authority, told)

    def register(self, keys: Mapping[str, str]) -> None:
        """Let in the nodes with these public keys (name -> key in OpenSSH's form), and no others."""
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest

        wanted = {public_key_bytes(key): name for name, key in keys.items()}
        there = {node.public_key: node.node_id for node in self._client.ListNodes(ListNodesRequest()).nodes_info}
        for key in wanted.keys() - there.keys():
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=wanted[key]))
        for key in there.keys() - wanted.keys():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=there[key]))

    def start(self, app: Path, values: Mapping[str, str]) -> int:
        """Start a run of the app in this folder with these run settings; its number."""
        import hashlib

        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        reply = self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(values))))
        if not reply.HasField("run_id"):
            raise RunError("the SuperLink did not start the run; its log, state/superlink.log, says why.")
        return int(reply.run_id)

    def state(self, run: int) -> tuple[State, str]:
        """How a run stands, and in more words."""
        from flwr.proto.control_pb2 import ListRunsRequest

        found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict.get(run)
        if found is None:
            return "finished", "the SuperLink does not know this run any more"
        status = found.status.status
        state: State = "finished" if status == "finished" else "running" if status == "running" else "waiting"
        return state, f"{found.status.sub_status} {found.status.details}".strip()

    def stop(self, run: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def public_key_bytes(openssh: str) -> bytes:
    """A public key as Flower names nodes by it."""
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    found: bytes = public_key_to_bytes(read_openssh(openssh))
    return found


def main(arguments: Iterable[str]) -> None:
    """`flower-superlink` with these arguments."""
    from flwr.superlink import main as service
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    made = service.create_app

    def create_app(*given: Any, **named: Any) -> Any:
        app = made(*given, **named)
        app.user_middleware.insert(0, Middleware(HereAlone))
        return app

    service.create_app = create_app
    # Whose X-Forwarded-For is believed, by uvicorn: from elsewhere nobody's, whatever this process has inherited.
    os.environ["FORWARDED_ALLOW_IPS"] = "127.0.0.1"
    # A line for each of the many times that a SuperNode asks whether there is anything to do would fill the disk.
    logging.getLogger("uvicorn.access").addFilter(lambda _: False)
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


if __name__ == "__main__":
    main(sys.argv[1:])
