"""Digits for large encoders, read from a folder of exactly that layout."""

import numpy as np
import pytest
import torch
from tests.unit.data import media

from m2fedsa.config import Data
from m2fedsa.data.log_mel import SAMPLES, log_mel_patches
from m2fedsa.data.spoken_digits import spoken_digits
from m2fedsa.errors import ConfigError, DataError

CLEAN = {"image_noise": 0.0, "audio_snr_db": float("inf")}


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processors")
    media.tokenizer().save_pretrained(folder)
    return {"image": "object", "audio": "object", "text": str(folder)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return media.write_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture
def load(folder, processors):
    def load(where=folder, **options):
        wanted = {
            "seed": 0,
            "processors": processors,
            "folder": str(where),
            "settings": Data(clients=4, minimum=2, partition="iid"),
            "image_size": 28,
        }
        return spoken_digits(**wanted | options)

    return load


def evaluated(data, modality, name="speaker-lucas"):
    """Labels and inputs of a speaker's test samples."""
    samples = data.clients[name].test
    (value,) = [value for key, value in samples.inputs(modality, torch.arange(len(samples.labels))).items() if key != "attention_mask"]
    return samples.labels, value


def test_who_holds_what(load):
    data = load()
    rows = media.digit_rows()
    assert data.modalities == ("image", "audio", "text")
    assert data.classes == tuple("0123456789")
    assert sorted(data.clients) == ["client-00", "client-01", "client-02", "client-03", "speaker-george", "speaker-lucas"]
    held = [row for client in data.clients.values() if client.train for row in client.train.indices.tolist()]
    assert sorted(held) == [place for place, row in enumerate(rows) if row["split"] == "train"]
    for name in ("george", "lucas"):
        client = data.clients[f"speaker-{name}"]
        for split, samples in (("val", client.validation), ("test", client.test)):
            expected = [place for place, row in enumerate(rows) if (row["split"], row["speaker"]) == (split, name)]
            assert (samples.indices.tolist() if samples else []) == expected
    assert {len(client.modalities) for client in data.clients.values()} == {1, 3}


def test_clean_images_are_the_files(load, folder):
    labels, pixels = evaluated(load(**CLEAN), "image")
    assert pixels.shape == (len(labels), 3, 28, 28)
    rows = [place for place, row in enumerate(media.digit_rows()) if (row["split"], row["speaker"]) == ("test", "lucas")]
    stored = torch.from_numpy(np.load(folder / "data.npz")["image"][rows]).float() / 127.5 - 1
    assert torch.equal(pixels, stored[:, None].expand(-1, 3, -1, -1))


def test_a_clean_recording_is_the_tone_at_sixteen_kilohertz_and_silence(load):
    """Against the tone made at that rate; what a resampler does at its ends is left out."""
    labels, patches = evaluated(load(**CLEAN), "audio")
    assert patches.shape == (len(labels), 1, 96, 64)
    rows = [place for place, row in enumerate(media.digit_rows()) if (row["split"], row["speaker"]) == ("test", "lucas")]
    for label, row, patch in zip(labels.tolist(), rows, patches, strict=True):
        length = 2 * (2000 + 100 * (row % 4))
        wave = torch.zeros(1, SAMPLES)
        # root mean square 0.1
        wave[0, :length] = 0.1 * 2**0.5 * torch.sin(2 * torch.pi * (200 + 300 * label) * torch.arange(length) / 16000)
        middle = slice(2, length // 160 - 5)
        expected = log_mel_patches(wave)[0, 0]
        loud = expected[middle] > -3
        assert loud.any()
        assert (patch[0, middle] - expected[middle]).abs()[loud].max() < 0.05
        assert (patch[0, length // 160 + 8 :] < -5).all()


def test_noise_is_as_strong_as_told_and_drawn_from_the_seed_and_the_row(load):
    clean, noisy, again, other = (load(**options) for options in (CLEAN, {"image_noise": 0.05}, {"image_noise": 0.05}, {"seed": 1}))
    pixels, disturbed = evaluated(clean, "image")[1][:, 0], evaluated(noisy, "image")[1][:, 0]
    inside = (pixels > -0.5) & (pixels < 0.8)
    assert inside.sum() > 200
    assert (disturbed - pixels)[inside].std() == pytest.approx(0.1, rel=0.1)  # on a scale from -1 to 1
    assert torch.equal(disturbed, evaluated(again, "image")[1][:, 0])
    assert not torch.equal(disturbed, evaluated(other, "image")[1][:, 0])
    assert torch.equal(evaluated(noisy, "audio")[1], evaluated(again, "audio")[1])
    assert not torch.equal(evaluated(noisy, "audio")[1], evaluated(other, "audio")[1])
    quiet, loud = (evaluated(load(audio_snr_db=snr), "audio")[1][:, 0, 60:, 5:40] for snr in (20.0, 0.0))
    # behind the recording there is noise alone: ten times the amplitude
    assert (loud - quiet).mean() == pytest.approx(np.log(10), abs=0.1)


def test_recordings_that_are_cut_are_told(load, tmp_path):
    rows = media.digit_rows()
    recordings = media.waves(rows)
    recordings[4] = np.tile(recordings[4], 5)
    data = load(media.write_digits(tmp_path, rows, recordings))
    assert data.notes == ("audio: 1 of 60 recordings are longer than 0.975 s; what comes later is not heard",)


def test_rows_that_cannot_be_used(load, tmp_path):
    rows = media.digit_rows()
    recordings = media.waves(rows)
    recordings[1], recordings[2] = recordings[1][:0], recordings[2] * 0
    rows[3]["word"] = ""
    rows[4]["digit"] = "ten"
    with pytest.raises(DataError) as refusal:
        load(media.write_digits(tmp_path, [{**row, "digit": row["digit"] if row["digit"] != "ten" else 0} for row in rows], recordings))
    first, *lines = [line.strip() for line in str(refusal.value).splitlines()]
    assert first == f"{tmp_path}: 3 of 60 rows cannot be used; mend them or take them out. Nothing was trained."
    assert lines == [
        "row 2 (lucas says 0), audio: the recording is empty (0 samples)",
        "row 3 (george says 0), audio: the recording is silent: all its samples are equal",
        "row 4 (lucas says 0), word: the text is empty",
    ]
    media.write_csv(tmp_path / "index.csv", media.DIGIT_COLUMNS, rows)
    with pytest.raises(DataError, match=r"row 5 \(george says ten\), digit: 'ten' is not a whole number from 0 to 9"):
        load(tmp_path)


def saved(folder, **changed):
    arrays = dict(np.load(folder / "data.npz"))
    np.savez(folder / "data.npz", **{**arrays, **changed})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "no such file. It should hold the arrays image, audio and audio_offset."),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot be read as the arrays image, audio and audio_offset ("),
        (lambda path: path.write_bytes(b"words"), "cannot be read as the arrays image, audio and audio_offset ("),
        (lambda path: np.savez(path, image=np.zeros(3)), "cannot be read as the arrays image, audio and audio_offset ("),
        (
            lambda path: saved(path.parent, image=np.zeros((60, 0, 0), np.uint8)),
            "image is uint8 (60, 0, 0), but index.csv wants uint8 (60,",
        ),
        (lambda path: saved(path.parent, audio=np.zeros(9)), "audio is float64 (9,), but it should be int16"),
        (
            lambda path: saved(path.parent, audio_offset=np.arange(61) * 10**6),
            "audio_offset should be 61 rising numbers from 0 to the length",
        ),
        (
            lambda path: saved(path.parent, audio_offset=np.zeros(0, np.int64)),
            "audio_offset should be 61 rising numbers from 0 to the length",
        ),
    ],
)
def test_arrays_that_cannot_be_used(load, tmp_path, spoil, said):
    media.write_digits(tmp_path)
    spoil(tmp_path / "data.npz")
    with pytest.raises(DataError) as refusal:
        load(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'data.npz'}: {said}")


def test_bytes_of_an_array_that_were_altered(load, tmp_path):
    media.write_digits(tmp_path)
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[5000] ^= 0xFF
    (tmp_path / "data.npz").write_bytes(bytes(content))
    with pytest.raises(DataError, match="cannot be read as the arrays"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [("image_noise", -1.0), ("image_noise", float("nan")), ("audio_snr_db", float("nan")), ("audio_snr_db", -float("inf"))],
)
def test_options_out_of_range(load, option, value):
    with pytest.raises(ConfigError, match=rf"^{option} is "):
        load(**{option: value})
