"""Encoders from a folder, from the package, or from the user's hands."""

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.unit.models.tiny import WIDTHS, encoder, inputs

from m2fedsa.errors import WeightsError
from m2fedsa.models import encoders
from m2fedsa.models.encoders import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tiny-vit"
    encoder("vit").save_pretrained(made)
    return made


def reconfigure(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_folder_gives_the_saved_encoder_frozen(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
