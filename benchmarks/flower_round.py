"""A round in which nothing is trained, with twenty clients: ours over Flower against Flower's own with empty messages; and an echo through
Flower's messages beside a plain TCP socket. In turn, over one SuperLink with TLS and one SuperNode per client, all on this machine.

Tasks and results are those of `digits`; whoever gets a task answers with the tensors that came. Flower starts a process per message.
"""

import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import conclude, options, spread, table

SIZES = {"0.4 MB": 100_000, "19.4 MB": 4_850_000}
FOREVER = 3600.0
APP = """import sys
sys.path.insert(0, {here!r})
from flower_round import client, server
"""


# --- in processes that Flower starts ------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Flower's apps, made in the processes that need them."""
    if name == "client":
        from flwr.app import Message

        from m2fedsa.federation.client_app import client_app

        client_app.query("bare")(lambda message, _context: Message(message.content, reply_to=message))
        return client_app
    if name == "server":
        from flwr.serverapp import ServerApp

        server = ServerApp()
        server.main()(lead)
        return server
    raise AttributeError(name)


def lead(grid: Any, context: Any) -> None:
    """The fed server: rounds of both kinds in turn, then echoes."""
    from m2fedsa.deploy.drawing import Drawing
    from m2fedsa.deploy.links import issuer_of
    from m2fedsa.deploy.places import FED_SERVER_TOML
    from m2fedsa.deploy.programs import FedServerProgram, read_program
    from m2fedsa.deploy.registry import Registry
    from m2fedsa.fed_server import FedServer
    from m2fedsa.federation.flower import FlowerFederation
    from m2fedsa.federation.superlink import public_key_bytes

    folder = Path(str(context.run_config["folder"]))
    program, registry, drawing = read_program(folder / FED_SERVER_TOML, FedServerProgram), Registry.read(folder), Drawing.read(folder)
    keys = {public_key_bytes(key): name for name, key in registry.admitted().items()}
    federation = FlowerFederation(grid, registry.clients(), keys, program.run, issuer_of(folder, program, registry))
    server = FedServer(drawing.blueprint, federation.clients())
    while len(here := federation.present(server.candidates(), 0)) < int(context.run_config["clients"]):
        time.sleep(0.5)
    plan, tasks = server.begin_round(here)
    nodes = [node.node_id for node in grid.get_nodes() if keys.get(node.public_key) in plan.roster]
    times: dict[str, list[float]] = {"Flower's own": [], "ours": []}
    for _ in range(int(context.run_config["turns"])):
        times["Flower's own"].append(timed(lambda: bare(grid, nodes)))
        times["ours"].append(timed(lambda: answered(federation, tasks)))
    (folder / "times.json").write_text(json.dumps({"rounds": times, "echo": echoes(grid, nodes[0], int(context.run_config["echoes"]))}))


def timed(what: Any) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def bare(grid: Any, nodes: Sequence[int], content: Any = None) -> list[Any]:
    """What any Flower app does in a round."""
    from flwr.app import Message, RecordDict

    messages = [Message(content or RecordDict(), dst_node_id=node, message_type="query.bare") for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=FOREVER))
    assert len(replies) == len(nodes)
    assert not any(reply.has_error() for reply in replies), replies
    return replies


def answered(federation: Any, tasks: Sequence[Any]) -> None:
    from m2fedsa.messages import TrainResult

    results = list(federation.run(tasks))
    assert len(results) == len(tasks)
    assert all(isinstance(result, TrainResult) for result in results), results


def echoes(grid: Any, node: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    import numpy as np
    from flwr.app import Array, ArrayRecord, RecordDict
    from measuring.tcp import Tcp

    found = {}
    with Tcp() as tcp:
        for size, numbers in SIZES.items():
            values = np.random.default_rng(0).standard_normal(numbers, dtype=np.float32)
            content = RecordDict({"x": ArrayRecord({"x": Array(values)})})
            times: dict[str, list[float]] = {"raw TCP": [], "Flower": []}
            for _ in range(repeats):
                times["raw TCP"].append(timed(lambda values=values: tcp.echo(memoryview(values).cast("B"))))
                times["Flower"].append(timed(lambda content=content: bare(grid, [node], content)))
            found[size] = times
    return found


# --- in this process ----------------------------------------------------------------------------------------------------------------


def answer_tasks(place: Path) -> None:
    """A client that trains nothing: it answers a task with the tensors that came with it."""
    from m2fedsa.federation.doorstep import Answer, answer, receive
    from m2fedsa.links import wire
    from m2fedsa.messages import Traffic, TrainResult, TrainTask

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(os.fspath(place))
        door.listen()
        while True:
            connection, _ = door.accept()
            with connection:
                receive(connection)
                task = wire.decode(receive(connection)[1], TrainTask)
                tensors = dict(task.view.tensors)
                result = TrainResult(task.client, tensors, dict.fromkeys(tensors, 1), {}, 1, Traffic())
                answer(connection, Answer("TrainResult", wire.to_bytes(result)))


@contextlib.contextmanager
def parties(directory: Path, clients: int) -> Iterator[Any]:
    """SuperLink and SuperNodes with keys, certificates and clients that train nothing; asks the SuperLink."""
    from m2fedsa.cli import main as m2fedsa
    from m2fedsa.deploy.client import ClientService
    from m2fedsa.deploy.fed_server import FedServerService
    from m2fedsa.deploy.places import CLIENT_TOML, FED_SERVER, FED_SERVER_TOML, client_folders
    from m2fedsa.deploy.processes import adopt_orphans, end
    from m2fedsa.deploy.registry import Registry
    from m2fedsa.federation.superlink import Control

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["deploy", "init", "digits", "--dir", str(directory), "--clients", str(clients), "--superlink", f"127.0.0.1:{port}"]
    assert m2fedsa([*words, "--main-server", "127.0.0.1:9443"]) == 0
    adopt_orphans()
    fed = FedServerService(directory / FED_SERVER / FED_SERVER_TOML)
    training = {one.name for one in Registry.read(directory / FED_SERVER).clients() if one.train}
    services = [ClientService(folder / CLIENT_TOML) for name, folder in client_folders(directory).items() if name in training]
    try:
        fed.superlink.start()
        control = Control(port, fed.authority)
        register(control, directory)
        for service in services:
            threading.Thread(target=answer_tasks, args=(service.socket,), daemon=True).start()
            service.supernode.start()
        yield control
    finally:
        end([service.supernode for service in services] + [fed.superlink])


def register(control: Any, directory: Path) -> None:
    """As soon as the SuperLink listens."""
    from m2fedsa.deploy.places import FED_SERVER
    from m2fedsa.deploy.registry import Registry

    for _ in range(300):
        try:
            control.register(Registry.read(directory / FED_SERVER).admitted())
            return
        except Exception:  # what Flower's client raises has no common root
            time.sleep(0.5)
    raise SystemExit("the SuperLink does not answer")


def measured(clients: int, turns: int, repeats: int) -> dict[str, Any]:
    from m2fedsa.deploy.places import FED_SERVER

    with tempfile.TemporaryDirectory() as folder:
        directory, app = Path(folder) / "d", Path(folder) / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(project())
        (app / "app.py").write_text(APP.format(here=str(Path(__file__).parent.resolve())))
        out = directory / FED_SERVER / "times.json"
        with parties(directory, clients) as control:
            settings = {"folder": out.parent, "clients": clients, "turns": turns, "echoes": repeats}
            run = control.start(app, {name: str(value) for name, value in settings.items()})
            while not out.exists():
                time.sleep(1.0)
                state, words = control.state(run)
                if state == "finished" and not out.exists():
                    raise SystemExit(f"the run ended: {words}")
            control.close()
        return dict(json.loads(out.read_text()))


def project() -> str:
    from m2fedsa.deploy.fed_server import APP as OURS

    return OURS.partition("[tool.flwr.app.config]")[0] + '[tool.flwr.app.config]\nfolder = ""\nclients = ""\nturns = ""\nechoes = ""\n'


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--clients", type=int, default=20)
    given = parser.parse_args(arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    clients, turns, repeats = (2, 1, 1) if given.quick else (given.clients, 4, 3)
    found = measured(clients, turns, repeats)
    print(f"a round without training, {clients} clients, s: median (least … largest) of {turns}\n")
    table(["round", "s"], [[name, spread(seconds).text(digits=1)] for name, seconds in found["rounds"].items()])
    print("\nan echo, ms: median\n")
    rows = [[size, *(f"{1000 * statistics.median(seconds):.2f}" for seconds in times.values())] for size, times in found["echo"].items()]
    table(["size", "raw TCP", "Flower"], rows)
    return conclude({"benchmark": "flower_round", "clients": clients, **found}, given.out)


if __name__ == "__main__":
    main()
