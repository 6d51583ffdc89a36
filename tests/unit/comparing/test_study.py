"""Which runs a study has."""

import pytest

from m2fedsa.baselines.methods import named
from m2fedsa.comparing.study import grid_of, of_grid, of_methods, points
from m2fedsa.errors import ConfigError
from m2fedsa.recipes import digits, meld_text

SEARCH = {"optimizer.learning_rate": ("0.005", "0.01"), "federation.rounds": ("2", "4")}


def test_every_arm_has_every_candidate_and_every_seed() -> None:
    study = of_methods(digits(seed=5), ["m2fedsa", "fedavg"], SEARCH, 3)
    jobs = list(study.jobs())
    assert len(jobs) == len({job.place for job in jobs}) == 2 * 4 * 3
    assert {job.config.seed for job in jobs} == {5, 6, 7}
    one = next(job for job in jobs if job.place.as_posix() == "fedavg/learning_rate=0.01,rounds=4/seed-6")
    assert (one.config.optimizer.learning_rate, one.config.federation.rounds, one.config.seed) == (0.01, 4, 6)
    assert not one.config.modalities["image"].frozen
    assert one.config.name == "digits fedavg"


def test_a_method_is_not_run_again_for_settings_that_it_does_not_know() -> None:
    """The closed form has no rounds; it has no rate either, but that is known to nobody."""
    (arm,) = of_methods(digits(), ["closed_form"], {"federation.rounds": ("2", "4")}, 1).arms
    assert list(arm.candidates) == [""]
    (job,) = of_methods(digits(), ["closed_form"], {"federation.rounds": ("2", "4")}, 1).jobs()
    assert job.place.as_posix() == "closed_form/seed-0"


def test_a_method_without_a_warm_start_draws_classes_alike_where_the_recipe_weighs_them() -> None:
    """Nobody counts the classes for it; all others weigh them."""
    base = meld_text(folder="data", text="encoder")
    assert base.loss.balance == "weights"
    told = {
        job.arm: job.config.loss.balance for job in of_methods(base, ["m2fedsa", "closed_form", "fedpeft", "no_warm_start"], {}, 1).jobs()
    }
    assert told == {"m2fedsa": "weights", "closed_form": "weights", "fedpeft": "sampling", "no_warm_start": "sampling"}
    assert named("fedpeft").of(digits()).loss.balance == "none"


def test_one_place_takes_as_many_steps_as_the_clients_of_a_round() -> None:
    base = meld_text(folder="data", text="encoder")
    assert (base.federation.local_steps, base.federation.clients_per_round) == (5, 10)
    assert named("centralised").of(base).federation.local_steps == 50
    every = base.override(["federation.clients_per_round=none"])
    assert named("centralised").of(every).federation.local_steps == 5 * every.data.clients
    assert named("centralised").of(digits()).federation.local_steps is None, "an epoch is an epoch"


def test_a_grid_is_all_combinations() -> None:
    study = of_grid(digits(), grid_of(["fusion.width=32,64", "transfer.weights=[1.0, 0.0, 0.0],[0.6, 0.2, 0.2]"], "--grid"), 1)
    assert [arm.name for arm in study.arms] == [
        f"width={width},weights={weights}" for width in (32, 64) for weights in ("[1.0, 0.0, 0.0]", "[0.6, 0.2, 0.2]")
    ]
    (config,) = study.arms[2].candidates.values()
    assert (config.fusion.width, config.transfer.weights) == (64, (1.0, 0.0, 0.0))


def test_words_are_values_too() -> None:
    assert grid_of(["transfer.start=never,plateau"], "--grid") == {"transfer.start": ("never", "plateau")}
    assert grid_of(["optimizer.learning_rate=0.1"], "--grid") == {"optimizer.learning_rate": ("0.1",)}


def test_what_cannot_name_a_directory_is_numbered() -> None:
    found = points({"averaging.rules": ('[{pattern="*", over="clients"}]', "[]")})
    assert list(found) == ["point-1", "rules=[]"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: of_methods(digits(), ["fedavgg"], {}, 1), "fedavg"),
        (lambda: of_methods(digits(), ["fedavg", "fedavg"], {}, 1), "once"),
        (lambda: of_grid(digits(), {}, 1), "--grid"),
        (lambda: grid_of(["rounds"], "--search"), "--search rounds: write key=value"),
        (lambda: of_methods(digits(), ["m2fedsa"], {"federation.roundz": ("1",)}, 1), "roundz"),
    ],
)
def test_nonsense_is_told(call, said) -> None:
    with pytest.raises(ConfigError, match=said):
        call()
