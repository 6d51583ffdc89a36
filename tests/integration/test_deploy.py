"""All parties as processes of their own on this machine: SuperLink, SuperNodes, resident clients, main server; mTLS, tokens, real ports.

A federation of two clients here; `make nightly` adds one, three and twenty, other orders of arrival, and lines that are slow and lose
packets. Kills have a file of their own.
"""

import pytest
from tests.integration import deployments, small
from tests.integration.bad_line import HERE, CannotError, lines
from tests.integration.deployments import alone, digest_of, folders, left_behind, m2fedsa, made, party_by_party, unsteady


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
    secrets = [path.read_text().splitlines()[1] for path in directory.rglob("*.key")]
    said = "".join(path.read_text(errors="replace") for path in directory.rglob("*") if path.suffix in (".log", ".jsonl"))
    assert not [secret for secret in secrets if secret in said]


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
