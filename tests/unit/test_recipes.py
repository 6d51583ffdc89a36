import inspect

import pytest

from m2fedsa import recipes
from m2fedsa.config import Config
from m2fedsa.data.sources import SOURCES
from m2fedsa.errors import ConfigError
from m2fedsa.models.encoders import load


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe(name):
    """A complete configuration under its own name, whose data and encoders ship with the package."""
    made = recipes.named(name)
    assert made == getattr(recipes, name)()
    assert made.name == name
    assert made.data.source in SOURCES
    assert Config.from_toml(made.to_toml()) == made
    assert all(one.encoder.startswith("embedded:") for one in made.modalities.values())
    assert recipes.summaries()[name] == inspect.getdoc(getattr(recipes, name)).splitlines()[0]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_its_arguments_change_what_they_say(name):
    recipe = getattr(recipes, name)
    changed = recipe(rounds=3, seed=5, clients=7)
    assert {line.partition(":")[0] for line in recipe().differences(changed)} == {"federation.rounds", "seed", "data.clients"}


def test_what_the_issue_asks_of_them():
    assert recipes.digits().data.clients == 20
    assert recipes.digits().data.multimodal_fraction == 0.5
    assert recipes.digits().data.alpha == 0.3
    assert list(recipes.digits().modalities) == ["image", "audio", "text"]
    assert recipes.few_labels().data.labelled_fraction == 0.1
    assert recipes.few_labels().data.source == "digits"
    assert recipes.few_labels().transfer.start != "never"
    assert list(recipes.match().modalities) == ["image", "audio"]
    assert recipes.match().data.source == "match"
    for recipe in (recipes.digits, recipes.few_labels, recipes.match):
        assert recipe().federation.warm_start


def test_their_encoders_are_there():
    for one in recipes.digits().modalities.values():
        assert load(one.encoder) is not None


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"^unknown recipe 'few_label'. Did you mean few_labels\?$"):
        recipes.named("few_label")
    with pytest.raises(ConfigError, match=r"^unknown recipe 'zzz'. There are digits, match, few_labels; a file's name ends in .toml.$"):
        recipes.named("zzz")
