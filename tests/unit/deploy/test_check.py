"""`m2fedsa deploy check`: each thing that can be wrong is found where it is, with what to mend. The servers it calls are the real ones."""

import json
import shutil
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from tests.integration import small
from tests.integration.deployments import free_port

from m2fedsa.cli import main
from m2fedsa.deploy import check as checking
from m2fedsa.deploy.check import check
from m2fedsa.deploy.keys import MAIN_SERVER_KEYS, Authority, identity_of
from m2fedsa.deploy.main_server import MainServerService
from m2fedsa.deploy.setup import Addresses, set_up


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A deployment with its main server and something with the SuperLink's certificate behind their addresses."""
    directory = tmp_path_factory.mktemp("deploy") / "deployment"
    link = free_port()
    settings = small.config(small.save_encoders(tmp_path_factory.mktemp("encoders")))
    set_up(settings, directory, Addresses.of(f"localhost:{link}", f"localhost:{free_port()}"))
    service = MainServerService(directory / "main-server" / "main-server.toml")
    identity = identity_of(service.folder, MAIN_SERVER_KEYS)
    service.coordination.start(f"127.0.0.1:{service.program.coordination}", identity)
    service.link.start(f"127.0.0.1:{service.program.port}", identity)
    with tls(link, directory / "fed-server" / "keys" / "superlink"):
        yield directory, service
    service.link.stop()
    service.coordination.stop()
    service._worker.close()


@contextmanager
def tls(port, pair):
    """Something that shows a certificate, and says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.with_suffix(".pem"), pair.with_suffix(".key"))
    with socket.create_server(("127.0.0.1", port)) as door:

        def greet():
            while True:
                try:
                    plain, _ = door.accept()
                except OSError:
                    return
                with plain, suppress(OSError):
                    context.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def deployment(made, tmp_path):
    directory = shutil.copytree(made[0], tmp_path / "deployment")
    for path in directory.rglob("state"):
        shutil.rmtree(path)
    return directory


@pytest.fixture
def service(made):
    return made[1]


@pytest.fixture
def client(deployment):
    return deployment / "clients" / "client-00"


def wrong(folder, **how):
    """What is to be mended, and how."""
    return [(one.place, one.what, one.mend) for one in check(folder, **how) if one.mend is not None]


def only(found):
    assert len(found) == 1, found
    return found[0]


def test_all_is_well(deployment, capsys):
    assert wrong(deployment) == []
    assert main(["deploy", "check", str(deployment / "fed-server")]) == 0
    said = capsys.readouterr().out
    assert "same version, same encoders, clocks 0." in said
    assert "there, with a certificate of this deployment" in said
    assert said.endswith("All is well.\n")


def test_a_key_that_others_may_read(client, capsys):
    key = client / "keys" / "client.key"
    key.chmod(0o644)
    place, what, mend = only(wrong(client))
    assert place == str(client)
    assert what == f"{key}: others than its owner may read it (mode 0644)"
    assert mend == f"Run: chmod 600 {key}"
    assert main(["deploy", "check", str(client), "--no-network"]) == 1
    assert capsys.readouterr().out.endswith("1 thing to mend.\n")


def test_a_key_of_another_party(deployment, client):
    shutil.copy(deployment / "clients" / "client-01" / "keys" / "client.key", client / "keys" / "client.key")
    _, what, mend = only(wrong(client))
    assert "client.pem: is the certificate of another key than" in what
    assert mend == "Copy both from the same party's folder."


def test_a_certificate_of_another_deployment(client, tmp_path):
    Authority.new(tmp_path / "another", "another")
    shutil.copy(tmp_path / "another" / "ca.pem", client / "keys" / "ca.pem")
    _, what, mend = only(wrong(client))
    assert "client.pem: was not issued by" in what
    assert mend == "Copy both from the same deployment."


def test_a_certificate_that_ends_soon(client, monkeypatch):
    monkeypatch.setattr(checking, "_SOON", 10_000)
    _, what, mend = only(wrong(client, reach=False))
    assert what.startswith("the certificate of client-00 ends in ")
    assert mend == "Have the authority issue a new one."


def test_a_client_that_the_registry_does_not_know(deployment, client):
    """Its folder is of another `deploy init`, or under another name."""
    shutil.copytree(client, deployment / "clients" / "client-77")
    shutil.copy(deployment / "clients" / "client-01" / "keys" / "client.pem", client / "keys" / "client.pem")
    found = wrong(deployment / "fed-server", reach=False)
    assert [place.rpartition("/")[2] for place, _, _ in found] == ["client-00", "client-77"]
    assert {mend for _, _, mend in found} == {"Run `m2fedsa deploy init` into a new directory."}


@pytest.mark.parametrize("party", ["fed-server", "clients/client-00"])
def test_servers_that_cannot_be_reached(deployment, party, monkeypatch):
    """Both are told, not the first alone."""
    monkeypatch.setattr(checking, "_PATIENCE", 0.5)
    for path in deployment.rglob("*.toml"):
        text = path.read_text()
        for line in {line for line in text.splitlines() if line.startswith("port = ")}:
            text = text.replace(line, f"port = {free_port()}")
        path.write_text(text)
    main_server, superlink = wrong(deployment / party)
    assert main_server[1].startswith("the main server at localhost:")
    assert "cannot be reached" in main_server[1]
    assert main_server[2].startswith("Start `m2fedsa main-server`, or open the way to it (clients only dial out)")
    assert "the SuperLink at localhost:" in superlink[1]
    assert superlink[2] == "Start `m2fedsa fed-server`, or open the way to it (clients only dial out)."


def test_a_superlink_of_another_deployment(deployment, client, tmp_path):
    """Or any other server there, with a certificate that our authority has not signed."""
    folder = tmp_path / "another"
    Authority.new(folder / "authority", "another")._pair(folder, "superlink", "superlink", "fed server", ("localhost", "127.0.0.1"))
    port = free_port()
    text = (client / "client.toml").read_text()
    head, _, rest = text.partition("[superlink]")
    own, table, other = rest.partition("[main_server]")
    own = "\n".join(f"port = {port}" if line.startswith("port") else line for line in own.splitlines())
    (client / "client.toml").write_text(f"{head}[superlink]{own}\n{table}{other}")
    with tls(port, folder / "keys" / "superlink"):
        _, what, mend = only(wrong(client))
    assert what.startswith(f"the server at localhost:{port} is not this deployment's SuperLink")
    assert mend == "Look at the address."


@pytest.mark.parametrize("party", ["fed-server", "clients/client-00"])
class TestWhatTheMainServerSays:
    def test_another_version(self, deployment, party, monkeypatch):
        monkeypatch.setattr(checking, "version", lambda name: {"m2fedsa": "9.9", "flwr": checking.FLWR}[name])
        _, what, mend = only(wrong(deployment / party))
        assert what.startswith("the main server has m2fedsa ")
        assert what.endswith(", here is 9.9")
        assert mend == "Install the same version on both."

    def test_another_clock(self, deployment, party, monkeypatch):
        monkeypatch.setattr(checking, "time", SimpleNamespace(time=lambda: time.time() + 300))
        _, what, mend = only(wrong(deployment / party))
        assert what == "the clocks differ by -300 seconds: tokens would count as expired"
        assert mend == "Set both clocks (NTP)."

    def test_tails_of_another_source(self, deployment, party, service, monkeypatch):
        monkeypatch.setitem(service.steward.slices, "text", "0" * 64)
        _, what, mend = only(wrong(deployment / party))
        assert what == "the main server's tail of text is of another encoder than the head here"
        assert mend == "Use one deployment's folders."

    def test_another_run(self, deployment, party, service, monkeypatch):
        monkeypatch.setattr(service.steward, "run", "another")
        _, what, _ = only(wrong(deployment / party))
        assert "another" in what
        assert "small" in what


def test_heads_that_are_not_those(client):
    head = client / "heads" / "text" / "model.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"\xff")
    place, what, mend = only(wrong(client))
    assert place == str(head)
    assert what.startswith("is not the head of this deployment")
    assert mend == "Copy the folder again."
    head.unlink()
    assert only(wrong(client))[1] == "cannot be read: No such file or directory"


@pytest.mark.parametrize("found", ["1.40.0", None])
def test_another_flower(client, monkeypatch, found):
    def version(name):
        if name != "flwr":
            return "0.1.0"
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(checking, "version", version)
    _, what, mend = only(wrong(client, reach=False))
    assert what == f"flwr {found or 'none'} is installed, but {checking.FLWR} is needed"
    assert mend == "Install m2fedsa with its extra: pip install 'm2fedsa[deploy]'"


def test_a_folder_of_another_format_or_a_program_that_is_broken(client):
    blueprint = client / "blueprint.json"
    blueprint.write_text(json.dumps({**json.loads(blueprint.read_text()), "format": 99}))
    _, what, mend = only(wrong(client))
    assert "has format 99" in what
    assert mend.startswith("Install the version that wrote it")
    (client / "client.toml").write_text("run = 3\n")
    assert "client.toml" in only(wrong(client))[1]


def test_a_directory_without_any_folder(tmp_path, capsys):
    assert main(["deploy", "check", str(tmp_path)]) == 2
    assert "holds no party's folder. Name what `m2fedsa deploy init` wrote" in " ".join(capsys.readouterr().err.split())
