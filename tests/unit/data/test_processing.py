"""What encoders are given: by their own processors where there are some, else by the plain ones."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.unit.data import media

from m2fedsa.data.log_mel import SAMPLES, log_mel_patches
from m2fedsa.data.processing import audio_processor, image_processor, text_processor
from m2fedsa.errors import ConfigError

OTHER = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 1.0]}


@pytest.fixture
def folder(tmp_path):
    """An encoder's folder; as yet without a processor."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return tmp_path


def pictures():
    """One of a single colour, one with a red left and a blue right half."""
    halves = Image.new("RGB", (40, 20), (255, 0, 0))
    halves.paste((0, 0, 255), (20, 0, 40, 20))
    return [Image.new("RGB", (30, 50), (0, 51, 255)), halves]


# --- pictures -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["folder", "embedded:digits-image", "random:swin-tiny", "object"])
def test_plain_pictures(folder, where):
    process = image_processor({"photo": str(folder) if where == "folder" else where}, "photo", 8)
    found = process(pictures())
    assert list(found) == ["pixel_values"]
    pixels = found["pixel_values"]
    assert pixels.shape == (2, 3, 8, 8)
    # 0, 51 and 255 of 255 on a scale from -1 to 1
    torch.testing.assert_close(pixels[0], torch.tensor([-1.0, -0.6, 1.0])[:, None, None].expand(3, 8, 8))
    # nothing is cropped: the left edge is red, the right one blue
    assert pixels[1, :, 4, 0].tolist() == [1, -1, -1]
    assert pixels[1, :, 4, 7].tolist() == [-1, -1, 1]


def test_plain_pictures_have_224_pixels_unless_told_otherwise(folder):
    assert image_processor({"photo": str(folder)}, "photo")(pictures())["pixel_values"].shape == (2, 3, 224, 224)


def test_the_encoders_own_image_processor(folder):
    saved = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_resize": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(saved | OTHER))
    processors = {"photo": str(folder)}
    found = image_processor(processors, "photo")(pictures()[:1])["pixel_values"]
    assert found.shape == (1, 3, 16, 16)
    expected = (torch.tensor([0.0, 0.2, 1.0]) - torch.tensor(OTHER["image_mean"])) / torch.tensor(OTHER["image_std"])
    torch.testing.assert_close(found[0, :, 8, 8], expected)
    assert image_processor(processors, "photo", 12)(pictures())["pixel_values"].shape == (2, 3, 12, 12)


def test_a_size_takes_the_place_of_cropping(folder):
    saved = {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 20}, "do_resize": True}
    saved |= {"crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(saved | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    processors = {"photo": str(folder)}
    assert image_processor(processors, "photo")(pictures())["pixel_values"].shape == (2, 3, 16, 16)
    found = image_processor(processors, "photo", 16)(pictures())["pixel_values"]
    assert found.shape == (2, 3, 16, 16)
    assert found[1, 0, 8, 0] == pytest.approx(1.0)
    assert found[1, 2, 8, 15] == pytest.approx(1.0)


# --- waveforms ------------------------------------------------------------------------------------------------------------------------


def sounds():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) * 0.1 for length in (5000, SAMPLES)]


def test_log_mel_patches_where_there_is_no_extractor(folder):
    process = audio_processor({"sound": str(folder)}, "sound")
    assert (process.rate, process.samples) == (16000, 15600)
    found = process(sounds())
    assert list(found) == ["pixel_values"]
    short = torch.zeros(1, SAMPLES)
    short[0, :5000] = torch.from_numpy(sounds()[0])
    assert torch.equal(found["pixel_values"][:1], log_mel_patches(short))


def test_spectrograms_of_the_encoders_own_extractor(folder):
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder)
    process = audio_processor({"sound": str(folder)}, "sound", 2.0)
    assert (process.rate, process.samples) == (16000, 32000)
    found = process(sounds())["input_values"]
    assert found.shape == (2, 32, 16)
    alone = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32)(sounds()[0], sampling_rate=16000, return_tensors="pt")
    assert torch.equal(found[0], alone["input_values"][0])


def test_waveforms_of_the_encoders_own_extractor_have_one_width_and_a_mask(folder):
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False, sampling_rate=8000).save_pretrained(folder)
    process = audio_processor({"sound": str(folder)}, "sound", 1.0)
    assert (process.rate, process.samples) == (8000, 8000)
    for waves in (sounds()[:1], [sounds()[1][:8000], sounds()[0]]):
        found = process(waves)
        assert found["input_values"].shape == found["attention_mask"].shape == (len(waves), 8000)
        assert found["attention_mask"].sum(1).tolist() == [len(wave) for wave in waves]
        assert torch.equal(found["input_values"][-1, :5000], torch.from_numpy(sounds()[0]))


def test_an_extractor_that_pads_by_itself_is_let(folder):
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)
    process = audio_processor({"sound": str(folder)}, "sound")
    assert process.samples == 32000
    assert process(sounds())["input_features"].shape == (2, 8, 200)


# --- texts ----------------------------------------------------------------------------------------------------------------------------


def test_texts(folder):
    media.tokenizer().save_pretrained(folder)
    texts = text_processor({"title": str(folder)}, "title", 5)(["Blue soap", "the red watch with the knife", "blue zebra soap", "\u200b"])
    cls, sep, unknown = 2, 3, 1
    blue, soap, the, red, watch, other = (5 + media.WORDS.index(word) for word in ("blue", "soap", "the", "red", "watch", "with"))
    assert other > 5
    assert texts.inputs["input_ids"].tolist() == [
        [cls, blue, soap, sep, 0],
        [cls, the, red, watch, sep],
        [cls, blue, unknown, soap, sep],
        [cls, sep, 0, 0, 0],
    ]
    assert texts.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5, [1] * 5, [1, 1, 0, 0, 0]]
    assert list(texts.inputs) == ["input_ids", "attention_mask"]
    assert (texts.cut, texts.blank, texts.limit) == ([1], [3], 5)


def test_texts_are_as_wide_as_the_longest_and_by_default_no_longer_than_the_tokenizer_says(folder):
    media.tokenizer(longest=6).save_pretrained(folder)
    process = text_processor({"title": str(folder)}, "title")
    assert process(["blue"]).inputs["input_ids"].shape == (1, 3)
    long = process(["blue " * 30, "red"])
    assert long.inputs["input_ids"].shape == (2, 6)
    assert (long.cut, long.limit) == ([0], 6)


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    made = media.tokenizer()
    made.pad_token = None
    made.eos_token = "[SEP]"
    made.save_pretrained(folder)
    found = text_processor({"title": str(folder)}, "title")(["blue", "blue soap"])
    assert found.inputs["input_ids"][0].tolist() == [2, 12, 3, 3]
    assert found.inputs["attention_mask"][0].tolist() == [1, 1, 1, 0]


# --- what cannot be used --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["folder", "random:roberta-base", "object"])
def test_a_text_encoder_without_a_tokenizer(folder, where):
    """transformers itself makes a tokenizer up for this folder, to which every word is unknown."""
    lies = str(folder) if where == "folder" else where
    with pytest.raises(ConfigError) as refusal:
        text_processor({"title": lies}, "title")
    assert str(refusal.value).startswith(f"modalities.title.encoder = {lies!r}, but no tokenizer lies there. Give a folder")
    assert str(refusal.value).endswith("or name that with modalities.title.processor.")


def test_a_broken_processor(folder):
    (folder / "preprocessor_config.json").write_text("{broken")
    for processor in (image_processor, audio_processor):
        with pytest.raises(ConfigError, match=r"^modalities.photo.encoder = .*, but no processor of its inputs can be read there \("):
            processor({"photo": str(folder)}, "photo")


@pytest.mark.parametrize("where", ["/nowhere/encoder", "./encoder", "~/nowhere/encoder", "a/b/c"])
def test_a_folder_that_is_not_there(where):
    for processor in (image_processor, audio_processor, text_processor):
        with pytest.raises(ConfigError) as refusal:
            processor({"photo": where}, "photo")
        assert str(refusal.value) == f"modalities.photo.encoder = '{where}', but there is no such folder. Give one, or a name on the hub."


def test_values_out_of_range(folder):
    media.tokenizer(longest=16).save_pretrained(folder)
    for limit in (17, -1):
        with pytest.raises(ConfigError, match=rf"^text_tokens is {limit}; the tokenizer of .* takes 1 to 16 tokens, and 0 stands for"):
            text_processor({"title": str(folder)}, "title", limit)
    with pytest.raises(ConfigError, match=r"^image_size is -1; it is the number of pixels"):
        image_processor({"photo": str(folder)}, "photo", -1)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^audio_seconds is"):
            audio_processor({"sound": str(folder)}, "sound", seconds)


def test_a_modality_without_settings():
    with pytest.raises(ConfigError, match=r"^modalities.photo is missing"):
        image_processor({"text": "x"}, "photo")
