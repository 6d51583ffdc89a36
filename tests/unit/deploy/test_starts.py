"""How programs start, and start again: what is wrong in a folder is told before anything runs, and what ends unseen is noticed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from tests.integration import small

from m2fedsa.checkpoint import MANIFEST, Manifest
from m2fedsa.cli import BAD_INPUT, main
from m2fedsa.deploy import client as clients
from m2fedsa.deploy import fed_server
from m2fedsa.deploy.client import ClientService
from m2fedsa.deploy.fed_server import MOST_STARTS, FedServerService
from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.lead import OUTCOME
from m2fedsa.deploy.processes import Child, has_child
from m2fedsa.deploy.setup import Addresses, set_up
from m2fedsa.errors import DataError, IdentityError, InputError, M2FedSAError, RunError, StorageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("deploy") / "deployment"
    settings = small.config(small.save_encoders(tmp_path_factory.mktemp("encoders")))
    set_up(settings, directory, Addresses.of("localhost:19092", "localhost:19443"))
    return directory


@pytest.fixture
def deployment(made, tmp_path):
    return shutil.copytree(made, tmp_path / "deployment")


@pytest.fixture
def nothing_starts(monkeypatch):
    """No child is started, no door opened, no descendant of the tests ended; the names of children that would have been started."""
    started = []

    def start(self):
        started.append(self.name)
        raise AssertionError(self.name)

    monkeypatch.setattr(Child, "start", start)
    monkeypatch.setattr(clients, "_door", lambda _: pytest.fail("it listens"))
    for module in (clients, fed_server):
        monkeypatch.setattr(module, "adopt_orphans", lambda: None)
        monkeypatch.setattr(module, "end", lambda _: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield started
    for number, handler in before.items():
        signal.signal(number, handler)


class Clock:
    """Time passes by sleeping alone, and is over at some time."""

    def __init__(self, end=1e9):
        self.now, self.end = 0.0, end

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= self.end:
            raise TimeoutError


# --- what is wrong in a folder ------------------------------------------------------------------------------------------------------


def altered(path):
    path.write_bytes(path.read_bytes()[:-3] + b"[")


def replaced(path, by):
    path.write_bytes(path.with_name(by).read_bytes())


def of_another_format(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


def without_keys(path):
    values = json.loads(path.read_text())
    values["clients"]["client-00"]["key"] = "ssh-rsa nonsense"
    path.write_text(json.dumps(values))


def manifest(path, round_number=3, end="}"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Manifest(round_number, "f" * 64, None, "d" * 64).write(path.parent)
    path.write_text(path.read_text().rstrip("}") + end)


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("config.toml", altered, "config.toml"),
        ("blueprint.json", altered, "blueprint.json: cannot be read"),
        ("blueprint.json", of_another_format, "has format 99"),
        ("registry.json", altered, "registry.json: cannot be read"),
        ("registry.json", without_keys, "'ssh-rsa nonsense' is no public key"),
        ("keys/superlink.pem", lambda path: replaced(path, "fed-server.pem"), "superlink.pem: is the certificate of another key"),
        ("keys/fed-server.pem", lambda path: replaced(path, "superlink.pem"), "fed-server.pem: is the certificate of another key"),
        ("keys/ca.pem", lambda path: replaced(path, "superlink.pem"), "was not issued by"),
        ("run/checkpoint/manifest.json", lambda path: manifest(path, end=""), "manifest.json: was altered"),
    ],
)
def test_a_fed_server_tells_what_is_wrong_in_its_folder_before_it_listens(deployment, nothing_starts, capsys, file, spoil, said):
    folder = deployment / "fed-server"
    spoil(folder / file)
    assert main(["fed-server", str(folder / "fed-server.toml")]) == BAD_INPUT
    assert said in capsys.readouterr().err
    assert nothing_starts == []


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("blueprint.json", of_another_format, "has format 99"),
        ("heads/image", shutil.rmtree, "image"),
        ("data", shutil.rmtree, "holds no samples"),
        ("keys/client.pem", lambda path: replaced(path, "ca.pem"), "client.pem: is the certificate of another key"),
    ],
)
def test_a_client_tells_what_is_wrong_in_its_folder_before_its_supernode_starts(
    deployment, nothing_starts, monkeypatch, capsys, file, spoil, said
):
    """There is a SuperLink that it could reach."""
    monkeypatch.setattr(clients, "is_open", lambda *_: True)
    folder = deployment / "clients" / "client-00"
    spoil(folder / file)
    assert main(["client", str(folder / "client.toml")]) == BAD_INPUT
    assert said in capsys.readouterr().err
    assert nothing_starts == []


# --- the fed server -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(deployment, nothing_starts):
    return FedServerService(deployment / "fed-server" / "fed-server.toml")


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("DataError", DataError), ("IdentityError", IdentityError), ("InputError", InputError), ("StorageError", RunError),
        ("DivergedError", RunError), ("SomethingElse", RunError),
    ],
)  # fmt: skip
def test_what_the_serverapp_told_keeps_its_kind(service, monkeypatch, kind, raised):
    """Whoever begins the program again and again then leaves it where a person has to mend something."""
    monkeypatch.setattr(service, "_once", lambda: {"status": "failed", "kind": kind, "message": "what is wrong"})
    with pytest.raises(M2FedSAError, match="what is wrong") as found:
        service.through()
    assert type(found.value) is raised


def crashing(service, monkeypatch, rounds):
    """Each start commits up to a round and crashes; how many starts there were."""
    starts = []

    def once():
        number = rounds[min(len(starts), len(rounds) - 1)]
        starts.append(number)
        if number is not None:
            manifest(service.folder / "run" / "checkpoint" / MANIFEST, number)

    monkeypatch.setattr(service, "_once", once)
    with pytest.raises(RunError, match=f"begun {MOST_STARTS} times and crashed each time before a round was done"):
        service.through()
    return len(starts)


def test_a_run_that_never_gets_on_is_given_up(service, monkeypatch):
    assert crashing(service, monkeypatch, [None]) == MOST_STARTS


def test_starts_count_from_the_last_round_that_was_done(service, monkeypatch):
    """A long run may crash now and then, as long as it gets on."""
    rounds = [number // 2 for number in range(3 * MOST_STARTS)]
    assert crashing(service, monkeypatch, rounds) == len(rounds) - 2 + MOST_STARTS


class Asked:
    """A SuperLink that says this of the run from these times on."""

    def __init__(self, clock, states):
        self.clock, self.states = clock, states

    def state(self, _run):
        return [state for start, state in self.states if start <= self.clock.now][-1], "so it is"


def watched(service, monkeypatch, states, end=3600.0):
    clock = Clock(end)
    monkeypatch.setattr(fed_server, "time", clock)
    return service._watch(Asked(clock, states), 1), clock


def test_a_run_that_no_serverapp_takes_up_is_begun_again(service, monkeypatch):
    """As when the process that starts ServerApps was killed: the SuperLink keeps the run, and it waits for ever."""
    outcome, clock = watched(service, monkeypatch, [(0, "waiting")])
    assert outcome is None
    assert fed_server._PATIENCE < clock.now < fed_server._PATIENCE + 5
    (entry,) = map(json.loads, (service.state / "log.jsonl").read_text().splitlines())
    assert (entry["event"], entry["what"], entry["reason"]) == ("crashed", "run", "no ServerApp started within 180 seconds")


def test_a_run_that_was_taken_up_has_all_the_time_it_needs(service, monkeypatch):
    with pytest.raises(TimeoutError):
        watched(service, monkeypatch, [(0, "waiting"), (170, "running")])
    monkeypatch.setattr(Asked, "state", lambda self, _: _write(service) or ("running", ""))
    assert watched(service, monkeypatch, [])[0] == {"status": "done"}


def _write(service):
    (service.state / OUTCOME).parent.mkdir(exist_ok=True)
    (service.state / OUTCOME).write_text('{"status": "done"}')


def test_a_full_disk_is_no_input(service, monkeypatch):
    """`StorageError` of the start itself stays what it is: there is nothing wrong in the folder."""

    def once():
        raise StorageError("no room")

    monkeypatch.setattr(service, "_once", once)
    with pytest.raises(StorageError):
        service.through()


# --- a SuperNode and what it starts -------------------------------------------------------------------------------------------------


class Node:
    """A SuperNode. `missing`: start -> spans of time after it in which it has no superexec."""

    def __init__(self, clock, missing):
        self.clock, self.missing, self.began, self.process, self.status = clock, missing, [], None, None

    def start(self):
        self.began.append(self.clock.now)
        self.process, self.status = SimpleNamespace(pid=len(self.began)), None

    def has_child(self, pid, program):
        assert (pid, program) == (len(self.began), "flower-superexec")
        since = self.clock.now - self.began[-1]
        return not any(start <= since < end for start, end in self.missing.get(pid, [(0, 3)]))


def tended(deployment, monkeypatch, missing, end=1000.0):
    """When a SuperNode was started, and what was said to have crashed."""
    service = ClientService(deployment / "clients" / "client-00" / "client.toml")
    clock = Clock(end)
    service.supernode = node = Node(clock, missing)
    service.journal = Journal(deployment / "told", "ann", "run")
    monkeypatch.setattr(clients, "time", clock)
    monkeypatch.setattr(clients, "is_open", lambda *_: True)
    monkeypatch.setattr(clients, "reap", lambda: None)
    monkeypatch.setattr(clients, "has_child", node.has_child)
    monkeypatch.setattr(clients, "end", lambda ended: [setattr(one, "status", 0) for one in ended])
    with pytest.raises(TimeoutError):
        service._tend()
    told = (deployment / "told").read_text().splitlines() if (deployment / "told").exists() else []
    return node.began, [json.loads(line)["what"] for line in told]


def test_a_supernode_without_its_superexec_is_begun_again(deployment, monkeypatch):
    """Its messages would stay where they are, for ever."""
    began, told = tended(deployment, monkeypatch, {1: [(0, 10), (100, 1e9)]})
    assert told == ["flower-superexec", "supernode"]
    first, second = began
    assert first == 0
    assert 100 + clients._MISSING < second < 100 + clients._MISSING + clients._AGAIN + 3


def test_one_that_is_slow_to_start_or_out_of_sight_for_a_moment_goes_on(deployment, monkeypatch):
    assert tended(deployment, monkeypatch, {1: [(0, 150), (300, 303), (500, 504)]}) == ([0], [])


def test_one_that_never_gets_a_superexec_is_begun_again(deployment, monkeypatch):
    began, _ = tended(deployment, monkeypatch, {1: [(0, 1e9)]})
    assert len(began) == 2
    assert clients._FIRST < began[1] < clients._FIRST + clients._AGAIN + 3


def test_a_child_that_was_killed_is_none(tmp_path):
    """Also as a zombie, of which its parent has not taken leave; and the child of another is none of its own."""
    program = tmp_path / "flower-superexec"
    program.write_text("import time\ntime.sleep(60)\n")
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, {str(program)!r}])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read(1)\n"
        "child.kill()\n"
        "sys.stdin.read(1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        started.stdout.readline()
        until = time.monotonic() + 20
        while not has_child(started.pid, "flower-superexec") and time.monotonic() < until:
            time.sleep(0.02)
        assert has_child(started.pid, "flower-superexec")
        assert not has_child(started.pid, "flower-super")
        started.stdin.write(b"x")
        started.stdin.flush()
        while has_child(started.pid, "flower-superexec"):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert started.poll() is None
        started.stdin.write(b"x")
    assert not has_child(started.pid, "flower-superexec")
