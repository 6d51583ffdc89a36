import inspect

import pytest

from m2fedsa import recipes
from m2fedsa.checks import check_paths
from m2fedsa.config import Config
from m2fedsa.data.sources import COMMON, PASSED, SOURCES
from m2fedsa.errors import ConfigError
from m2fedsa.models.encoders import load

GIVEN_BY_THE_USER = ("products", "spoken_digits", "meld_text")
PAPER = {"hateful_memes": ("image", "text"), "meld": ("audio", "visual", "text"), "epic_kitchens": ("visual", "audio")}
EMBEDDED = tuple(name for name in recipes.RECIPES if name not in (*GIVEN_BY_THE_USER, *PAPER))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe(name):
    """A complete configuration under its own name, of a source that there is."""
    made = recipes.named(name)
    assert made == getattr(recipes, name)()
    assert made.name == name
    assert made.data.source in SOURCES
    assert Config.from_toml(made.to_toml()) == made
    assert recipes.summaries()[name] == inspect.getdoc(getattr(recipes, name)).splitlines()[0]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_its_arguments_change_what_they_say(name):
    recipe = getattr(recipes, name)
    changed = recipe(rounds=11, seed=5, clients=17)
    assert {line.partition(":")[0] for line in recipe().differences(changed)} == {"federation.rounds", "seed", "data.clients"}


@pytest.mark.parametrize("name", EMBEDDED)
def test_what_ships_needs_nothing_from_the_user(name):
    made = recipes.named(name)
    check_paths(made)
    assert all(one.encoder.startswith(("embedded:", "random:")) for one in made.modalities.values())
    known = inspect.signature(SOURCES[made.data.source]).parameters
    assert "folder" not in known


@pytest.mark.parametrize("name", GIVEN_BY_THE_USER)
def test_what_the_user_gives(name):
    """Every empty setting is asked for at once, and the ones that were given no more."""
    recipe = getattr(recipes, name)
    names = [f"modalities.{modality}.encoder" for modality in recipe().modalities]
    with pytest.raises(ConfigError) as refusal:
        check_paths(recipe())
    first, *lines = str(refusal.value).splitlines()
    assert first == f"data.source = '{name}' needs files of yours; give where they lie:"
    assert [line.split()[1] for line in lines] == [f"{key}=..." for key in ("data.options.folder", *names)]
    assert all(len(line.split("...  ")[1].strip()) > 30 for line in lines)
    some = recipe(folder="/mine")
    with pytest.raises(ConfigError) as refusal:
        check_paths(some)
    assert "data.options.folder" not in str(refusal.value)
    assert "--set modalities.text.encoder=..." in str(refusal.value)
    assert "modalities.text" not in _refused(recipe(text="/encoders/text"))
    everything = some.override([f"{key}=/encoders/x" for key in names])
    check_paths(everything)
    assert everything.data.options["folder"] == "/mine"


def _refused(config):
    with pytest.raises(ConfigError) as refusal:
        check_paths(config)
    return str(refusal.value)


@pytest.mark.parametrize("name", PAPER)
def test_the_tasks_of_the_paper(name):
    """Encoders by their names on the hub, 25 clients, IID or Dirichlet or by a column; only the data are the user's to give."""
    recipe = getattr(recipes, name)
    made = recipe()
    assert tuple(made.modalities) == PAPER[name]
    encoders = {"image": "swin-tiny", "visual": "swin-tiny", "text": "roberta-base", "audio": "ast"}
    assert all(encoders[modality] in one.encoder for modality, one in made.modalities.items())
    assert {one.block for modality, one in made.modalities.items() if modality in ("image", "visual")} == {2}
    assert (made.data.clients, made.federation.rounds, made.data.partition) == (25, 300, "iid")
    for alpha in (5, 1, 0.5, 0.1):
        skewed = recipe(partition="dirichlet", alpha=alpha)
        assert (skewed.data.partition, skewed.data.alpha) == ("dirichlet", alpha)
    if name != "hateful_memes":
        assert recipe(partition="column").data.column == {"meld": "speaker", "epic_kitchens": "participant"}[name]
    asked = ["data.options.folder", *(["data.options.annotations"] if name == "epic_kitchens" else [])]
    assert [line.split()[1] for line in _refused(made).splitlines()[1:]] == [f"{key}=..." for key in asked]
    check_paths(made.override([f"{key}=/mine" for key in asked]))


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
    assert list(recipes.products().modalities) == ["image", "text"]
    assert recipes.products().data.missing_rate > 0
    assert list(recipes.spoken_digits().modalities) == ["image", "audio", "text"]
    for recipe in (recipes.products, recipes.spoken_digits):
        assert recipe().data.clients == 20
        assert recipe().data.multimodal_fraction == 0.5
        assert recipe().data.partition == "dirichlet"
    shapes = [one.encoder for one in recipes.paper_shapes().modalities.values()]
    assert shapes == ["random:swin-tiny", "random:ast-base", "random:roberta-base"]
    for recipe in (recipes.digits, recipes.few_labels, recipes.match, recipes.products, recipes.spoken_digits):
        assert recipe().federation.warm_start


def test_their_encoders_are_there():
    for one in recipes.digits().modalities.values():
        assert load(one.encoder) is not None


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"^unknown recipe 'few_label'. Did you mean few_labels\?$"):
        recipes.named("few_label")
    with pytest.raises(ConfigError, match=r"^unknown recipe 'zzz'. There are digits, match, .*; a file's name"):
        recipes.named("zzz")


@pytest.mark.parametrize("name", ["digits", "match", "few_labels"])
def test_options_stand_in_the_settings_with_the_values_of_the_source(name):
    """All that the source knows, to be seen and changed; the results are those of its defaults."""
    data = recipes.named(name).data
    own = {key: one.default for key, one in inspect.signature(SOURCES[data.source]).parameters.items() if key not in (*COMMON, *PASSED)}
    assert data.options == own


@pytest.mark.parametrize("name", [*GIVEN_BY_THE_USER, *PAPER, "paper_shapes"])
def test_every_option_of_the_source_stands_in_the_settings(name):
    data = recipes.named(name).data
    assert set(data.options) == set(inspect.signature(SOURCES[data.source]).parameters) - {*COMMON, *PASSED}
