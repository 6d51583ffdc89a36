"""`m2fedsa main-server`: the tails behind two addresses, one for clients and one for the fed server."""

import signal
import threading
from pathlib import Path

from m2fedsa.assembly import cpu_threads
from m2fedsa.coordination.grpc_server import CoordinationServer, Steward
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.keys import FED_SERVER_KEYS, MAIN_SERVER_KEYS, REVOKED, identity_of
from m2fedsa.deploy.places import KEYS
from m2fedsa.deploy.programs import MainServerProgram, read_program
from m2fedsa.deploy.trunk import main_server_of
from m2fedsa.identity import Revoked, fingerprint, public_key, read_certificate
from m2fedsa.links.grpc_server import Gate, LinkServer
from m2fedsa.links.worker import Worker


def serve_main(path: Path) -> None:
    """Serve until told to stop. `path`: main-server.toml; `InputError` if something in its folder is not as it must be."""
    folder = path.resolve().parent
    program = read_program(path, MainServerProgram)
    identity = identity_of(folder, MAIN_SERVER_KEYS)
    fed = public_key(read_certificate(folder / KEYS / f"{FED_SERVER_KEYS}.pem"))
    drawing = Drawing.read(folder)
    threads = drawing.blueprint.config.compute.threads
    with cpu_threads(threads):
        server = main_server_of(folder, drawing)
    worker = Worker(threads)
    revoked = Revoked(folder / KEYS / REVOKED)
    steward = Steward(program.run, fingerprint(fed), {name: one["digest"] for name, one in drawing.slices.items()}, revoked)
    coordination = CoordinationServer(server, worker, steward)
    link = LinkServer(server, worker, Gate(program.run, fed, revoked))
    coordination.start(f"{program.listen}:{program.coordination}", identity)
    link.start(f"{program.listen}:{program.port}", identity)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    link.stop(1)
    coordination.stop(1)
