"""What encoders are given: by their own processors where there are some, else by the plain ones."""

import json

import httpx
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.unit.data import media

from m2fedsa.data.log_mel import SAMPLES, log_mel_patches
from m2fedsa.data.processors.audio import audio_processor
from m2fedsa.data.processors.image import image_processor
from m2fedsa.data.processors.series import SeriesProcessor, series_processor
from m2fedsa.data.processors.tabular import TabularProcessor, columns_of, tabular_processor
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.processors.video import video_processor
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


@pytest.mark.parametrize("where", ["folder", "random:swin-tiny", "object"])
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


def test_the_plain_ones_go_by_what_the_encoder_says_of_itself(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 12, "num_channels": 1}))
    found = image_processor({"photo": str(folder)}, "photo")(pictures())["pixel_values"]
    assert found.shape == (2, 1, 12, 12)
    # ITU-R 601: a grey of 0.587 * 51 + 0.114 * 255 = 59
    torch.testing.assert_close(found[0], torch.full((1, 12, 12), 59 / 127.5 - 1))


# --- frames of videos -----------------------------------------------------------------------------------------------------------------


def clip(*levels):
    return [Image.new("RGB", (8, 8), (level, level, level)) for level in levels]


def test_frames_for_an_encoder_of_videos(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "videomae", "num_frames": 3, "image_size": 4}))
    process = video_processor({"clip": str(folder)}, "clip")
    assert process.frames == 3
    found = process([clip(0, 51, 255), clip(255, 255, 0)])
    assert list(found) == ["pixel_values"]
    assert found["pixel_values"].shape == (2, 3, 3, 4, 4)
    torch.testing.assert_close(found["pixel_values"][:, :, 0, 2, 2], torch.tensor([[-1.0, -0.6, 1.0], [1.0, 1.0, -1.0]]))
    with pytest.raises(ConfigError, match=r"^frames is 4, but the encoder of clip takes 3"):
        video_processor({"clip": str(folder)}, "clip", 4)
    with pytest.raises(ConfigError, match=r"^frames is -1"):
        video_processor({"clip": str(folder)}, "clip", -1)


def test_the_processor_of_an_encoder_of_videos(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "videomae", "num_frames": 2}))
    saved = {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 6}, "crop_size": {"height": 6, "width": 6}}
    (folder / "preprocessor_config.json").write_text(json.dumps(saved | OTHER))
    found = video_processor({"clip": str(folder)}, "clip")([clip(0, 255), clip(51, 0), clip(255, 51)])["pixel_values"]
    assert found.shape == (3, 2, 3, 6, 6)
    levels = torch.tensor([[0.0, 1.0], [0.2, 0.0], [1.0, 0.2]])[..., None]
    expected = (levels - torch.tensor(OTHER["image_mean"])) / torch.tensor(OTHER["image_std"])
    torch.testing.assert_close(found[:, :, :, 3, 3], expected)


def test_frames_for_an_encoder_of_pictures_lie_side_by_side(folder):
    process = video_processor({"clip": str(folder)}, "clip", size=8)
    assert process.frames == 4
    found = process([clip(0, 255, 51, 102)])["pixel_values"]
    assert found.shape == (1, 3, 8, 8)
    torch.testing.assert_close(found[0, 0, [1, 1, 6, 6], [1, 6, 1, 6]], torch.tensor([-1.0, 1.0, -0.6, -0.2]))
    one = video_processor({"clip": str(folder)}, "clip", 1, 8)([clip(51)])["pixel_values"]
    torch.testing.assert_close(one, torch.full((1, 3, 8, 8), -0.6))
    assert video_processor({"clip": str(folder)}, "clip", 3, 8)([clip(0, 51, 102)])["pixel_values"].shape == (1, 3, 8, 8)


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
    process = text_processor({"title": str(folder)}, "title", 5)
    texts = ["Blue soap", "the red watch with the knife", "blue zebra soap", "\u200b"]
    found = process(texts, 5)
    cls, sep, unknown = 2, 3, 1
    blue, soap, the, red, watch, other = (5 + media.WORDS.index(word) for word in ("blue", "soap", "the", "red", "watch", "with"))
    assert other > 5
    assert found["input_ids"].tolist() == [
        [cls, blue, soap, sep, 0],
        [cls, the, red, watch, sep],
        [cls, blue, unknown, soap, sep],
        [cls, sep, 0, 0, 0],
    ]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5, [1] * 5, [1, 1, 0, 0, 0]]
    assert list(found) == ["input_ids", "attention_mask"]
    assert process.lengths(texts) == [(4, False), (8, False), (5, False), (2, True)]
    assert process.limit == 5


def test_of_a_text_no_more_is_read_than_the_tokenizer_says(folder):
    media.tokenizer(longest=6).save_pretrained(folder)
    assert text_processor({"title": str(folder)}, "title").limit == 6


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    made = media.tokenizer()
    made.pad_token = None
    made.eos_token = "[SEP]"
    made.save_pretrained(folder)
    found = text_processor({"title": str(folder)}, "title")(["blue", "blue soap"], 4)
    assert found["input_ids"][0].tolist() == [2, 12, 3, 3]
    assert found["attention_mask"][0].tolist() == [1, 1, 1, 0]


# --- what ships with the package ------------------------------------------------------------------------------------------------------


def test_the_embedded_encoders_take_what_they_were_pretrained_on(rows):
    """Files as a person would have them, against the inputs of the embedded task, which is made of the same digits."""
    from m2fedsa.data import digits_inputs

    places = {name: f"embedded:digits-{name}" for name in ("image", "audio", "text")}
    own = rows["federation"]
    pictures = [Image.fromarray((own.images_NHW[row] * 255).round().byte().numpy()).convert("RGB") for row in range(3)]
    found = image_processor(places, "image")(pictures)["pixel_values"]
    torch.testing.assert_close(found, digits_inputs.pixel_values(own.images_NHW[:3]), atol=1e-6, rtol=0)
    process = audio_processor(places, "audio")
    assert (process.rate, process.samples) == (8000, 6656)
    loud = [own.audio_NS[row].numpy() * 0.2 for row in range(3)]
    clear = digits_inputs.log_mel(own.audio_NS[:3])
    assert (process(loud)["input_values"] - clear).abs().mean() < 0.2
    words = text_processor(places, "text")
    assert words.limit == 18
    assert torch.equal(words(own.words[:5], 18)["input_ids"], digits_inputs.character_ids(own.words[:5]))
    assert words.lengths(["Éins", " "]) == [(5, False), (2, True)]


# --- records --------------------------------------------------------------------------------------------------------------------------


def test_records(folder):
    saved = [
        {"name": "age", "mean": 40.0, "deviation": 10.0},
        {"name": "city", "categories": ["Bonn", "Köln"]},
        {"name": "sex", "categories": ["f", "m"]},
    ]
    (folder / "preprocessor_config.json").write_text(json.dumps({"processor_class": "m2fedsa.tabular", "columns": saved}))
    process = tabular_processor({"record": str(folder)}, "record")
    assert process.names == ("age", "city", "sex")
    found = process([["50", "Köln", "f"], [35.0, "Rom", ""], ["", " Bonn ", None], ["-1e1", "", "m"]])
    assert found["codes"].tolist() == [[1, 4, 5], [1, 2, 0], [0, 3, 0], [1, 0, 6]]
    torch.testing.assert_close(found["values"], torch.tensor([[1.0, 0, 0], [-0.5, 0, 0], [0, 0, 0], [-5.0, 0, 0]]))


def test_numbers_as_categories():
    process = TabularProcessor(columns_of([{"name": "ward", "categories": ["3", "12"]}]))
    assert process([[3], [3.0], ["3"], [12.0], [True]])["codes"].tolist() == [[3], [3], [3], [4], [2]]


def test_an_encoder_that_is_not_one_of_records(folder):
    with pytest.raises(ConfigError, match=r"is no encoder of records. Make one with `m2fedsa encoder tabular`"):
        tabular_processor({"record": str(folder)}, "record")


# --- series ---------------------------------------------------------------------------------------------------------------------------


def test_series_as_patchtst_takes_them(folder):
    transformers.PatchTSTConfig(num_input_channels=2, context_length=4, patch_length=2, patch_stride=2).save_pretrained(folder)
    process = series_processor({"sensor": str(folder)}, "sensor")
    long, short = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([[1, np.nan], [3, 4]], np.float32)
    found = process([long, short])
    assert found["past_values"].tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]], [[1, 0], [3, 4], [0, 0], [0, 0]]]
    assert found["past_observed_mask"].tolist() == [[[True, True]] * 4, [[True, False], [True, True], [False, False], [False, False]]]


def test_series_on_the_scale_of_their_channels():
    process = SeriesProcessor(2, 2, (10.0, 0.0), (2.0, 0.5))
    assert process([np.array([[12, 1]], np.float32)])["past_values"].tolist() == [[[1, 2], [0, 0]]]


def test_an_encoder_that_is_not_one_of_series(folder):
    with pytest.raises(ConfigError, match=r"its config.json has no context_length and num_input_channels: it is no encoder of series"):
        series_processor({"sensor": str(folder)}, "sensor")


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


@pytest.mark.parametrize("make", [image_processor, audio_processor, text_processor, video_processor])
def test_without_a_network_the_hub_is_not_asked_in_vain(make, monkeypatch):
    """One look whether it is there for each thing that would be asked; no file of it is tried, let alone six times."""
    tried = []

    class Session:
        def head(self, url, timeout):
            tried.append(url)
            raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", lambda **_: pytest.fail("a file was asked for"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(
        ConfigError, match=r"^modalities\.x\.encoder = nobody-at-all/no-such-model is neither a folder here nor in the cache"
    ):
        make({"x": "nobody-at-all/no-such-model"}, "x")
    assert 1 <= len(tried) <= 3
    assert all("no-such-model" not in url for url in tried)
