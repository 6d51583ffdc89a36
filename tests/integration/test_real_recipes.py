"""The recipes on people's own files, from the command line through the real decoding to a result, with tiny encoders of their families."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import transformers
from tests.integration import small
from tests.unit.data import media

from m2fedsa.reporting.files import read_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ("federation.batch_size=32", "fusion.width=16", "fusion.feed_forward=16", "compute.threads=1", "data.clients=4", "data.minimum=4")
WORDS = len(media.SPECIAL) + len(media.WORDS)


def mobilenet_v2():
    """Sixteen blocks of the narrowest sort, as the real one has."""
    config = transformers.MobileNetV2Config(depth_multiplier=0.1, min_depth=4, finegrained_output=False, tf_padding=True)
    return awake(transformers.MobileNetV2Model(config))


def mobilenet_v1():
    config = transformers.MobileNetV1Config(num_channels=1, depth_multiplier=0.05, min_depth=4, hidden_act="relu", tf_padding=True)
    return awake(transformers.MobileNetV1Model(config))


def awake(model):
    """As strong behind the last layer as before the first: weights of the usual 0.02 leave nothing of a picture after so many."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    return model


def bert():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertModel(transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=16, **sizes), add_pooling_layer=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data and encoders as a user has them: a tokenizer lies with the text encoder, the others have no processor."""
    root = tmp_path_factory.mktemp("mine")
    media.write_products(root / "products")
    media.write_digits(root / "spoken_digits")
    transformers.utils.logging.disable_progress_bar()
    for name, make in (("image", mobilenet_v2), ("audio", mobilenet_v1), ("text", bert)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            make().save_pretrained(root / name)
    media.tokenizer().save_pretrained(root / "text")
    return root


MODALITIES = {"products": ("image", "text"), "spoken_digits": ("image", "audio", "text")}
ROUNDS = {"products": 2, "spoken_digits": 1}
SIZES = {"products": 32, "spoken_digits": 28}


def words(recipe, places, *settings, **replaced):
    """The command line that a user types."""
    paths = {f"modalities.{modality}.encoder": places / modality for modality in MODALITIES[recipe]}
    paths |= {"data.options.folder": places / recipe, "data.options.image_size": SIZES[recipe], **replaced}
    given = [f"{key}={value}" for key, value in paths.items()]
    return ["run", recipe, *(word for setting in (*given, *TINY, *settings) for word in ("--set", setting))]


@pytest.mark.parametrize("recipe", MODALITIES)
def test_a_recipe_runs_to_the_end(places, tmp_path, capsys, recipe):
    out = tmp_path / "run"
    assert small.call(*words(recipe, places, f"federation.rounds={ROUNDS[recipe]}", "data.missing_rate=0.3"), "--out", out) == 0
    result, facts = read_json(out / "result.json"), read_json(out / "clients.json")
    assert result["rounds"] == ROUNDS[recipe]
    assert {name for name in result["metrics"] if "+" not in name} == {"fused", *MODALITIES[recipe]}
    assert result["metrics"]["fused"]["samples"] == {"products": 7, "spoken_digits": 10}[recipe]
    assert facts["modalities"] == list(MODALITIES[recipe])
    assert sum(client["train"] for client in facts["clients"].values()) == {"products": 42, "spoken_digits": 40}[recipe]
    assert "notes" not in facts
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert all(value is not None and value >= 0 for value in rounds[0]["loss"].values())
    printed = capsys.readouterr().out
    for modality, entry in result["ledger"].items():
        assert 0 < entry["client"]["frozen"]["bytes"] < entry["whole"]["trainable"]["bytes"]
        assert f"\n{modality:<10}" in printed


def test_the_same_settings_give_the_same_digest(places, tmp_path):
    digests = []
    for name in ("one", "other"):
        settings = ("federation.rounds=1", "federation.warm_start=false", "evaluation.every=2")
        assert small.call(*words("products", places, *settings), "--out", tmp_path / name) == 0
        digests.append(read_json(tmp_path / name / "result.json")["digest"])
    assert digests[0] == digests[1]


def test_what_is_cut_is_told_on_the_terminal_and_in_the_run_directory(places, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ("federation.rounds=1", "federation.warm_start=false", "data.options.text_tokens=5")
    assert small.call(*words("products", places, *settings), "--out", out) == 0
    note = "title: 56 of 56 texts are longer than 5 tokens; what comes later is not read"
    assert f"note         {note}\n" in capsys.readouterr().out
    assert read_json(out / "clients.json")["notes"] == [note]


def test_a_processor_of_ones_own(places, tmp_path):
    """A tokenizer that lies elsewhere than the encoder."""
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((places / "text" / name).read_bytes())
    bare = {"modalities.text.encoder": tmp_path / "bare"}
    settings = ("federation.rounds=1", "federation.warm_start=false", f"modalities.text.processor={places / 'text'}")
    assert small.call(*words("products", places, *settings, **bare), "--out", tmp_path / "run") == 0


@pytest.mark.usefixtures("nothing_is_trained")
class TestRefused:
    @pytest.mark.parametrize("recipe", MODALITIES)
    def test_nothing_given(self, capsys, recipe):
        said = small.refused(capsys, "run", recipe)
        assert f"recipe {recipe}: data.source = '{recipe}' needs files of yours; give where they lie:" in said
        for key in ("data.options.folder", *(f"modalities.{modality}.encoder" for modality in MODALITIES[recipe])):
            assert f"--set {key}=..." in said

    def test_rows_that_cannot_be_used(self, tmp_path, places, capsys):
        rows = media.product_rows()
        rows[1]["title"] = " "
        media.write_products(tmp_path / "data", rows)
        (tmp_path / "data" / rows[3]["image"]).write_bytes(b"")
        said = small.refused(capsys, *words("products", places, **{"data.options.folder": tmp_path / "data"}), "--out", tmp_path / "run")
        assert "2 of 56 rows cannot be used" in said
        assert "row 2 (0001), title: the text is empty" in said
        assert f"row 4 (0003), image: {tmp_path}/data/img/0003.jpg: the file is empty (0 bytes)" in said
        assert not (tmp_path / "run").exists()

    def test_an_encoder_without_tokenizer(self, places, capsys):
        said = small.refused(capsys, *words("products", places, **{"modalities.text.encoder": places / "image"}))
        assert f"modalities.text.encoder = '{places / 'image'}', but no" in said

    def test_a_processor_that_nobody_reads(self, capsys):
        said = small.refused(capsys, "run", "digits", "--set", "modalities.text.processor=here")
        assert "modalities.text.processor = 'here', but the source digits prepares its inputs itself" in said


def test_the_study(places, tmp_path, monkeypatch, capsys):
    """The benchmark of both recipes at a size of seconds: a row a run, figures from them, nothing run twice."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    main = runpy.run_path(str(BENCHMARKS / "real_recipes.py"))["main"]
    out, table = tmp_path / "real.jsonl", tmp_path / "results.md"
    folders = {"flipkart": "products", "image": "image", "text": "text"}
    given = [word for name, folder in folders.items() for word in (f"--{name}", str(places / folder))]
    settings = (*TINY, "federation.rounds=1", f"data.options.image_size={SIZES['products']}")
    given += ["--seeds", "2", "--out", str(out), "--table", str(table), *(word for one in settings for word in ("--set", one))]
    main(given)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["recipe"], row["seed"]) for row in rows] == [("products", 5), ("products", 6)]
    assert str(places) not in out.read_text()
    for row in rows:
        assert set(row["linear"]) == set(row["linear_complete"]) == {"fused", "image", "text"}
        # a word of each title names its category, and every training sample is there
        assert row["linear_complete"]["text"] == 1.0
    mean = sum(row["test"]["fused"] for row in rows) / 2
    assert f"| m2fedsa | {mean:.3f} ± " in table.read_text()
    assert "\nproducts       seed 6  fused" in capsys.readouterr().out
    main(given)
    assert "seed 6  fused" not in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 2
    main(["--out", str(out)])
    assert capsys.readouterr().out.startswith("skipped: ")


def test_the_papers_shapes(tmp_path, monkeypatch, capsys):
    """With tiny encoders in place of the large ones, which take gigabytes."""
    from m2fedsa.models import shapes

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    swin = transformers.SwinConfig(image_size=224, patch_size=16, embed_dim=8, depths=[2, 1], num_heads=[1, 1], window_size=7)
    audio = transformers.ASTConfig(max_length=128, num_mel_bins=128, patch_size=32, frequency_stride=32, time_stride=32, **sizes)
    text = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=80, type_vocab_size=1, **sizes)
    small_ones = {
        "swin-tiny": lambda: transformers.SwinModel(swin),
        "ast-base": lambda: transformers.ASTModel(audio),
        "roberta-base": lambda: transformers.RobertaModel(text, add_pooling_layer=False),
    }
    monkeypatch.setattr(shapes, "SHAPES", small_ones)
    out = tmp_path / "run"
    assert small.call("run", "paper_shapes", "--set", "compute.threads=1", "--out", out) == 0
    assert set(read_json(out / "result.json")["ledger"]) == {"image", "audio", "text"}
    assert "receives" in capsys.readouterr().out
