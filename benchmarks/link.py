"""What the link to the main server costs: a step over loopback gRPC and mTLS against one in process, echoes against a raw TCP socket, and
sixteen clients at once against the main server alone.

Two things that are compared are timed in turn within one run. In an echo the other end runs in a process of its own. `nvflare_echo.py` and
`flower_round.py` do the same with NVFlare and Flower.
"""

import contextlib
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from measuring import Spread, conclude, options, ratios, table
from measuring.tcp import Tcp

from m2fedsa import identity
from m2fedsa.assembly import Extensions, assemble, cpu_threads
from m2fedsa.client.batch import without_graph
from m2fedsa.identity import Identity, Token
from m2fedsa.links.admission import Gate
from m2fedsa.links.grpc_client import GrpcLink
from m2fedsa.links.grpc_server import LinkServer
from m2fedsa.links.port import Link
from m2fedsa.links.worker import Worker
from m2fedsa.messages import Activation, ActivationGradients, Activations, Features, Gradients, RoundPlan
from m2fedsa.recipes.digits import digits
from m2fedsa.recipes.paper_shapes import paper_shapes
from m2fedsa.state import nbytes

GOALS = {"step": 1.15, "echo without TLS": 0.5, "echo with TLS": 0.3, "sixteen clients": 0.9}
RUN, HERE = "benchmark", ("localhost", "127.0.0.1")
SIZES = {"0.4 MB": 100_000, "19.4 MB": 4_850_000}
"""float32 numbers of an echo"""


class Keys:
    """An authority and the parties that it knows."""

    def __init__(self) -> None:
        key = identity.new_key()
        self.authority = (key, identity.new_authority(key, RUN))
        self.fed, self.main = self.of("fed-server", "fed server"), self.of("main-server", "main server")

    def of(self, name: str, role: identity.Role = "client") -> Identity:
        """A party with a key of its own."""
        key = identity.new_key()
        hosts = () if role == "client" else HERE
        return Identity(key, identity.certify(self.authority, key.public_key(), name, role, hosts), self.authority[1])

    def token(self, client: str, who: Identity) -> str:
        """What lets a client into round 1."""
        key = identity.fingerprint(who.key.public_key())
        return Token(RUN, client, "train", 1, time.time() + 3600, key).signed(self.fed.key)


# --- echoes -------------------------------------------------------------------------------------------------------------------------


class Echo:
    """A main server that says what it hears, as far as echoes need one."""

    def session(self, client: str, round_number: int) -> "Echo":  # noqa: ARG002  (its place in `Link`)
        """Itself."""
        return self

    def forward(self, activations: Activations) -> Features:
        """What was said."""
        return Features({"x": activations.modalities["x"].hidden}, activations.entering)

    def __exit__(self, *_: object) -> None:
        pass


def serve_echo(keys: Keys | None, ready: Any) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    link = LinkServer(cast(Link, Echo()), Worker(1), None)
    ready.send(link.start("127.0.0.1:0", None if keys is None else keys.main))
    ready.recv()
    link.stop()


@contextlib.contextmanager
def apart(work: Callable[..., None], *given: Any) -> Iterator[int]:
    """A port behind which `work` runs in another process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(*given, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def echo_rates(repeats: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """Seconds of echoes: by size, by way. The servers are forked before this process has a thread of gRPC's."""
    keys = Keys()
    with apart(serve_echo, None) as plain, apart(serve_echo, keys) as tls, Tcp() as tcp:
        links = {"without TLS": GrpcLink(f"localhost:{plain}", None), "with TLS": GrpcLink(f"localhost:{tls}", keys.of("a"))}
        sessions = {name: link.session("a", 1) for name, link in links.items()}
        found: dict[str, dict[str, list[float]]] = {}
        for size, numbers in SIZES.items():
            hidden = torch.randn(1, numbers)
            said = Activations({"x": Activation(hidden, torch.zeros(1, dtype=torch.int64), None, {})}, torch.ones(1, 1, dtype=torch.bool))
            ways: dict[str, Callable[[], object]] = {"raw TCP": lambda hidden=hidden: tcp.echo(memoryview(hidden.numpy()).cast("B"))}
            ways |= {name: lambda one=one, said=said: one.forward(said) for name, one in sessions.items()}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(repeats[size] + 3):
                for name, way in ways.items():
                    began = time.perf_counter()
                    way()
                    if turn >= 3:
                        times[name].append(time.perf_counter() - began)
            found[size] = times
        for link in links.values():
            link.close()
    return found


# --- steps --------------------------------------------------------------------------------------------------------------------------


class Laps:
    """A client's steps, timed, with one kind of session."""

    def __init__(self, link: Link, client: str, said: Sequence[Activations]) -> None:
        self.session = link.session(client, 1)
        self.said, self.seconds = said, list[float]()

    def step(self, number: int) -> ActivationGradients:
        """One step, timed."""
        began = time.perf_counter()
        features = self.session.forward(self.said[number % len(self.said)])
        answer = self.session.backward(Gradients({name: 1e-3 * z for name, z in features.pooled.items()}, 1e-3 * features.fused))
        self.seconds.append(time.perf_counter() - began)
        return answer


def at_once(laps: Sequence[Laps]) -> None:
    """A step of every client, each in a thread of its own."""
    threads = [threading.Thread(target=one.step, args=(0,)) for one in laps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measured(quick: bool, steps: int, clients: int, turns: int) -> dict[str, Any]:
    """A step in turn over both links; then a step of all clients at once and as many steps in process, in turn."""
    settings = digits(clients=2) if quick else paper_shapes(clients=2)
    changes = ["federation.batch_size=8", "data.multimodal_fraction=1.0", "compute.threads=1"]
    if not quick:
        changes.append("data.options.samples_per_client=8")
    who = assemble(settings.override(changes), Extensions())
    names = [f"client {number}" for number in range(clients)]
    first = next(iter(who.data.clients))
    host, keys = who.coordination, Keys()
    modalities = who.blueprint.modalities
    host.begin(RoundPlan(1, "fusion", 1, dict.fromkeys(["in process", "over gRPC", *names], modalities), 1e-4, (0.6, 0.2, 0.2)))
    said = [recorded(who, first)]
    worker = Worker(1)
    server = LinkServer(host, worker, Gate(RUN, keys.fed.key.public_key()))
    port = server.start("127.0.0.1:0", keys.main)
    links = {}
    for name in ("over gRPC", *names):
        me = keys.of(name)
        links[name] = GrpcLink(f"localhost:{port}", me)
        links[name].token = keys.token(name, me)
    here = Laps(Direct(host, worker), "in process", said)
    there = Laps(links["over gRPC"], "over gRPC", said)
    for number in range(steps + 1):
        for one in (here, there):
            one.step(number)
    compared = [times[1 : steps + 1] for times in (here.seconds, there.seconds)]
    laps = [Laps(links[name], name, said) for name in names]
    alone, together = list[float](), list[float]()
    kinds = ((alone, lambda: [here.step(number) for number in range(clients)]), (together, lambda: at_once(laps)))
    for turn in range(turns):
        for times, work in kinds if turn % 2 else reversed(kinds):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    for link in links.values():
        link.close()
    server.stop()
    return {
        "step": ratios(compared[1], compared[0])._asdict(),
        "in process, s": statistics.median(compared[0]),
        "over gRPC, s": statistics.median(compared[1]),
        "at once": ratios(alone, together)._asdict(),
        "bytes": nbytes(said[0].tensors),
    }


class Direct:
    """The main server's own sessions, computed by the same worker."""

    def __init__(self, host: Any, worker: Worker) -> None:
        self.host, self.worker = host, worker

    def session(self, client: str, round_number: int) -> Any:
        """A session without a network."""
        inner = self.worker.do(client, lambda: self.host.session(client, round_number))
        worker = self.worker

        class Session:
            def forward(self, said: Activations) -> Features:
                return worker.do(client, lambda: inner.forward(said))

            def backward(self, said: Gradients) -> ActivationGradients:
                return worker.do(client, lambda: inner.backward(said))

        return Session()


def recorded(who: Any, client: str) -> Activations:
    """What a client sends for its samples, once."""
    from m2fedsa.blueprint import client_parts, initial_client_tensors
    from m2fedsa.client.batch import Branches
    from m2fedsa.client.kept import KeptOutputs

    data = who.data.clients[client]
    parts = client_parts(who.blueprint, data.modalities)
    parts.load(initial_client_tensors(who.blueprint))
    branches = Branches(data.train, "train", who.shared.heads, KeptOutputs(), parts)
    rows = torch.arange(len(data.train.labels))[:8]
    return without_graph(branches.encode(rows, branches.presence(rows)))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, help="timed steps a link (8)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--turns", type=int, help="timed steps of all clients at once (3)")
    given = parser.parse_args(arguments)
    repeats = dict(zip(SIZES, (10, 3) if given.quick else (200, 30), strict=True))
    with cpu_threads(1):
        echoes = echo_rates(repeats)
        rows, record = [], {}
        for size, times in echoes.items():
            middle = {name: statistics.median(seconds) for name, seconds in times.items()}
            record[size] = {name: middle["raw TCP"] / seconds for name, seconds in middle.items()}
            rows.append([size, *(f"{1000 * seconds:.2f} ms ({record[size][name]:.2f})" for name, seconds in middle.items())])
        print("an echo: median (rate relative to raw TCP)\n")
        table(["size", "raw TCP", "our link, no TLS", "our link, mTLS"], rows)
        clients = 2 if given.quick else given.clients
        steps = measured(given.quick, given.steps or (1 if given.quick else 8), clients, given.turns or (1 if given.quick else 3))
    where = f"{'digits' if given.quick else 'paper_shapes'}, batch 8, {steps['bytes'] / 1e6:.1f} MB up"
    print(
        f"\na step at {where}: in process {steps['in process, s']:.2f} s, over gRPC with mTLS {steps['over gRPC, s']:.2f} s; "
        f"ratios {Spread(**steps['step']).text(digits=3)} (goal: at most {GOALS['step']})"
        f"\n{clients} clients at once, relative to the main server alone: {Spread(**steps['at once']).text(digits=3)} "
        f"(goal: {GOALS['sixteen clients']})"
    )
    return conclude({"benchmark": "link", "echo": record, "steps": steps, "goals": GOALS}, given.out)


if __name__ == "__main__":
    main()
