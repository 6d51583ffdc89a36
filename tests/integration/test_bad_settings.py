"""Settings that cannot be used are refused before anything is trained or written: exit 2, and a sentence with file, key, what was found
and what would be right.
"""

import pytest
from tests.integration import small

pytestmark = pytest.mark.usefixtures("nothing_is_trained")


WRONG = {
    "a misspelt table": ({"optimzer": {"learning_rate": 0.1}}, "mine.toml: unknown key optimzer. Did you mean optimizer?"),
    "a misspelt key": ({"federation.ronds": 3}, "mine.toml: unknown key federation.ronds. Did you mean federation.rounds?"),
    "a misspelt key of a modality": (
        {"modalities.text.adapter_widht": 3},
        "mine.toml: unknown key modalities.text.adapter_widht. Did you mean modalities.text.adapter_width?",
    ),
    "a misspelt key of a rule": (
        {"averaging.rules": [{"patern": "*", "over": "clients"}]},
        "mine.toml: unknown key averaging.rules[0].patern. Did you mean averaging.rules[0].pattern?",
    ),
    "a key like no other": (
        {"evaluation.zzz": 1},
        "mine.toml: unknown key evaluation.zzz. Known here: every, batch_size, metric, patience, keep_best.",
    ),
    "a text for a number": ({"federation.rounds": "ten"}, "mine.toml: federation.rounds = 'ten', but it should be a whole number."),
    "a fraction for a count": ({"federation.rounds": 1.5}, "mine.toml: federation.rounds = 1.5, but it should be a whole number."),
    "a text for a truth": ({"fusion.late": "no"}, "mine.toml: fusion.late = 'no', but it should be true or false."),
    "a value for a table": ({"warm_start": False}, "mine.toml: warm_start = false, but it should be a table."),
    "below the range": ({"federation.batch_size": 0}, "mine.toml: federation.batch_size = 0, but it should be at least 1."),
    "above the range": ({"data.labelled_fraction": 1.5}, "mine.toml: data.labelled_fraction = 1.5, but it should be at most 1."),
    "not finite": (
        {"optimizer.learning_rate": float("inf")},
        "mine.toml: optimizer.learning_rate = inf, but it should be a finite number.",
    ),
    "none of several words": (
        {"data.partition": "dirichlt"},
        "mine.toml: data.partition = 'dirichlt', but it should be 'dirichlet', 'iid', 'shards', ",
    ),
    "of no type that it may have": (
        {"transfer.start": "soon"},
        "mine.toml: transfer.start = 'soon', but it should be a whole number or 'never', 'plateau' or 'authors'.",
    ),
    "within a list": ({"transfer.weights": [0.6, -0.2, 0.2]}, "mine.toml: transfer.weights[1] = -0.2, but it should be at least 0."),
    "a list that is too short": (
        {"transfer.weights": [1, 2]},
        "mine.toml: transfer.weights = [1, 2], but it should be a list of three numbers.",
    ),
    "a list that is too long": (
        {"transfer.weights": [1, 2, 3, 4]},
        "mine.toml: transfer.weights = [1, 2, 3, 4], but it should be a list of three numbers.",
    ),
    "an empty list": ({"warm_start.scales": []}, "mine.toml: warm_start.scales = [], but it should be a list of one or more."),
    "a conflict": ({"fusion.heads": 3}, "mine.toml: fusion.heads = 3 does not divide fusion.width = 8."),
    "more clients than there are": (
        {"federation.clients_per_round": 9},
        "mine.toml: federation.clients_per_round = 9, but data.clients = 4.",
    ),
    "unequal adapters under one average": (
        {"modalities.text.adapter_width": 8},
        "mine.toml: modalities.*.adapter_width = {'image': 4, 'text': 8}, but the update part of the adapters is averaged over modalities",
    ),
    "a name with a slash": ({"name": "a/b"}, "mine.toml: name = 'a/b', but a directory is named by it: no slash, and no dot or space at"),
    "a modality that is called like fusion": ({"modalities.fused": {"encoder": "x"}}, "mine.toml: modalities.fused: this name is taken"),
    "no modality": ({"modalities": {}}, "mine.toml: modalities: none is given; a run needs at least one, e.g. [modalities.image]"),
    "a modality without encoder": (
        {"modalities.text.encoder": None},
        "mine.toml: modalities.text.encoder is missing; it has to be given. Give a folder, a name on the hub or one that ships",
    ),
    "a modality of the data without settings": (
        {"modalities.text": None},
        "mine.toml: modalities.text is missing: the data has this modality, and it needs an encoder: [modalities.text] encoder = ...",
    ),
    "a modality that the data lacks": (
        {"modalities.smell": {"encoder": "x", "adapter_width": 4}},
        "mine.toml: modalities.smell: the data has no such modality, but image, text.",
    ),
    "a modality that the data lacks, of another width": (
        {"modalities.smell": {"encoder": "x"}},
        "mine.toml: modalities.smell: the data has no such modality, but image, text.",
    ),
    "an unknown source": ({"data.source": "digts"}, "mine.toml: data.source = 'digts' is not known. Did you mean digits?"),
    "an unknown option": (
        {"data.options.nois": 1},
        "mine.toml: data.options.nois: the source synthetic has no such option. Did you mean data.options.noise?",
    ),
    "an option that the source needs": (
        {"data.options.samples_per_client": None},
        "mine.toml: data.options.samples_per_client is missing: the source synthetic needs it.",
    ),
    "an option of another type": (
        {"data.options.noise": "loud"},
        "mine.toml: data.options.noise = 'loud', but it should be a number.",
    ),
    "an option that is no whole number": (
        {"data.options.classes": 2.5},
        "mine.toml: data.options.classes = 2.5, but it should be a whole number.",
    ),
    "a truth for a number": ({"data.options.noise": True}, "mine.toml: data.options.noise = true, but it should be a number."),
    "an option that TOML cannot say": (
        {"data.options.modalities": "image"},
        "mine.toml: data.options.modalities = 'image', but it should be left out; only a program can set it.",
    ),
    "an option out of range": ({"data.options.noise": -1}, "mine.toml: data.options.noise is -1; it is a standard deviation and must be"),
    "a source that only a program can give": ({"data.source": "object"}, 'mine.toml: data.source = "object", but no data set was passed'),
    "an encoder that only a program can give": (
        {"modalities.text.encoder": "object"},
        'mine.toml: modalities.text.encoder = "object", but no model was passed',
    ),
    "a part that only a program can give": (
        {"objects": {"loss": "study.focal"}},
        'mine.toml: objects.loss = "study.focal", but it was not passed. Call m2fedsa.run(config, loss=...), or leave the key out.',
    ),
    "a cut beyond the blocks": (
        {"modalities.image.block": 99},
        "mine.toml: modalities.image.block = 99, but ViTModel has 2 blocks (0 … 2). Try 1: the client then keeps the embeddings and one",
    ),
    "a cut that leaves no place for the task adapter": (
        {"modalities.image.block": 2},
        "mine.toml: modalities.image.block = 2 leaves ViTModel no block for a task adapter to run in. Cut at 0 … 1, or set task_adapter =",
    ),
    "a cut from which text can be read": (
        {"modalities.text.block": 0},
        "mine.toml: modalities.text.block = 0 would send the embeddings of input_ids, from which the text can simply be read. Cut at 1 or",
    ),
    "a pooling that the encoder lacks": (
        {"modalities.image.pooling": "pooler"},
        "mine.toml: modalities.image.pooling = 'pooler', but ViTModel has no pooler: use 'mean' or 'cls'",
    ),
    "blocks that the encoder lacks": (
        {"modalities.image.blocks": ["layers.7"]},
        "mine.toml: modalities.image: `blocks` names ['layers.7'], but ViTModel has no such module. Its module lists: layers (2).",
    ),
    "an encoder that does not ship": (
        {"modalities.image.encoder": "embedded:vit-huge"},
        "mine.toml: modalities.image.encoder = embedded:vit-huge does not ship with this package; what does: embedded:digits-audio",
    ),
    "an encoder that is not there": (
        {"modalities.image.encoder": "./nowhere"},
        "mine.toml: modalities.image.encoder = ./nowhere is not a folder; an encoder is a folder as `save_pretrained` writes it",
    ),
    "a rule that no tensor matches": (
        {"averaging.rules": [{"pattern": "*.clasifier.*", "over": "nothing"}]},
        "mine.toml: averaging.rules[0].pattern = '*.clasifier.*', but no tensor has such a name. There are fused.classifier.*,",
    ),
    "a rule that averages what is not equal in shape": (
        {"averaging.rules": [{"pattern": "*.ma.down.weight", "over": "modalities"}]},
        "of unequal shape over modalities (image.ma.down.weight (4, 16), text.ma.down.weight (4, 12)). Choose a pattern that leaves them",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings(capsys, tmp_path, encoders, case):
    settings, said = WRONG[case]
    assert said in small.refuses(capsys, tmp_path, small.changed(encoders, **settings))


def test_several_faults_are_told_at_once(capsys, tmp_path, encoders):
    said = small.refuses(capsys, tmp_path, small.changed(encoders, **{"federation.rounds": -1, "fusoin": {}, "seed": "x"}))
    assert said == (
        "error: mine.toml: unknown key fusoin. Did you mean fusion? "
        "mine.toml: seed = 'x', but it should be a whole number. mine.toml: federation.rounds = -1, but it should be at least 0."
    )


def test_broken_and_missing_files(capsys, tmp_path):
    assert "mine.toml: not valid TOML" in small.refuses(capsys, tmp_path, "[federation\nrounds = 3")
    assert "(at line 1, column 12)" in small.refuses(capsys, tmp_path, "[federation\nrounds = 3")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    assert "mine.toml: cannot be read as UTF-8 text" in small.refused(capsys, "run", "mine.toml")
    (tmp_path / "mine.toml").unlink()
    assert "yours.toml: no such file.\n       `m2fedsa config digits > yours.toml` writes one" in small.refused(capsys, "run", "yours.toml")


def test_unknown_recipe(capsys, tmp_path):
    assert "unknown recipe 'digit'.\n       Did you mean digits?" in small.refused(capsys, "run", "digit")
    assert "unknown recipe 'zzz'.\n       There are digits, match, few_labels" in small.refused(capsys, "run", "zzz")
    assert not list(tmp_path.iterdir())


def test_what_set_says(capsys, tmp_path, settings):
    for words, said in (
        (["federation.rounds"], "--set federation.rounds: write key=value, e.g. --set federation.rounds=10."),
        (["federation.rounds=many"], "--set: federation.rounds = 'many', but it should be a whole number."),
        (["federation.rounds.of=3"], "--set federation.rounds.of=3: rounds is a value, not a table."),
        (["modalities.image.block=99"], f"{settings}: modalities.image.block = 99, but ViTModel has 2 blocks"),
    ):
        assert said in small.refused(capsys, "run", settings, *(part for word in words for part in ("--set", word)))
    assert (
        "recipe digits: data.clients = 500 and data.minimum = 8, each client's least, need 4000 samples, but there are 1192.\n"
        "       Ask for at most 149 clients, or for a lower minimum."
    ) in small.refused(capsys, "run", "digits", "--set", "data.clients=500")
    assert "recipe digits: modalities.video: the data has no such modality, but image, audio, text." in small.refused(
        capsys, "run", "digits", "--set", "modalities.video.encoder=x"
    )
    assert "recipe match: modalities.image.block = 99, but ViTModel has" in small.refused(
        capsys, "run", "match", "--set", "modalities.image.block=99"
    )
    assert not list(tmp_path.iterdir())
