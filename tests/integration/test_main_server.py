"""The main server's program: it keeps what was in force, tells how it is, and ends when its round has."""

import json
import logging
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from tests import worlds
from tests.conformance.test_ports import ROSTER, accept, plan, step

from m2fedsa.deploy.journal import Journal
from m2fedsa.deploy.lasting import IN_FORCE, Lasting
from m2fedsa.deploy.main_server import _into
from m2fedsa.deploy.meters import Desk, Meters
from m2fedsa.errors import LinkError, RunDirectoryError
from m2fedsa.storage import Store


def lasting(folder: Path) -> Lasting:
    """A main server's process on its folder, just started."""
    host = worlds.parties(worlds.config(), worlds.federated()).coordination
    host.store = Store(folder / "checkpoint")
    return Lasting(host, folder)


def trained(host: Lasting, number: int) -> str:
    """A round, prepared; its checkpoint."""
    host.begin(plan(number))
    with host.server.session("ann", number) as session:
        step(session, ROSTER["ann"], number)
    return host.end(accept(number, ann=1)).file


def test_what_was_in_force_is_in_force_after_a_restart(tmp_path: Path) -> None:
    """Committed counts, prepared does not; a commit that died halfway counts, because the fed server had decided."""
    first = lasting(tmp_path)
    assert first.recover() == 0
    trained(first, 1)
    assert lasting(tmp_path).recover() == 0
    first.commit(1)
    prints = first.fingerprints()
    trained(first, 2)
    second = lasting(tmp_path)
    assert second.recover() == 1
    assert second.fingerprints() == prints
    file = trained(second, 2)
    second._write(2, file)  # and dies before it has committed
    third = lasting(tmp_path)
    assert third.recover() == 2
    third.restore(2, file)
    assert json.loads((tmp_path / IN_FORCE).read_text()) == {"round": 2, "file": file}


def test_what_a_crash_left_goes_when_the_next_round_begins(tmp_path: Path) -> None:
    """It died when round 2 was in force and the file of round 1 still there; and once more with a round 3 that nobody counts. The file of
    the best round stays."""
    first = lasting(tmp_path)
    trained(first, 1)
    first.commit(1)
    file = trained(first, 2)
    first._write(2, file)

    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "checkpoint").iterdir())

    second = lasting(tmp_path)
    second.recover()
    assert files() == ["round-000001.safetensors", "round-000002.safetensors"]
    second.begin(replace(plan(3), best=1))
    assert files() == ["round-000001.safetensors", "round-000002.safetensors"]
    trained(second, 3)
    assert files() == ["round-000002.safetensors", "round-000003.safetensors"]
    third = lasting(tmp_path)
    third.recover()
    third.begin(plan(3))
    assert files() == ["round-000002.safetensors"]


def test_a_checkpoint_that_is_gone_is_told(tmp_path: Path) -> None:
    first = lasting(tmp_path)
    trained(first, 1)
    first.commit(1)
    for path in (tmp_path / "checkpoint").iterdir():
        path.unlink()
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        lasting(tmp_path).recover()
    (tmp_path / IN_FORCE).write_text('{"round": 1}')
    with pytest.raises(RunDirectoryError, match=r"in_force\.json: was altered"):
        lasting(tmp_path).recover()


def test_metrics_and_health() -> None:
    """In the form that Prometheus reads: with its own reader."""
    from prometheus_client.parser import text_string_to_metric_families

    meters, health = Meters(), {"status": "serving", "round": 3}
    meters.watch("queue", "Computations that wait.", lambda: 7)
    meters.opened("train")
    meters.moved("up", 1000)
    meters.moved("up", 24)
    meters.refused("RefusedError")
    meters.computed("forward", 8, 0.02)
    desk = Desk("127.0.0.1", 0, meters, lambda: health)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{desk.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    status, text = ask("/metrics")
    found = {
        (one.name, *sorted(one.labels.values())): one.value for family in text_string_to_metric_families(text) for one in family.samples
    }
    assert status == 200
    assert found["m2fedsa_bytes_total", "up"] == 1024
    assert found["m2fedsa_streams_opened_total", "train"] == 1
    assert found["m2fedsa_refusals_total", "RefusedError"] == 1
    assert found["m2fedsa_batch_samples_sum", "forward"] == 8
    assert found["m2fedsa_queue",] == 7
    assert found["m2fedsa_resident_bytes",] > 1e7
    assert ask("/health") == (200, '{"status": "serving", "round": 3}\n')
    health["status"] = "draining"
    assert ask("/health")[0] == 503
    assert ask("/clients")[0] == 404
    with pytest.raises(LinkError, match=rf"127.0.0.1:{desk.port}: /metrics cannot be served .*Is another program there already"):
        Desk("127.0.0.1", desk.port, meters, lambda: health)
    desk.close()


def test_logs_are_lines_of_the_journal_without_values(tmp_path: Path) -> None:
    """An error that nobody foresaw is told by its places in the code; its text may hold a value, and is left out of the trace."""
    _into(Journal(tmp_path / "log.jsonl", "main-server", "a run"))
    log = logging.getLogger("m2fedsa.link")
    try:
        log.info("opened", extra={"facts": {"client": "ann", "round": 3}})
        try:
            raise ValueError("a value that nobody should see")
        except ValueError as error:
            log.error("refused", extra={"facts": {"client": "ann", "kind": "ValueError"}}, exc_info=error)
    finally:
        log.handlers = []
        log.propagate = True
        logging.getLogger("m2fedsa.coordination").handlers = []
        logging.getLogger("m2fedsa.coordination").propagate = True
    opened, refused = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert (opened["event"], opened["run"], opened["client"], opened["round"]) == ("opened", "a run", "ann", 3)
    assert refused["level"] == "error"
    assert "test_main_server.py" in refused["trace"][0]
    assert "nobody should see" not in json.dumps(refused)
