"""The main server's program as a process, started from its folder; the test is its fed server and its clients, with their keys."""

import http.client
import json
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration import small
from tests.integration.deployments import PROGRAM, free_port, m2fedsa

from m2fedsa.assembly import cpu_threads
from m2fedsa.cli import main
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.links import coordination_of, issuer_of, link_of
from m2fedsa.deploy.places import client_folders
from m2fedsa.deploy.programs import ClientProgram, FedServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.deploy.setup import Addresses, set_up
from m2fedsa.deploy.site import client_of
from m2fedsa.errors import StorageError
from m2fedsa.fed_server import FedServer

SMALL_FILE = 4096
"""Bytes that a file may have on a disk that is all but full; a checkpoint has more."""


def set_up_in(directory, **settings):
    config = small.config(small.save_encoders(directory / "encoders"), federation__warm_start="false", **settings)
    set_up(config, directory / "deployment", Addresses.of(f"localhost:{free_port()}", f"localhost:{free_port()}"))
    return directory / "deployment"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return set_up_in(tmp_path_factory.mktemp("deploy"))


@pytest.fixture
def deployment(made, tmp_path):
    return shutil.copytree(made, tmp_path / "deployment")


class Running:
    """A main server, seen from outside."""

    def __init__(self, directory, process, metrics):
        self.directory, self.process, self._metrics = directory, process, metrics
        self.state = directory / "main-server" / "state"

    def ask(self, path):
        """Status and text of an answer over HTTP; None while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return None
        finally:
            connection.close()

    def health(self):
        status, text = self.ask("/health")
        return status, json.loads(text)

    def figures(self):
        status, text = self.ask("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}

    def wait(self, until, seconds=120.0):
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.state
            assert self.process.poll() is None, self.state
            time.sleep(0.1)

    def kept(self):
        """Checkpoints, and what is in force."""
        return {path.name: path.read_bytes() for path in [*self.state.glob("checkpoint/round-*"), *self.state.glob("in_force.json")]}

    def events(self):
        return [json.loads(line)["event"] for line in (self.state / "log.jsonl").read_text().splitlines()]


@contextmanager
def running(directory, **program):
    """Started from its TOML with these keys in it; killed at the end, if it is still there."""
    path, metrics = directory / "main-server" / "main-server.toml", free_port()
    keys = {"metrics": metrics, **program}
    kept = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in keys]
    path.write_text("\n".join([*kept, *(f"{key} = {value}" for key, value in keys.items())]) + "\n")
    process = subprocess.Popen([*PROGRAM, "main-server", path], env=small.ONE_THREAD)
    server = Running(directory, process, metrics)
    try:
        server.wait(lambda: server.ask("/health") is not None)
        yield server
    finally:
        process.kill()
        process.wait()


class Others:
    """Fed server and clients, from their folders, in this process."""

    def __init__(self, directory):
        fed = directory / "fed-server"
        program, registry, drawing = read_program(fed / "fed-server.toml", FedServerProgram), Registry.read(fed), Drawing.read(fed)
        self.server = FedServer(drawing.blueprint, registry.clients())
        self.issue = issuer_of(fed, program, registry)
        self.coordination = coordination_of(fed, program.model_copy(update={"patience": 60.0}))
        self.links, self.clients = {}, {}
        for name, folder in client_folders(directory).items():
            own = read_program(folder / "client.toml", ClientProgram)
            self.links[name] = link_of(folder, own)
            self.clients[name] = client_of(folder, name, tuple(own.modalities), self.links[name])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.coordination.close()
        for link in self.links.values():
            link.close()

    def train(self):
        """Begin the next round, and have its clients do their parts."""
        plan, tasks = self.server.begin_round()
        self.coordination.begin(plan)
        results = []
        with cpu_threads(1):
            for task in tasks:
                self.links[task.client].token = self.issue(task.client, "train", plan.number)
                results.append(self.clients[task.client].perform(task))
        return plan, results

    def settle(self, plan, results):
        averaged = self.coordination.end(self.server.accept(plan, results))
        self.server.end_round(plan, results)
        self.coordination.commit(plan.number)
        return averaged


def test_it_tells_how_it_is_and_ends_when_its_round_has(deployment):
    """`/metrics` and `/health` while a round goes on; told to stop, it lets that round commit, begins no other, and ends with status 0."""
    with running(deployment, drain=60.0) as server, Others(deployment) as others:
        assert server.health() == (
            200, {"status": "serving", "run": "small", "round": 0, "begun": None, "prepared": None, "streams": 0},
        )  # fmt: skip
        plan, results = others.train()
        steps = sum(result.steps for result in results)
        found = server.figures()
        assert found["m2fedsa_computations_total", "forward"] == found["m2fedsa_computations_total", "backward"] == steps > 0
        assert found["m2fedsa_streams_opened_total", "train"] == len(results)
        assert found["m2fedsa_streams_ended_total", "in order", "train"] == len(results)
        assert found["m2fedsa_batch_samples_count", "forward"] == steps
        assert found["m2fedsa_batch_samples_sum", "forward"] > steps
        assert found["m2fedsa_bytes_total", "up"] > sum(result.traffic.up for result in results) > 0
        assert found["m2fedsa_bytes_total", "down"] > sum(result.traffic.down for result in results) > 0
        assert found["m2fedsa_queue",] == found["m2fedsa_streams",] == found["m2fedsa_draining",] == 0
        assert found["m2fedsa_resident_bytes",] > 1e8
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: server.health()[0] == 503)
        assert server.health()[1] == {"status": "draining", "run": "small", "round": 0, "begun": 1, "prepared": None, "streams": 0}
        others.settle(plan, results)
        assert server.process.wait(120) == 0
        assert json.loads((server.state / "in_force.json").read_text())["round"] == 1
        assert server.events()[-1] == "stopped"


def test_numbers_travel_as_the_settings_say(tmp_path):
    """Eight bits up, sixteen down: what is counted is what travels but for headers. With 32 bits it would be more than that."""
    directory = set_up_in(tmp_path, wire__up='"int8"', wire__down='"bfloat16"')
    with running(directory) as server, Others(directory) as others:
        plan, results = others.train()
        found = server.figures()
        for way in ("up", "down"):
            counted = sum(getattr(result.traffic, way) for result in results)
            headers = 450 * sum(2 * result.steps + 2 for result in results)
            assert 0 < counted < found["m2fedsa_bytes_total", way] < counted + headers
        others.settle(plan, results)


def test_a_full_disk_and_a_round_that_does_not_end(deployment):
    """The disk refuses round 2: what was written stays, the error says what is lost, and with room the same round commits. Then it is
    told to stop within round 3, which does not end: it waits `drain` seconds; its next process begins round 3 again."""
    with running(deployment, drain=1.0) as server, Others(deployment) as others:
        others.settle(*others.train())
        before = server.kept()
        assert set(before) == {"round-000001.safetensors", "in_force.json"}
        own = psutil.Process(server.process.pid)
        _, hard = own.rlimit(psutil.RLIMIT_FSIZE)
        own.rlimit(psutil.RLIMIT_FSIZE, (SMALL_FILE, hard))
        plan, results = others.train()
        with pytest.raises(StorageError, match=r"round-000002.safetensors: cannot be written: .*Nothing written earlier is lost"):
            others.settle(plan, results)
        assert server.kept() == before
        assert server.health()[1]["round"] == 1
        own.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        expected = others.settle(plan, results)
        assert server.kept().keys() == {"round-000002.safetensors", "in_force.json"}
        plan, _ = others.server.begin_round()
        others.coordination.begin(plan)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
        with running(deployment) as again:
            assert again.health()[1] == {"status": "serving", "run": "small", "round": 2, "begun": None, "prepared": None, "streams": 0}
            assert others.coordination.fingerprints() == expected.prints
            others.coordination.begin(plan)
            assert again.health()[1]["begun"] == 3


def refused(directory, capsys):
    """What the program says of its folder; it does not start."""
    assert main(["main-server", str(directory / "main-server" / "main-server.toml")]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_key_that_others_may_read_is_refused(deployment):
    key = deployment / "main-server" / "keys" / "main-server.key"
    key.chmod(0o640)
    done = m2fedsa("main-server", deployment / "main-server" / "main-server.toml", timeout=120)
    assert done.returncode == 2
    assert " ".join(done.stderr.split()) == f"error: {key}: others than its owner may read it (mode 0640). Run: chmod 600 {key}"


def test_a_fed_server_on_a_full_disk_says_so_before_it_starts(deployment):
    """Nothing was begun, and nothing that lies there has changed."""
    folder = deployment / "fed-server"
    before = small.files(folder)
    words = ["bash", "-c", 'ulimit -f 8; exec "$0" "$@"', *PROGRAM, "fed-server", str(folder / "fed-server.toml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=small.ONE_THREAD)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"{folder}/state/room: cannot be written: File too large. Nothing written earlier is lost. Make room;" in said
    assert {name: content for name, content in small.files(folder).items() if name != "state/lock"} == before


def test_a_tail_that_is_not_the_one_is_refused(deployment, capsys):
    """One byte of it is another; and it is whole, but of another encoder than the heads."""
    folder = deployment / "main-server" / "tails" / "image"
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert str(folder) in (said := refused(deployment, capsys))
    assert "SHA-256" in said
    weights.write_bytes(content)
    blueprint = deployment / "main-server" / "blueprint.json"
    values = json.loads(blueprint.read_text())
    values["slices"]["image"]["digest"] = "0" * 64
    blueprint.write_text(json.dumps(values))
    assert "is the tail of another encoder" in (said := refused(deployment, capsys))
    assert "Copy the main server's folder again." in said


def test_a_folder_of_another_version_is_refused(deployment, capsys):
    blueprint = deployment / "main-server" / "blueprint.json"
    blueprint.write_text(json.dumps({**json.loads(blueprint.read_text()), "format": 2}))
    said = refused(deployment, capsys)
    assert "blueprint.json: has format 2, but this version of m2fedsa reads format 1. Install the version that wrote it" in said
