"""The planner: costs of every cut, against facts counted by hand, and proposals that fit their limits."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from tests import worlds

from m2fedsa.assembly import Extensions
from m2fedsa.cli import main
from m2fedsa.errors import ConfigError, CutError
from m2fedsa.models.cut import cut, plan
from m2fedsa.models.quantise import quantise, tensors
from m2fedsa.planning import CutCosts, Limits, bits_of, bytes_of, on_front, plan_cuts, propose, unfit
from m2fedsa.reporting.plans import show

KINDS = ("float32", "bfloat16", "int8", "int4")


@pytest.fixture(scope="module")
def plans():
    return plan_cuts(worlds.config(), Limits(), Extensions(worlds.federated(), worlds.encoders()))


def test_every_cut_of_every_encoder_is_there(plans):
    assert list(plans.cuts) == list(worlds.MODALITIES)
    for cuts in plans.cuts.values():
        assert [one.block for one in cuts] == list(range(worlds.DEPTH + 1))
        assert [one.task_adapter for one in cuts] == [True] * worlds.DEPTH + [False]
    assert [one.readable for one in plans.cuts["text"]] == [True, False, False, False]
    assert not any(one.readable for one in plans.cuts["image"])


def test_what_a_client_stores_is_what_a_file_would_hold(plans):
    """Serialised, less the header, at each type."""
    table, _ = worlds.columns(2)
    for modality, block, dtype in itertools.product(worlds.MODALITIES, (0, 2), KINDS):
        model = worlds.encoders((modality,))[modality].requires_grad_(False)
        head, _ = cut(model, plan(model, table[modality], block))
        quantise(head.encoder, dtype)
        content = save(tensors(head.encoder))
        header = 8 + int.from_bytes(content[:8], "little")
        assert plans.cuts[modality][block].stored[dtype] == len(content) - header, (modality, block, dtype)


def test_what_travels_is_what_the_messages_weigh(plans):
    """float32: activation (5, 16) of an image, its z and the two gradients; a text has a mask of nine int64 as well. And its row number."""
    image, text = plans.cuts["image"][1], plans.cuts["text"][1]
    assert (image.up, image.down) == (4 * 5 * 16 + 8 + 4 * 16, 4 * 16 + 4 * 5 * 16)
    words = worlds.TEXT_LENGTH
    assert (text.up, text.down) == (4 * words * 20 + 8 * words + 8 + 4 * 20, 4 * 20 + 4 * words * 20)
    limits = Limits(uplink=8e3, downlink=16e3)
    assert image.step_seconds(4, limits) == pytest.approx(4 * (image.up / 1e3 + image.down / 2e3))


def test_the_work_of_the_two_sides_is_that_of_the_whole(plans):
    """Head and tail together run every block once, whatever the cut; a block later, a block's work moves over."""
    for modality, cuts in plans.cuts.items():
        together = [one.head_flops + one.server_flops[0] for one in cuts[:-1]]
        assert max(together) == min(together), modality
        steps = [later.head_flops - one.head_flops for one, later in itertools.pairwise(cuts)]
        assert steps == [pytest.approx(steps[0])] * worlds.DEPTH
    image = plans.cuts["image"][1]
    # MA: 16 -> 6 -> 6 -> 16 on five tokens; C_m: 16 -> 4 on one. A multiply-add is two.
    assert image.client_flops[0] == 2 * 5 * (16 * 6 + 6 * 6 + 6 * 16) + 2 * 16 * 4


def costs(block, stored, work, sent, adapter=True):
    return CutCosts(
        "m", block, 9, {kind: stored // 2**place for place, kind in enumerate(KINDS)}, 0, 0, (work, 0), 0, (0, 0), sent, 0, adapter, False
    )


def test_the_front():
    """By hand: 3 is worse than 2 in everything; 0 and those without a place for TA do not count."""
    cuts = [
        costs(0, 1, 1, 1),
        costs(1, 100, 5, 50),
        costs(2, 200, 5, 20),
        costs(3, 300, 6, 20),
        costs(4, 900, 1, 90),
        costs(5, 1, 1, 1, False),
    ]
    assert [one.block for one in on_front(cuts, "float32") if one.front] == [1, 2, 4]


@pytest.mark.parametrize("limit", [None, 400, 250, 130, 60, 25, 1])
def test_a_proposal_is_the_best_of_all_that_fit(limit):
    """Against a search through everything."""
    cuts = {
        "a": [costs(1, 100, 5, 50), costs(2, 200, 5, 20), costs(3, 300, 5, 30)],
        "b": [costs(1, 80, 5, 9), costs(2, 160, 5, 8), costs(3, 400, 5, 8)],
    }
    limits = Limits(client_bytes=limit)
    fitting = []
    for (a, kind_a), (b, kind_b) in itertools.product(*(itertools.product(one, KINDS) for one in cuts.values())):
        stored = a.stored[kind_a] + b.stored[kind_b]
        if limit is None or stored <= limit:
            fitting.append((a.up + b.up, KINDS.index(kind_a) + KINDS.index(kind_b), stored, (a.block, kind_a), (b.block, kind_b)))
    found = propose(cuts, 32, limits)
    if not fitting:
        assert found is None
        return
    best = min(fitting)
    assert found is not None
    assert (found["a"].costs.up + found["b"].costs.up, sum(one.client_bytes for one in found.values())) == (best[0], best[2])


def test_limits_that_nothing_fits_are_told(plans):
    assert propose(plans.cuts, 4, Limits(client_bytes=10)) is None
    assert "image" in str(unfit(plans))
    assert "int4" in str(unfit(plans))
    assert propose(plans.cuts, 4, Limits(step_seconds=1e-9)) is None


@pytest.mark.parametrize(("text", "value"), [("50MB", 50e6), ("1.5 GB", 1.5e9), ("7B", 7)])
def test_sizes(text, value):
    assert bytes_of(text) == value


def test_rates():
    assert bits_of("10Mbit") == bits_of("10 Mbit/s") == 1e7


@pytest.mark.parametrize("text", ["50", "MB", "50mb", "-3MB", "0MB", "1e3MB", "10Mbit"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match=f"{text} is not a size, e.g. 50MB"):
        bytes_of(text)


def test_the_command(capsys, monkeypatch):
    """On the embedded task: a table per encoder, settings that can be pasted, JSON that says the same."""
    monkeypatch.setenv("COLUMNS", "80")
    given = ["plan", "digits", "--set", "data.clients=4", "--set", "data.partition=iid", "--client-bytes", "200kB"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "could simply be read" in " ".join(said.split())
    tables = said.partition("\nfp32 ...")[0]
    assert max(map(len, tables.splitlines())) <= 80
    # Nothing is cut short: five blocks of each encoder, twelve columns of which one is a mark or empty.
    assert "…" not in tables
    rows = [line.split() for line in tables.splitlines() if line.lstrip()[:1].isdigit()]
    assert [row[0] for row in rows] == list("01234") * 3
    assert {len(row) for row in rows} <= {11, 12}
    assert [row[1] for row in rows if len(row) == 12 and row[1] in "*x"].count("x") == 6
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name, one in told["proposed"].items():
        assert f"--set modalities.{name}.block={one['block']} --set modalities.{name}.head_dtype={one['head_dtype']}" in said
        assert one["block"] > 0
    assert sum(one["client_bytes"] for one in told["proposed"].values()) <= 200_000
    assert len(told["cuts"]["audio"]) == 5
    assert main(["plan", "digits", "--client-bytes", "much"]) == 2
    assert "much is not a size" in capsys.readouterr().err


def test_the_price_of_disturbed_views(capsys, plans):
    """A ViT's output of 5 tokens and 16 numbers, a text's of 20 numbers and a mask of int64; four times that for four views."""
    words = worlds.TEXT_LENGTH
    kept = {"image": 4 * 5 * 16, "text": 4 * words * 20 + 8 * words}
    assert {name: {one.kept for one in plans.cuts[name]} for name in kept} == {name: {value} for name, value in kept.items()}
    settings = {"modalities__image__augment": '["shift"]', "modalities__text__augment": '["drop"]', "modalities__text__augment_views": 0}
    show(replace(plans, config=worlds.config(**settings)))
    said = " ".join(capsys.readouterr().out.split())
    assert 'augment = ["shift"], augment_views = 4: the head\'s work 4 times per sample, and 4 of its outputs are kept, 1.28 kB' in said
    assert 'augment = ["drop"], augment_views = 0: the head\'s work in every step, and none of its outputs is kept' in said
    assert said.count("augment =") == 2


def test_an_error_for_limits_that_nothing_fits(plans):
    with pytest.raises(CutError, match="no cuts fit these limits"):
        show(replace(plans, proposed=None))
    assert torch.get_default_dtype() == torch.float32
