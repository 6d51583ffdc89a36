"""Who reaches what at the SuperLink: what starts runs answers to its own machine alone, and nodes need a registered key."""

import asyncio
import importlib
import os
import sys
from types import SimpleNamespace

import pytest
from flwr.proto import control_pb2 as control
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.server.superlink.linkstate import SqlLinkState
from flwr.supercore.error import FlowerError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.main import create_app
from flwr.superlink.servicer.fleet.fleet_handlers import activate_node, register_node
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from m2fedsa.deploy.keys import openssh
from m2fedsa.federation import superlink
from m2fedsa.federation.superlink import Control, HereAlone, public_key_bytes
from m2fedsa.identity import new_key

# Flower's own, of the migrations of its database.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
HERE, STRANGER = "127.0.0.1", "203.0.113.7"
CLOSED = ["/v1/control/start-run", "/v1/control/list-nodes", "/v1/runtime/acquire-task", "/docs", "/openapi.json"]


def status(client, path, headers=(), proxied=False):
    """What somebody at this address is answered; 200 by whatever stands behind the guard."""
    said = []

    async def behind(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        said.append(message)

    app = HereAlone(behind)
    app = ProxyHeadersMiddleware(app, os.environ["FORWARDED_ALLOW_IPS"]) if proxied else app
    scope = {"type": "http", "path": path, "scheme": "https", "client": client and (client, 1234), "headers": list(headers)}
    asyncio.run(app(scope, None, send))
    return said[0]["status"]


@pytest.mark.parametrize("path", CLOSED)
def test_what_starts_runs_answers_to_its_own_machine_alone(path):
    assert [status(one, path) for one in (HERE, "::1", "127.8.8.8")] == [200] * 3
    assert [status(one, path) for one in (STRANGER, "10.0.0.1", "2001:db8::1", "0.0.0.0", "localhost", None)] == [403] * 6


def test_clients_reach_their_own_interface_from_anywhere():
    assert status(STRANGER, "/v1/fleet/activate-node") == 200


def test_flower_serves_nothing_else_to_strangers():
    """Each route of this version of Flower is the clients', its health, or closed."""
    paths = set(create_app().openapi()["paths"])
    assert any(path.startswith("/v1/control/") for path in paths)
    open_to_all = {path for path in paths if not path.startswith(superlink.HERE_ALONE)}
    assert any(path.startswith("/v1/fleet/") for path in open_to_all)
    assert {path for path in open_to_all if not path.startswith("/v1/fleet/")} <= {"/health", "/ready"}


@pytest.fixture
def started(monkeypatch):
    """A SuperLink as it would start with what it has inherited; it does not."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setattr(sys, "argv", [])
    service, program = (importlib.import_module(f"flwr.superlink.{name}") for name in ("main", "cli.flower_superlink"))
    monkeypatch.setattr(service, "create_app", lambda: SimpleNamespace(user_middleware=[]))
    monkeypatch.setattr(program, "flower_superlink", lambda: None)
    superlink.main(["--port", "1"])
    return service.create_app()


def test_the_guard_is_outermost(started):
    assert started.user_middleware[0].cls is HereAlone


def test_no_header_makes_a_stranger_one_of_this_machine(started):
    """Whatever the SuperLink has inherited. A proxy on this machine that names whom it speaks for makes nobody one either."""
    forged = [(b"x-forwarded-for", b"127.0.0.1")]
    assert status(STRANGER, CLOSED[0], forged, proxied=True) == 403
    assert status(HERE, CLOSED[0], [(b"x-forwarded-for", b"127.0.0.1, 203.0.113.7")], proxied=True) == 403
    assert status(HERE, CLOSED[0], proxied=True) == 200


class Operated:
    """Flower's control interface on a SuperLink's own state."""

    def __init__(self, state):
        self.state = state

    def ListNodes(self, _request):
        nodes = self.state.get_node_info()
        return SimpleNamespace(nodes_info=[node for node in nodes if node.status != "unregistered"])

    def RegisterNode(self, request):
        assert isinstance(request, control.RegisterNodeRequest)
        self.state.create_node("operator", "operator", request.public_key, 0)

    def UnregisterNode(self, request):
        self.state.delete_node("operator", request.node_id)


@pytest.fixture
def link(tmp_path):
    """A SuperLink's state, and its operator."""
    state = SqlLinkState(str(tmp_path / "superlink.db"), NoOpFederationManager(), ObjectStoreFactory().store())
    state.initialize()
    operator = object.__new__(Control)
    operator._client = Operated(state)
    return state, operator


KEYS = {name: openssh(new_key()) for name in ("ann", "bob", "stranger")}


def let_in(state, name):
    """Whether a SuperNode with this key is let in."""
    try:
        activate_node(ActivateNodeRequest(public_key=public_key_bytes(KEYS[name]), heartbeat_interval=30.0), state)
    except FlowerError:
        return False
    return True


def test_a_key_that_is_not_registered_is_not_let_in(link):
    state, operator = link
    operator.register({name: KEYS[name] for name in ("ann", "bob")})
    assert [let_in(state, name) for name in KEYS] == [True, True, False]
    with pytest.raises(FlowerError):
        register_node(RegisterNodeFleetRequest(public_key=public_key_bytes(KEYS["stranger"])), state, enable_supernode_auth=True)
    assert not let_in(state, "stranger")


def test_a_key_that_was_revoked_is_cut_off(link):
    """As `m2fedsa deploy revoke` does while the SuperLink runs: heartbeats and messages are its node's no more, and it gets no other."""
    state, operator = link
    operator.register({name: KEYS[name] for name in ("ann", "bob")})
    assert let_in(state, "ann")
    node = state.get_node_id_by_public_key(public_key_bytes(KEYS["ann"]))
    assert state.acknowledge_node_heartbeat(node, 30.0)
    operator.register({"bob": KEYS["bob"]})
    assert state.get_node_id_by_public_key(public_key_bytes(KEYS["ann"])) is None
    assert not state.acknowledge_node_heartbeat(node, 30.0)
    assert not let_in(state, "ann")
    assert let_in(state, "bob")
