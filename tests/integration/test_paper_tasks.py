"""The tasks of the paper from the command line, through the real decoding of files in their owners' layout, with tiny encoders of the
families that the paper uses."""

import json

import pytest
import torch
import transformers
from tests.integration import small
from tests.unit.data import media, owners

from m2fedsa.reporting.files import read_json

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TINY = ("federation.rounds=2", "federation.batch_size=8", "evaluation.every=2", "fusion.width=16", "fusion.feed_forward=16")
TINY += ("compute.threads=1", "data.clients=3", "data.minimum=2", "kept.where=memory")
MODALITIES = {"hateful_memes": ("image", "text"), "meld": ("audio", "visual", "text"), "epic_kitchens": ("visual", "audio")}
SAMPLES = {"hateful_memes": (16, 6), "meld": (14, 7), "epic_kitchens": (15, 10)}


def swin():
    config = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=4)
    return transformers.SwinModel(config), transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})


def ast():
    config = transformers.ASTConfig(max_length=64, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8, **SIZES)
    return transformers.ASTModel(config), transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=16)


def roberta():
    words = len(media.SPECIAL) + len(media.WORDS)
    config = transformers.RobertaConfig(vocab_size=words, max_position_embeddings=40, type_vocab_size=1, pad_token_id=0, **SIZES)
    return transformers.RobertaModel(config, add_pooling_layer=False), media.tokenizer()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data and encoders, each with its processor, as they lie where they were downloaded to."""
    root = tmp_path_factory.mktemp("paper")
    owners.write_hateful_memes(root / "hateful_memes")
    owners.write_meld(root / "meld")
    owners.write_epic(root / "epic_kitchens")
    transformers.utils.logging.disable_progress_bar()
    for name, make in (("image", swin), ("visual", swin), ("audio", ast), ("text", roberta)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for part in make():
                part.save_pretrained(root / "encoders" / name)
    return root


def words(recipe, places, *settings):
    """The command line that a user types."""
    paths = {f"modalities.{name}.encoder": places / "encoders" / name for name in MODALITIES[recipe]}
    paths["data.options.folder"] = places / recipe
    if recipe == "epic_kitchens":
        paths["data.options.folder"] /= "EPIC-KITCHENS"
        paths["data.options.annotations"] = places / recipe / "epic-kitchens-100-annotations"
        settings = ("data.options.validation=0.25", *settings)
    given = [f"{key}={value}" for key, value in paths.items()]
    return ["run", recipe, *(word for setting in (*given, *TINY, *settings) for word in ("--set", setting))]


SPLITS = {
    "hateful_memes": ("data.partition=dirichlet", "data.alpha=0.5"),
    "meld": ("data.partition=column",),
    "epic_kitchens": ("data.options.frames_from=rgb_frames",),
}


@pytest.mark.parametrize("recipe", MODALITIES)
def test_a_recipe_runs_to_the_end(places, tmp_path, capsys, recipe):
    out = tmp_path / "run"
    assert small.call(*words(recipe, places, *SPLITS[recipe]), "--out", out) == 0
    result, facts = read_json(out / "result.json"), read_json(out / "clients.json")
    train, test = SAMPLES[recipe]
    assert result["rounds"] == 2
    assert facts["modalities"] == list(MODALITIES[recipe])
    assert result["metrics"]["fused"]["samples"] == test
    assert {name for name in result["metrics"] if "+" not in name} == {"fused", *MODALITIES[recipe]}
    metric = {"hateful_memes": "auc", "meld": "uar", "epic_kitchens": "accuracy"}[recipe]
    assert 0 <= result["metrics"]["fused"][metric] <= 1
    if recipe == "hateful_memes":
        assert result["metrics"]["fused"]["auc_error"] == 0, "over the whole set, not per batch"
    trained = sum(client["train"] for client in facts["clients"].values())
    # of two utterances without video nothing is left for a client that holds no text
    assert trained == train if recipe != "meld" else train - 1 <= trained <= train
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert all(value is not None and value >= 0 for value in rounds[0]["loss"].values())
    assert "failures" not in rounds[0]
    capsys.readouterr()


@pytest.mark.usefixtures("nothing_is_trained")
def test_what_is_missing_is_told_before_anything_is_trained(places, tmp_path, capsys):
    said = small.refused(capsys, "run", "epic_kitchens")
    assert "--set data.options.folder=..." in said
    assert "--set data.options.annotations=..." in said
    said = small.refused(capsys, *words("meld", places, f"data.options.folder={tmp_path}"), "--out", tmp_path / "run")
    assert "6 files are missing; there is nothing." in said
    assert all(name in said for part, name in owners.HOMES.items())
    assert all(f"{part}_sent_emo.csv" in said for part in owners.HOMES)
    assert not (tmp_path / "run").exists()
