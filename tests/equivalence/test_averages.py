"""Averages against sums worked by hand, and a client that fails against one that was never there."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import worlds
from torch import Tensor

from m2fedsa import running
from m2fedsa.averaging import Averager, Contribution, weighted_mean
from m2fedsa.config import Averaging, AveragingRule
from m2fedsa.data.samples import FederatedData
from m2fedsa.errors import ConfigError, RunError
from m2fedsa.messages import Acceptance
from m2fedsa.storage import Store

AVERAGER = Averager(Averaging(), ("image", "text"))


def tensors(**values: float | list[float]) -> dict[str, Tensor]:
    """`image__ma__up=3` is the tensor `image.ma.up`, [3.0]."""
    return {name.replace("__", "."): torch.tensor(value if isinstance(value, list) else [value]).float() for name, value in values.items()}


def plain(found: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in found.items()}


# --- over clients -------------------------------------------------------------------------------------------------------------------


def test_over_clients_weighted_by_samples() -> None:
    """(2·1 + 6·5) / 8 = 4;  (2·(-3) + 6·1) / 8 = 0."""
    said = [
        Contribution("a", tensors(image__ma__up=[1, -3]), {"image.": 2}),
        Contribution("b", tensors(image__ma__up=[5, 1]), {"image.": 6}),
    ]
    assert plain(AVERAGER.apply(tensors(image__ma__up=[9, 9]), said, {})[0]) == {"image.ma.up": [4, 0]}


def test_the_longest_prefix_is_the_weight() -> None:
    """A sample may train the adapters of a modality and not its token: weights 1 : 3 for the one, 3 : 1 for the other."""
    old = tensors(image__ma__up=0, image__token__weight=0)
    said = [
        Contribution("a", tensors(image__ma__up=4, image__token__weight=4), {"image.": 1, "image.token.": 3}),
        Contribution("b", tensors(image__ma__up=8, image__token__weight=8), {"image.": 3, "image.token.": 1}),
    ]
    assert plain(AVERAGER.apply(old, said, {})[0]) == {"image.ma.up": [7], "image.token.weight": [5]}


def test_who_did_not_train_a_tensor_does_not_count_and_a_tensor_that_none_trained_stays() -> None:
    old = tensors(image__ma__up=7, text__ma__up=11, fusion__norm=13)
    said = [
        Contribution("a", tensors(image__ma__up=1), {"image.": 4}),
        # Sent, but of no sample: as good as not sent.
        Contribution("b", tensors(image__ma__up=100, text__ma__up=100), {"image.": 0}),
        Contribution("c", tensors(image__ma__up=3), {"image.": 4, "text.": 5}),
    ]
    assert plain(AVERAGER.apply(old, said, {})[0]) == {"image.ma.up": [2], "text.ma.up": [11], "fusion.norm": [13]}


def test_nobody_said_anything() -> None:
    old = tensors(image__ma__up=7)
    assert plain(AVERAGER.apply(old, [], {})[0]) == {"image.ma.up": [7]}


def test_sums_are_in_double_precision_and_sorted_by_client() -> None:
    """In single precision 2²⁴ + 1 is 2²⁴: of a (2²⁴), b (1) and c (-2²⁴) a third is 1/3 in doubles, in singles 0."""
    values = {"a": 2.0**24, "b": 1.0, "c": -(2.0**24)}
    said = [Contribution(name, tensors(fusion__x=value), {"fusion.": 1}) for name, value in values.items()]
    for order in (said, said[::-1], [said[1], said[0], said[2]]):
        (found,) = AVERAGER.apply(tensors(fusion__x=0), order, {})[0].values()
        assert float(found) == pytest.approx(1 / 3, rel=1e-6)


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 50)), min_size=2, max_size=7), st.data())
def test_the_order_of_clients_does_not_change_a_bit(values: list[tuple[float, int]], data: st.DataObject) -> None:
    said = [Contribution(f"client-{n}", tensors(image__ta__update=v), {"image.": k}) for n, (v, k) in enumerate(values)]
    shuffled = data.draw(st.permutations(said))
    old = tensors(image__ta__update=1, text__ta__update=2)
    one, two = (AVERAGER.apply(old, order, {})[0] for order in (said, shuffled))
    assert all(torch.equal(one[name], two[name]) for name in old)
    expected = sum(v * k for v, k in values) / sum(k for _, k in values)
    assert float(one["image.ta.update"]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_an_average_of_ones_own_gets_each_tensor_with_its_clients_in_order() -> None:
    heard: list[object] = []

    def largest(name: str, values, previous: Tensor) -> Tensor:
        heard.append((name, [(client, float(value), samples) for client, value, samples in values], float(previous)))
        return torch.stack([value for _, value, _ in values]).max(0).values

    said = [Contribution(name, tensors(fusion__x=value), {"fusion.": 2}) for name, value in (("b", 1), ("a", 5), ("c", 2))]
    assert plain(Averager(Averaging(), ("image",), average=largest).apply(tensors(fusion__x=9), said, {})[0]) == {"fusion.x": [5]}
    assert heard == [("fusion.x", [("a", 5.0, 2), ("b", 1.0, 2), ("c", 2.0, 2)], 9.0)]


# --- over modalities ----------------------------------------------------------------------------------------------------------------


def test_over_modalities_with_equal_weights_after_clients_with_theirs() -> None:
    """image: (1·2 + 3·6) / 4 = 5; text: 9 (one client with a hundred samples); together (5 + 9) / 2 = 7. `down` is not shared."""
    old = tensors(image__ta__update__weight=0, text__ta__update__weight=0, image__ta__down__weight=0, text__ta__down__weight=0)
    said = [
        Contribution("a", tensors(image__ta__update__weight=2, image__ta__down__weight=2), {"image.": 1}),
        Contribution("b", tensors(image__ta__update__weight=6, image__ta__down__weight=6), {"image.": 3}),
        Contribution("c", tensors(text__ta__update__weight=9, text__ta__down__weight=9), {"text.": 100}),
    ]
    assert plain(AVERAGER.apply(old, said, {})[0]) == {
        "image.ta.update.weight": [7],
        "text.ta.update.weight": [7],
        "image.ta.down.weight": [5],
        "text.ta.down.weight": [9],
    }


def test_only_modalities_that_trained_are_averaged_and_the_others_stay() -> None:
    averager = Averager(Averaging(), ("image", "audio", "text"))
    old = tensors(image__ta__update__bias=1, audio__ta__update__bias=100, text__ta__update__bias=3)
    said = [Contribution("a", tensors(image__ta__update__bias=4, text__ta__update__bias=8), {"image.": 1, "text.": 1})]
    assert plain(averager.apply(old, said, {})[0]) == {
        "image.ta.update.bias": [6],
        "audio.ta.update.bias": [100],
        "text.ta.update.bias": [6],
    }


def test_what_is_averaged_over_modalities_can_be_filed_in_double_precision(tmp_path, float64) -> None:
    """Several names with one memory would be refused by the checkpoint."""
    old = {name: torch.zeros(2) for name in ("image.ta.update.bias", "text.ta.update.bias")}
    said = [Contribution("a", {name: torch.ones(2) for name in old}, {"image.": 1, "text.": 1})]
    averaged, _ = Averager(Averaging(), ("image", "text")).apply(old, said, {})
    store = Store(tmp_path)
    assert store.read(1, store.write(1, averaged)).keys() == old.keys()


def test_unequal_shapes_cannot_be_averaged_over_modalities() -> None:
    old = tensors(image__ta__update__bias=[1, 1], text__ta__update__bias=[1])
    said = [Contribution("a", old, {"image.": 1, "text.": 1})]
    with pytest.raises(ConfigError, match=r"averaging\.rules.*unequal shape"):
        AVERAGER.apply(old, said, {})


# --- over nothing, and which rule counts --------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_counts_and_behind_ones_own_stand_those_of_the_paper() -> None:
    own = Averaging(rules=(AveragingRule(pattern="image.ma.*", over="clients"), AveragingRule(pattern="*.ma.*", over="nothing")))
    assert [own.over(name) for name in ("image.ma.up", "text.ma.up", "text.ta.up")] == ["clients", "nothing", "clients"]
    for averaging in (own, Averaging(), Averaging(rules=())):
        assert averaging.over("left_camera.ta.update.weight") == "modalities"
        assert averaging.over("left_camera.classifier.weight") == "clients"
    assert Averaging(rules=(AveragingRule(pattern="*.ta.update.*", over="clients"),)).over("image.ta.update.bias") == "clients"


@pytest.mark.parametrize("wrong", [lambda value: value.double(), lambda value: value[:1], lambda _: 0.5])
def test_an_average_of_ones_own_that_gives_something_else_is_named(wrong) -> None:
    averager = Averager(Averaging(), ("image",), average=lambda _name, values, _previous: wrong(values[0][1]))
    said = [Contribution("a", {"image.ma.up.bias": torch.ones(2)}, {"image.": 1})]
    with pytest.raises(RunError, match=r"averaging rule gave .* for image\.ma\.up\.bias, but \(2,\) torch\.float32"):
        averager.apply({"image.ma.up.bias": torch.zeros(2)}, said, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_average_of_ones_own_that_is_not_finite_is_named(value: float) -> None:
    averager = Averager(Averaging(), ("image",), average=lambda _name, values, _previous: values[0][1] * value)
    said = [Contribution("a", {"image.ma.up.bias": torch.ones(2)}, {"image.": 1})]
    with pytest.raises(RunError, match=r"averaging rule gave values for image\.ma\.up\.bias that are not finite"):
        averager.apply({"image.ma.up.bias": torch.zeros(2)}, said, {})


def test_a_local_tensor_keeps_its_global_value() -> None:
    averager = Averager(Averaging(rules=(AveragingRule(pattern="*.classifier.*", over="nothing"),)), ("image",))
    said = [Contribution("a", tensors(image__classifier__bias=4, image__ma__up=4), {"image.": 1})]
    found, velocity = averager.apply(tensors(image__classifier__bias=1, image__ma__up=1), said, {})
    assert plain(found) == {"image.classifier.bias": [1], "image.ma.up": [4]}
    assert averager.is_local("image.classifier.bias")
    assert not velocity


# --- momentum -----------------------------------------------------------------------------------------------------------------------


def test_momentum_by_hand() -> None:
    """β = ½. Targets 4, 4, (none), 0 from 0:  v = 4 → x = 4;  v = 0 + 2 → x = 6;  nothing trains;  v = -6 + 1 → x = 1."""
    averager = Averager(Averaging(), ("image",), momentum=0.5)
    x, v = tensors(image__ma__up=0), {}
    for target, expected in ((4, 4), (4, 6), (None, 6), (0, 1)):
        said = [] if target is None else [Contribution("a", tensors(image__ma__up=target), {"image.": 3})]
        x, v = averager.apply(x, said, v)
        assert plain(x) == {"image.ma.up": [expected]}
    assert plain(v) == {"image.ma.up": [-5]}


def test_what_is_handed_in_is_never_changed() -> None:
    averager = Averager(Averaging(), ("image", "text"), momentum=0.5)
    old, v = tensors(image__ta__update__bias=1, text__ta__update__bias=2), tensors(image__ta__update__bias=3)
    said = [Contribution("a", tensors(image__ta__update__bias=4, text__ta__update__bias=5), {"image.": 1, "text.": 1})]
    before = [plain(old), plain(v), plain(said[0].tensors)]
    averager.apply(old, said, v)
    assert [plain(old), plain(v), plain(said[0].tensors)] == before


def test_a_weighted_mean_of_equal_values_is_that_value() -> None:
    """Thirds, sevenths and so on must not move what all agree on by more than one rounding of a double."""
    values = [(f"c{n}", torch.tensor([0.1, -3.7e8, 0.0]), 7 * n + 1) for n in range(9)]
    assert torch.equal(weighted_mean("x", values, values[0][1]), values[0][1])


# --- in a federation ----------------------------------------------------------------------------------------------------------------


def with_failing(data: FederatedData) -> FederatedData:
    """bob, of whose labelled pictures one is not a number."""
    bob = data.clients["bob"].train
    columns = {name: {key: value.clone() for key, value in one.items()} for name, one in bob.columns.items()}
    columns["image"]["pixel_values"][bob.indices[bob.presence[:, 0] & (bob.labels >= 0)][0]] = float("nan")
    return replace(data, clients={**data.clients, "bob": replace(data.clients["bob"], train=replace(bob, columns=columns))})


def without_bob(round_number, eligible, number, generator) -> list[str]:
    return [client.name for client in eligible if client.name != "bob"]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_client_that_fails_leaves_no_trace(momentum: float) -> None:
    """The same digest as if it had never been on the roster, whatever it did before it failed."""
    settings = worlds.config(federation__rounds=3, transfer__start=3, federation__server_momentum=momentum)
    data = worlds.federated(unlabelled=0.2)
    failed = running.run(settings, data=with_failing(data), encoders=worlds.encoders())
    absent = running.run(settings, data=data, encoders=worlds.encoders(), sampler=without_bob)
    assert failed.digest == absent.digest
    assert [[failure["client"] for failure in record["failures"]] for record in failed.history] == [["bob"]] * 3
    assert [record["clients"] for record in failed.history] == [["ann", "cyd", "dee", "eve"]] * 3
    assert failed.metrics == absent.metrics


def test_the_weights_of_a_round_are_numbers_of_distinct_samples() -> None:
    """Three epochs over bob's samples: each counts once, and only under what it trains."""
    who = worlds.parties(worlds.config(federation__local_epochs=3), worlds.federated())
    plan, tasks = who.fed_server.begin_round()
    results, _ = worlds.play(who, tasks, plan)
    bob = next(result for result in results if result.client == "bob")
    held = who.data.clients["bob"].train.presence
    several = held.sum(1) > 1
    assert 0 < int(several.sum()) < len(held)
    expected = {"fused.": len(held), "fusion.": len(held), "fusion.bilinear": int(several.sum())}
    for column, name in enumerate(worlds.MODALITIES):
        has = held[:, column]
        expected |= {f"{name}.": int(has.sum()), f"{name}.token.": int(has.sum()), f"{name}.bilinear.": int((has & several).sum())}
    assert bob.samples == {prefix: number for prefix, number in expected.items() if number}
    assert bob.steps == 3 * 3


def test_the_main_server_averages_exactly_the_copies_that_are_accepted() -> None:
    """Of a round of three clients: one accepted gives its copies; two give the mean by the weights that the fed server names."""
    who = worlds.parties(worlds.config(averaging__rules='[{pattern="*", over="clients"}]'), worlds.federated())
    worlds.unsettle(who)
    plan, tasks = who.fed_server.begin_round()
    # No copy goes to the store of the main server here: read what was averaged after the commit.
    copies = {}
    for accepted in (["ann"], ["dee"], ["ann", "dee"]):
        who.coordination.begin(plan)
        results = list(who.federation.run(tasks))
        weights = {"ann": 1, "dee": 3}
        acceptance = Acceptance(plan.number, {name: {"audio.": weights[name]} for name in accepted})
        assert {result.client for result in results} == set(plan.roster)
        who.coordination.end(acceptance)
        copies["+".join(accepted)] = {name: tensor.clone() for name, tensor in who.coordination._prepared.tensors.items()}
        who.coordination.abort(plan.number)
    trained = [name for name in copies["ann"] if name.startswith("audio.ta.")]
    assert len(trained) == 6
    for name in trained:
        mean = (copies["ann"][name].double() + 3 * copies["dee"][name].double()) / 4
        assert torch.equal(copies["ann+dee"][name], mean.float()), name
        assert not torch.equal(copies["ann"][name], copies["dee"][name]), name
    before = worlds.server_tensors(who)
    assert all(torch.equal(copies["ann+dee"][name], before[name]) for name in before if not name.startswith("audio."))
