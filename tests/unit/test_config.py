import itertools
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from m2fedsa.checks import check_widths
from m2fedsa.config import AveragingRule, Config, Section
from m2fedsa.errors import ConfigError
from m2fedsa.settings_text import commented

PLAIN = {"modalities": {"image": {"encoder": "x"}, "text": {"encoder": "y"}}}


def config(**tables):
    return Config.from_mapping({**PLAIN, **tables})


# --- defaults -----------------------------------------------------------------------------------------------------------------------

DEFAULTS = {
    # Section "Defaults" of the specification.
    "optimizer.weight_decay": 0.05,
    "optimizer.learning_rate": 1e-4,
    "optimizer.fusion_factor": 10.0,
    "optimizer.schedule": "constant",
    "federation.batch_size": 32,
    "federation.local_epochs": 1,
    "federation.rounds": 300,
    "data.clients": 25,
    "modalities.image.adapter_width": 64,
    "modalities.image.block": 1,
    # Told where the specification speaks of each.
    "modalities.image.adapter_dropout": 0.1,
    "modalities.image.modality_adapter": True,
    "modalities.image.readable_text": False,
    "modalities.image.task_adapter": True,
    "fusion.width": 256,
    "fusion.heads": 4,
    "fusion.blocks": 1,
    "fusion.bilinear": True,
    "fusion.late": True,
    "fusion.gradient_to_encoders": True,
    "fusion.modality_dropout": 0.0,
    "loss.prior_adjusted": True,
    "transfer.weights": [0.6, 0.2, 0.2],
    "transfer.refresh": 5,
    "transfer.start": "plateau",
    "transfer.closed_form": True,
    "transfer.unlabelled": True,
    "transfer.teacher": "fused",
    "federation.server_update": "copies",
    "federation.server_momentum": 0.0,
    "federation.warm_start": True,
    "warm_start.min_count": 1,
    "data.labelled_fraction": 1.0,
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_default(key):
    value = tomllib.loads(config().to_toml())
    for part in key.split("."):
        value = value[part]
    assert value == DEFAULTS[key]
    assert type(value) is type(DEFAULTS[key])


def test_defaults_that_are_unset():
    """All clients take part, in epochs, and C_m learns at a tenth of the rate after a warm start."""
    assert config().federation.clients_per_round is None
    assert config().federation.local_steps is None
    assert config().classifier_factor == 0.1
    assert config(federation={"warm_start": False}).classifier_factor == 1.0
    assert config(optimizer={"classifier_factor": 0.3}).classifier_factor == 0.3


def test_default_rules():
    """Inter-modality: the update part of TA. Everything else over clients."""
    rules = config().averaging
    assert rules.over("image.ta.update.weight") == "modalities"
    for name in ("image.ma.update.weight", "image.ta.down.bias", "fusion.blocks.0.norm1.weight", "fused.classifier.weight"):
        assert rules.over(name) == "clients"


# --- there and back -----------------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("fusion", "fused"))
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
fraction = st.floats(0, 1)
share = st.floats(0, 1, exclude_min=True)
probability = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e9, exclude_min=True)
count = st.integers(1, 10**6)
maybe = st.none() | count
option = texts | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)


def some(**fields):
    """Any of these keys, each absent or drawn."""
    return st.fixed_dictionaries({}, optional=fields)


modality = st.fixed_dictionaries(
    {"encoder": texts, "adapter_width": st.just(8)},
    optional={
        "block": st.integers(0, 100),
        "blocks": st.lists(texts, max_size=3),
        "pooling": st.sampled_from(["default", "pooler", "mean", "cls", "last"]),
        "adapter_dropout": probability,
        "modality_adapter": st.booleans(),
        "task_adapter": st.booleans(),
    },
)
configs = st.fixed_dictionaries(
    {"modalities": st.dictionaries(names, modality, min_size=1, max_size=3)},
    optional={
        "name": st.from_regex(r"\w[\w .\"'#-]{0,12}", fullmatch=True),
        "seed": st.integers(0, 2**63 - 1),
        "data": some(
            source=texts,
            alpha=positive,
            missing_rate=probability,
            labelled_fraction=fraction,
            options=st.dictionaries(names, option),
        ),
        "fusion": some(blocks=st.integers(0, 9), feed_forward=st.integers(0, 999), bilinear=st.booleans(), modality_dropout=probability),
        "transfer": some(start=count | st.sampled_from(["never", "plateau"]), weights=st.tuples(*[fraction] * 3), refresh=count),
        "optimizer": some(learning_rate=positive, schedule=st.sampled_from(["constant", "cosine"]), classifier_factor=st.none() | positive),
        "federation": some(rounds=st.integers(0, 10**6), local_steps=maybe, batch_size=count, server_momentum=probability),
        "warm_start": some(shrinkages=st.lists(share, min_size=1, max_size=4), scales=st.lists(positive, min_size=1, max_size=4)),
        "averaging": some(
            rules=st.lists(
                st.fixed_dictionaries({"pattern": texts, "over": st.sampled_from(["clients", "modalities", "nothing"])}), max_size=3
            )
        ),
        "objects": some(loss=st.none() | texts),
    },
)


@given(configs)
@settings(max_examples=150)
def test_toml_and_back(values):
    """Whatever was set comes back, and nothing else changes."""
    made = Config.from_mapping(values)
    again = Config.from_toml(made.to_toml())
    assert again == made
    assert again.to_toml() == made.to_toml()
    assert made.differences(again) == []
    for table, fields in values.items():
        if isinstance(fields, dict) and table != "modalities":
            for key, value in fields.items():
                kept = getattr(getattr(again, table), key)
                if key == "rules":
                    kept = [one.model_dump() for one in kept]
                assert kept == (tuple(value) if isinstance(value, list) and key != "rules" else value)


@given(configs)
@settings(max_examples=30)
def test_toml_is_complete(values):
    """Every setting that has a value is written: a later version's defaults change nothing."""
    made = Config.from_mapping(values)
    written = tomllib.loads(made.to_toml())

    def holds(section, table):
        for key in type(section).model_fields:
            value = getattr(section, key)
            if isinstance(value, Section):
                holds(value, table.get(key, {}))
            elif value is None:
                assert key not in table
            else:
                assert key in table

    holds(made, written)


@given(configs)
@settings(max_examples=100)
def test_the_explained_file_says_the_same(values):
    """Comments change nothing, whatever is set."""
    made = Config.from_mapping(values)
    text = commented(made)
    assert Config.from_toml(text) == made
    assert tomllib.loads(text).get("averaging") == tomllib.loads(made.to_toml()).get("averaging")


def keys_of(section, path=()):
    """Every setting there is, with its value."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from keys_of(value, (*path, name))
        elif name == "modalities":
            for modality, one in value.items():
                yield from keys_of(one, (*path, name, modality))
        else:
            yield (*path, name), value


def test_every_setting_stands_in_the_explained_file():
    """Those that are set as keys, those that are unset as lines that count when their first sign is taken away."""
    made = config()
    text = commented(made)
    filled = tomllib.loads(re.sub(r"^#(?! )", "", text, flags=re.MULTILINE))
    written = tomllib.loads(text)
    unset = set()
    for (*above, key), value in keys_of(made):
        inner, whole = written, filled
        for part in above:
            inner, whole = inner.get(part, {}), whole[part]
        assert key in whole
        if value is None:
            unset.add(key)
            assert key not in inner
        else:
            assert whole[key] == inner[key]
    assert unset >= {"clients_per_round", "local_steps", "classifier_factor", "processor", "blocks", "loss", "average", "sampler"}
    del filled["data"]["manifest"]  # which would take the place of the source
    assert Config.from_mapping(filled), "the examples are values that are allowed"


def test_every_key_is_explained_above_itself():
    """Once: the second modality refers to the first."""
    lines = commented(config()).splitlines()
    table, explained = "", {}
    for above, line in itertools.pairwise(lines):
        if line.startswith("["):
            table = line.strip("[]")
        elif re.match(r"#?[a-z_]+ = ", line):
            explained[f"{table}.{line.lstrip('#').partition(' ')[0]}"] = above.startswith("# ")
    bare = {key for key, told in explained.items() if not told}
    assert bare == {f"modalities.text.{key}" for key in type(config().modalities["text"]).model_fields if key != "options"}
    assert lines[lines.index("[modalities.text]") - 1] == "# As explained for modalities.image."
    assert max(map(len, lines)) <= 112


def test_what_the_explanations_say():
    text = " ".join(commented(config()).replace("\n# ", " ").split())
    assert "Clients sampled for a round; unset: all. #clients_per_round = 1" in text
    assert '`self`: each modality is its own teacher, the baseline to beat. One of "fused", "self". teacher = "fused"' in text
    assert "--set key=none unsets a key" in text


def test_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(config(name="Größe", seed=3).to_toml(), encoding="utf-8")
    assert Config.from_file(path) == config(name="Größe", seed=3)


# --- changes ------------------------------------------------------------------------------------------------------------------------


def test_override():
    made = config()
    changed = made.override(
        [
            "federation.rounds=3",
            "transfer.start=never",
            "optimizer.learning_rate = 1e-3",
            "fusion.late=false",
            "transfer.weights=[1, 0.5, 0]",
            'averaging.rules=[{pattern="*.ma.*", over="nothing"}]',
            "data.options.image_noise=0.5",
            "modalities.audio.encoder=embedded:digits-audio",
            'name="3"',
        ]
    )
    assert (changed.federation.rounds, changed.transfer.start, changed.optimizer.learning_rate) == (3, "never", 1e-3)
    assert (changed.fusion.late, changed.transfer.weights, changed.name) == (False, (1.0, 0.5, 0.0), "3")
    assert changed.averaging.rules == (AveragingRule(pattern="*.ma.*", over="nothing"),)
    assert changed.data.options == {"image_noise": 0.5}
    assert changed.modalities["audio"].encoder == "embedded:digits-audio"
    assert made == config(), "the original stays"


def test_the_last_of_several_counts_and_none_unsets():
    assert config().override(["seed=1", "seed=2"]).seed == 2
    limited = config().override(["federation.clients_per_round=3"])
    assert limited.federation.clients_per_round == 3
    assert limited.override(["federation.clients_per_round=none"]) == config()
    assert config(seed=4).override(["seed=none"]).seed == 0


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "--set seed: write key=value, e.g. --set federation.rounds=10."),
        ("=3", "--set =3: write key=value"),
        ("seed.x=3", "--set seed.x=3: seed is a value, not a table."),
        ("sed=3", "--set: unknown key sed. Did you mean seed?"),
        ("modalities.image.blok=3", "--set: unknown key modalities.image.blok. Did you mean modalities.image.block?"),
        ("seed=", "--set: seed = '', but it should be a whole number."),
    ],
)
def test_override_that_cannot_be(assignment, said):
    with pytest.raises(ConfigError) as refusal:
        config().override([assignment])
    assert said in str(refusal.value)


def test_differences():
    here = config(federation={"rounds": 3})
    there = here.override(["federation.rounds=4", "federation.local_steps=2", "fusion.late=false", "modalities.image.pooling=cls"])
    assert here.differences(there) == [
        "federation.local_steps: unset -> 2",
        "federation.rounds: 3 -> 4",
        "fusion.late: true -> false",
        "modalities.image.pooling: 'default' -> 'cls'",
    ]
    fewer = Config.from_mapping({"modalities": {"image": {"encoder": "x"}}})
    assert "modalities.text.encoder: 'y' -> unset" in config().differences(fewer)
    assert here.differences(here) == []


def test_no_noise_is_infinite_decibels():
    """An option may be infinite, and stays so."""
    made = config(data={"options": {"audio_snr_db": float("inf")}})
    assert Config.from_toml(made.to_toml()) == made
    assert made.data.options["audio_snr_db"] == float("inf")


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        config().seed = 3
    with pytest.raises(ValidationError):
        config().fusion.width = 3


# --- refusals that the command line's tests do not reach ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int", "float", "str", "bool", "none"])
def test_a_modality_may_be_called_like_a_type(kind):
    with pytest.raises(ConfigError, match=rf"^settings: modalities.{kind}.encoder is missing"):
        Config.from_mapping({"modalities": {kind: {"block": 1}}})
    with pytest.raises(ConfigError, match=rf"^settings: modalities.{kind} = 3, but it should be a table.$"):
        Config.from_mapping({"modalities": {kind: 3}})
    with pytest.raises(ConfigError, match=rf"^settings: data.options.{kind} = \[\], but it should be a number,"):
        config(data={"options": {kind: []}})


@pytest.mark.parametrize("name", ["", "1st", "left camera", "a.b", "fusion", "fused"])
def test_names_that_no_modality_can_have(name):
    with pytest.raises(ConfigError, match="modalit"):
        Config.from_mapping({"modalities": {name: {"encoder": "x"}}})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", " a", ".git", "a\\b", "a\nb"])
def test_names_that_no_run_can_have(name):
    with pytest.raises(ConfigError, match="a directory is named by it"):
        config(name=name)


def test_unequal_widths_matter_only_where_they_are_averaged():
    unequal = {"image": {"encoder": "x", "adapter_width": 8}, "text": {"encoder": "y", "adapter_width": 16}}
    with pytest.raises(ConfigError, match=r"adapter_width = \{'image': 8, 'text': 16\}"):
        check_widths(Config.from_mapping({"modalities": unequal}))
    for over in ("clients", "nothing"):
        check_widths(Config.from_mapping({"modalities": unequal, "averaging": {"rules": [{"pattern": "*.ta.*", "over": over}]}}))
    check_widths(Config.from_mapping({"modalities": {**unequal, "text": {**unequal["text"], "task_adapter": False}}}))
    rules = [{"pattern": "*.ma.update.*", "over": "modalities"}, {"pattern": "*.ta.*", "over": "clients"}]
    with pytest.raises(ConfigError, match="adapter_width"):
        check_widths(Config.from_mapping({"modalities": unequal, "averaging": {"rules": rules}}))
