"""Encoders from a folder, from the package, or from the user's hands."""

import json
import logging
from pathlib import Path

import httpx
import pytest
import torch
import transformers
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file
from tests.unit.models.tiny import WIDTHS, encoder, inputs

from m2fedsa.errors import WeightsError
from m2fedsa.models import encoders
from m2fedsa.models.encoders import load
from m2fedsa.models.examples import example_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tiny-vit"
    encoder("vit").save_pretrained(made)
    return made


def reconfigure(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_folder_gives_the_saved_encoder_frozen(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()
    model = load(str(folder))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(**inputs("vit")).pooler_output, encoder("vit")(**inputs("vit")).pooler_output)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == logging.WARNING
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_half_precision_on_disk_is_read_as_float32(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **WIDTHS)).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(str(tmp_path)).parameters()} == {torch.float32}


def test_a_model_is_frozen_and_returned() -> None:
    model = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **WIDTHS)).train()
    assert load(model) is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_pooler_that_was_never_trained_is_left_out(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(vocab_size=300, max_position_embeddings=64, type_vocab_size=1, **WIDTHS)
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert type(model).__name__ == "RobertaModel"
    assert model.pooler is None
    with torch.no_grad():
        output = model(**inputs("roberta"))
    assert output.pooler_output is None
    assert output.last_hidden_state.isfinite().all()


def test_an_encoder_saved_without_its_decoder_stays_without(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    assert type(load(str(tmp_path))).__name__ == "T5EncoderModel"


def test_the_package_is_asked_for_embedded_encoders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_FOLDER", folder.parent)
    assert type(load(f"embedded:{folder.name}")).__name__ == "ViTModel"
    for name in ("digits-smell", f"../{folder.parent.name}/{folder.name}", ""):
        with pytest.raises(WeightsError, match=f"embedded:{name} does not ship with this package; what does: embedded:tiny-vit$"):
            load(f"embedded:{name}")


def test_missing_folders_and_configurations_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"{tmp_path} has no config.json"):
        load(str(tmp_path))
    for missing in (str(tmp_path / "not" / "here"), "./nothing", "~/nothing"):
        with pytest.raises(WeightsError, match=f"{missing} is not a folder"):
            load(missing)


def test_what_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **options: object) -> None:
        raise OSError(f"We couldn't connect to the hub for {name} ({options['revision']})\nmore lines")

    monkeypatch.setattr(encoders, "reachable", lambda: True)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(WeightsError, match=r"owner/name: no encoder could be loaded from owner/name \(OSError: We .* \(v2\)\)$"):
        load("owner/name", revision="v2")


def test_weights_cut_short_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=rf"a file of weights in {folder} is broken or cut short \(.*\); copy it again"):
        load(str(folder))
    weights.unlink()
    with pytest.raises(WeightsError, match=f"no encoder could be loaded from {folder}"):
        load(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "unheard of"}', "{}"])
def test_broken_configurations_are_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=f"no encoder could be loaded from {folder}"):
        load(str(folder))


def test_weights_of_another_depth_are_refused(folder: Path) -> None:
    reconfigure(folder, num_hidden_layers=3)
    with pytest.raises(WeightsError, match=r"do not fit config.json of ViTModel: 16 tensors are too many \(layers.3.attention.*, …\)"):
        load(str(folder))
    reconfigure(folder, num_hidden_layers=5)
    with pytest.raises(WeightsError, match=r"16 tensors are missing \(layers.4.attention"):
        load(str(folder))


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    reconfigure(folder, intermediate_size=96)
    with pytest.raises(WeightsError, match=r"12 tensors have another shape \(layers.0.mlp.fc1.bias \(128,\) instead of \(96,\)"):
        load(str(folder))


def test_a_tensor_that_is_missing_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("layernorm.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(layernorm.weight\)"):
        load(str(folder))


WIDE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 30, "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 2, **WIDE}
SIGHT = {"image_size": 16, "patch_size": 8, **WIDE}
WORDS = {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def full_checkpoints() -> dict[str, tuple[transformers.PreTrainedModel, str, str]]:
    """Checkpoint -> model, where its encoder lies in it, the class that shall come back."""
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    clip = transformers.CLIPConfig(text_config=TEXT, vision_config=SIGHT, projection_dim=8)
    siglip = transformers.SiglipConfig(text_config=TEXT, vision_config=SIGHT)
    t5 = transformers.T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    whisper = transformers.WhisperConfig(num_mel_bins=8, max_source_positions=10, max_target_positions=10, **WORDS, **heads, **layers)
    bart = transformers.BartConfig(max_position_embeddings=20, **WORDS, **heads, **layers)
    return {
        "clip": (transformers.CLIPModel(clip), "vision_model", "CLIPVisionModel"),
        "siglip": (transformers.SiglipModel(siglip), "vision_model", "SiglipVisionModel"),
        "t5": (transformers.T5ForConditionalGeneration(t5), "encoder", "T5EncoderModel"),
        "whisper": (transformers.WhisperForConditionalGeneration(whisper), "model.encoder", "WhisperEncoder"),
        "bart": (transformers.BartForConditionalGeneration(bart), "model.encoder", "BartEncoder"),
    }


@pytest.mark.parametrize("name", ["clip", "siglip", "t5", "whisper", "bart"])
def test_the_encoder_comes_straight_from_a_full_checkpoint(name: str, tmp_path: Path) -> None:
    whole, part, kind = full_checkpoints()[name]
    whole.eval().save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert type(model).__name__ == kind
    example = example_for(model)
    values = {key: value for key, value in example.items() if key != "attention_mask" or name in ("t5", "bart")}
    with torch.no_grad():
        theirs = whole.get_submodule(part)(**values).last_hidden_state
        assert torch.equal(model(**values).last_hidden_state, theirs)


def test_a_stored_type_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **WIDTHS)).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(str(tmp_path), dtype=None).parameters()} == {torch.float16}


def answer(status: int, url: str = "https://hub/owner/name") -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", url))


REFUSALS = {
    "gated": (hub_errors.GatedRepoError("403", response=answer(403)), "owner/name is gated: .* log in with `hf auth login`"),
    "none": (hub_errors.RepositoryNotFoundError("404", response=answer(404)), "neither a folder here nor a model on the hub"),
    "revision": (hub_errors.RevisionNotFoundError("404", response=answer(404)), "owner/name has no revision v9 on the hub"),
    "offline": (hub_errors.LocalEntryNotFoundError("nothing"), "nor in the cache of models, and the hub cannot be reached"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_hub_refuses_is_told_in_plain_words(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own errors, as transformers hands them on: as the cause of an OSError with a page of text."""
    error, told = REFUSALS[kind]

    def refuses(name: str, **options: object) -> None:
        raise OSError("You are trying to access something\nand a page more") from error

    monkeypatch.setattr(encoders, "reachable", lambda: kind != "offline")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuses)
    with pytest.raises(WeightsError, match=told):
        load("owner/name", revision="v9")


def test_without_a_network_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One look whether the hub is there, then the cache alone, which is empty."""
    tried: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            tried.append(url)
            assert timeout <= 5
            raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(WeightsError, match=r"neither a folder here nor in the cache of models, and the hub cannot be reached"):
        load("nobody-at-all/no-such-model")
    assert len(tried) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not encoders.reachable()
    assert len(tried) == 1, "who has switched the hub off is not asked"
