"""What a run had computed when: passes through frozen heads, counted by hand."""

import pytest
from tests.unit.reporting import invented

from m2fedsa.comparing.outcome import curve
from m2fedsa.reporting.files import RunFiles
from m2fedsa.reporting.summary import visits

HEAD, STEP = 0.6e5, 1.0e5 - 0.6e5 + 2.0e5
"""Operations of a head, and of a step's rest, forth and back; see `invented.result`."""
SAMPLES = 500


def work(tmp_path, rounds, visits, clients_per_round=20, local_epochs=1, **image):
    """After each round, of images alone; the warm start has looked at every sample once."""
    modalities = {name: {"encoder": f"embedded:{name}"} for name in invented.MODALITIES}
    modalities["image"] |= image
    federation = {"rounds": rounds, "local_epochs": local_epochs, "clients_per_round": clients_per_round}
    settings = invented.config(modalities=modalities, federation=federation, data={"clients": 25})
    records = [{**invented.record(number), "visits": {"image": visits}} for number in range(1, rounds + 1)]
    warm_start = {**invented.warm_start(), "visits": {"image": SAMPLES}}
    run = RunFiles(tmp_path, settings, records, invented.facts(), warm_start, invented.result(rounds))
    points = [point["flops"] for point in curve(run)]
    assert points[0] == pytest.approx(SAMPLES * (HEAD + 1.0e5 - HEAD))
    return [later - points[0] for later in points[1:]]


def test_kept_outputs_cost_nothing_more(tmp_path):
    assert work(tmp_path, 2, SAMPLES) == pytest.approx([SAMPLES * STEP, 2 * SAMPLES * STEP])


def test_views_pass_once_each(tmp_path):
    """Four views of which one has passed in the warm start; two epochs a round."""
    found = work(tmp_path, 2, 2 * SAMPLES, local_epochs=2, augment=["shift"])
    assert found == pytest.approx([3 * SAMPLES * HEAD + 2 * SAMPLES * STEP, 3 * SAMPLES * HEAD + 4 * SAMPLES * STEP])


def test_samples_that_each_step_disturbs_pass_at_every_visit(tmp_path):
    found = work(tmp_path, 2, 2 * SAMPLES, local_epochs=2, augment=["shift"], augment_views=0)
    assert found == pytest.approx([2 * SAMPLES * (HEAD + STEP), 4 * SAMPLES * (HEAD + STEP)])


def test_the_share_is_that_of_the_clients_that_there_are(tmp_path):
    """Twenty by a manifest's column, though the settings' own number says 25: a round of ten is a half, and its samples have two views."""
    found = work(tmp_path, 3, SAMPLES // 2, clients_per_round=10, augment=["shift"], augment_views=2)
    # Of 500 samples 500 views have passed and 500 have not: they are those of the first round's 250.
    assert found == pytest.approx([SAMPLES * HEAD + number * SAMPLES / 2 * STEP for number in (1, 2, 3)])


def test_visits_of_a_sample():
    """`data.clients` says nothing where a column names the clients."""
    config = invented.config(rounds=12, federation={"rounds": 12, "local_epochs": 2, "clients_per_round": 5})
    assert visits(config, 20) == pytest.approx(6)
    assert visits(config, 5) == visits(config, 4) == 24
    steps = invented.config(federation={"rounds": 12, "local_steps": 3})
    assert visits(steps, 20) == 1
