"""All parties as processes of their own on this machine: SuperLink, SuperNodes, resident clients, main server; mTLS, tokens, real ports.

A federation of two clients here; `make nightly` adds one, three and twenty, other orders of arrival, and lines that are slow and lose
packets. Kills have a file of their own.
"""

import base64
import re

import pytest
from tests.integration import deployments, small
from tests.integration.bad_line import HERE, CannotError, lines
from tests.integration.deployments import alone, digest_of, folders, left_behind, m2fedsa, made, party_by_party, unsteady

from m2fedsa.deploy.links import issuer_of
from m2fedsa.deploy.programs import FedServerProgram, read_program
from m2fedsa.deploy.registry import Registry
from m2fedsa.identity import read_key


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return deployments.settings(tmp_path_factory.mktemp("settings"))


def test_a_deployment_ends_with_the_digest_of_the_run(settings, tmp_path):
    changes = ("federation.rounds=1", "federation.warm_start=false", "transfer.start=1")
    directory = made(settings, tmp_path / "deployment", 2, *changes)
    done = m2fedsa("deploy", "local", directory, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr + done.stdout
    expected = alone(settings, tmp_path / "alone", 2, *changes)
    found = small.result(tmp_path / "run")
    assert found["digest"] == expected["digest"]
    assert found["metrics"] == expected["metrics"]
    assert found["ledger"] == expected["ledger"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert "round 1/1" in done.stdout
    assert "report: " in done.stdout
    assert all((folder / "state" / "predict.json").exists() for folder in folders(directory).values())
    assert left_behind(directory) == []
    check_logs(directory, done.stdout + done.stderr + (tmp_path / "run" / "rounds.jsonl").read_text())


def check_logs(directory, said):
    """No private key and no token is in what the parties said and logged; both would be found."""
    logs = [path for path in directory.glob("**/state/**/*") if path.is_file() and path.suffix in (".log", ".jsonl")]
    assert {path.name for path in logs} >= {"log.jsonl", "output.log", "superlink.log", "supernode.log"}
    said = unbroken("".join([said, *(path.read_text(errors="replace") for path in logs)]))
    for path in directory.rglob("*.key"):
        forms = forms_of(read_key(path).private_numbers().private_value)
        assert any(form in unbroken(path.read_text()) for form in forms), "it would be found"
        assert not any(form in said for form in forms), path
    fed = directory / "fed-server"
    issue = issuer_of(fed, read_program(fed / "fed-server.toml", FedServerProgram), Registry.read(fed))
    assert TOKEN.search(f"token={issue('client-00', 'train', 1)}, "), "it would be found"
    assert not TOKEN.search(said)


TOKEN = re.compile(r"eyJ[\w-]{40,}\.[\w-]{60,}")
"""Claims in JSON and a signature, both in base64."""


def unbroken(text):
    return text.replace("\\n", "").replace("\n", "")


def forms_of(secret):
    """A number of 384 bits as it may stand in a text: decimal, in hex, and in base64 at any place of a longer one."""
    content = secret.to_bytes(48, "big")
    coded = [base64.b64encode(bytes(shift) + content).decode()[4:-4] for shift in range(3)]
    return [str(secret), content.hex(), *coded, *(base64.urlsafe_b64encode(base64.b64decode(one)).decode() for one in coded)]


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 3, 20])
def test_digits_end_with_the_digest_of_the_run(tmp_path, clients):
    # One client alone has to hold all modalities.
    changes = ("federation.rounds=3", "evaluation.every=100", *(["data.multimodal_fraction=1.0"] if clients == 1 else []))
    directory = made("digits", tmp_path / "deployment", clients, *changes)
    done = m2fedsa("deploy", "local", directory, "--out", tmp_path / "run", timeout=3600)
    assert done.returncode == 0, done.stderr + done.stdout
    expected = alone("digits", tmp_path / "alone", clients, *changes)
    assert small.result(tmp_path / "run")["digest"] == expected["digest"]
    assert all(len(record["clients"]) == clients for record in small.rounds(tmp_path / "run"))
    assert left_behind(directory) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_arrival_does_not_matter(settings, tmp_path, seed):
    """The last client comes first, with pauses; then now one, now another stands still for up to three seconds."""
    changes = ("federation.rounds=3", "federation.min_clients=4")
    directory = made(settings, tmp_path / "deployment", 4, *changes)
    order = sorted(folders(directory), reverse=True)
    with party_by_party(directory, order, pause=2.0) as (fed_server, clients), unsteady(list(clients.values()), seed) as stops:
        digest = digest_of(fed_server)
    assert len(stops) > 10
    assert digest == alone(settings, tmp_path / "alone", 4, *changes)["digest"]
    assert left_behind(directory) == []


DELAY, LOSS = 0.04, 0.01


@pytest.mark.slow
def test_clients_behind_bad_lines_end_with_the_same_digest(settings, tmp_path):
    """Each in a network namespace of its own, behind 40 ms each way and a loss of one packet in a hundred."""
    changes = ("federation.rounds=2", "federation.min_clients=2")
    directory = made(settings, tmp_path / "deployment", 2, *changes, host=HERE)
    try:
        with lines(folders(directory), DELAY, LOSS) as (prefixes, made_lines):
            with party_by_party(directory, prefix=prefixes.__getitem__) as (fed_server, _):
                digest = digest_of(fed_server)
            lost = {name: line.lost for name, line in made_lines.items()}
    except CannotError as error:
        pytest.skip(f"no bad lines here: {error}")
    assert min(lost.values()) > 0, lost
    assert digest == alone(settings, tmp_path / "alone", 2, *changes)["digest"]
