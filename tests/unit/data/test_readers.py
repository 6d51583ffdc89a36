"""Readers of files that were made by hand, with known answers, and of files that are broken in every way."""

import json
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.unit.data import media

from m2fedsa.data.readers.audio import audio_seconds, read_audio
from m2fedsa.data.readers.image import look_at_image, read_image
from m2fedsa.data.readers.series import read_series
from m2fedsa.data.readers.video import look_at_video, read_video
from m2fedsa.errors import DataError

# --- pictures -------------------------------------------------------------------------------------------------------------------------


def png(path, width, height, body=b""):
    """A PNG file with this head, whatever it holds."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (3, 4), (255, 255, 255)).convert(mode).save(path)
    found = read_image(path)
    assert (found.mode, found.size) == ("RGB", (3, 4))
    assert found.getpixel((1, 1)) == (255, 255, 255)


def broken(folder):
    """name -> a file that is no usable image, and what is said of it."""
    folder.joinpath("empty.jpg").touch()
    folder.joinpath("words.jpg").write_text("this is not an image")
    Image.effect_noise((64, 64), 80).save(folder / "whole.jpg")
    cut = folder.joinpath("whole.jpg").read_bytes()
    folder.joinpath("short.jpg").write_bytes(cut[: len(cut) // 2])
    png(folder / "flat.png", 0, 5)
    png(folder / "huge.png", 100_000, 100_000)
    return {
        "missing.jpg": "no such file",
        "empty.jpg": "the file is empty (0 bytes)",
        "words.jpg": "this is no image that can be read: of no known kind, or without pixels",
        "short.jpg": "the image cannot be decoded (",
        "flat.png": "this is no image that can be read: of no known kind, or without pixels",
        "huge.png": "the image cannot be decoded (",
    }


def test_files_that_are_no_images(tmp_path):
    for name, said in broken(tmp_path).items():
        with pytest.raises(DataError) as refusal:
            read_image(tmp_path / name)
        assert str(refusal.value).startswith(f"{tmp_path / name}: {said}"), name
    for name in ("missing.jpg", "empty.jpg", "words.jpg", "flat.png", "huge.png"):
        with pytest.raises(DataError):
            look_at_image(tmp_path / name)
    assert look_at_image(tmp_path / "short.jpg") == (64, 64)


def test_a_picture_in_a_cell(tmp_path):
    Image.new("RGB", (3, 4), (9, 8, 7)).save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()
    assert read_image(content).getpixel((2, 3)) == (9, 8, 7)
    assert look_at_image(content) == (3, 4)
    for broken, said in ((b"", "the cell holds a file of 0 bytes"), (b"no", "the file in the cell: this is no image that can be read")):
        with pytest.raises(DataError, match=f"^{said}"):
            read_image(broken)


def test_a_picture_is_upright(tmp_path):
    """Orientation 6: the camera was held on its side, the top of the scene is at the right of the stored picture."""
    stored = Image.new("RGB", (4, 2))
    stored.paste((255, 255, 255), (3, 0, 4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "held.png", exif=exif)
    found = read_image(tmp_path / "held.png")
    assert found.size == (2, 4)
    assert [found.getpixel((0, row))[0] for row in range(4)] == [0, 0, 0, 255]


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "scan.png")
    assert [read_image(tmp_path / "scan.png").getpixel((column, 0)) for column in range(4)] == [(level,) * 3 for level in (0, 1, 128, 255)]


# --- recordings -----------------------------------------------------------------------------------------------------------------------


def tone(seconds, rate=8000, hertz=440):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.03), ("a.mp3", 0.06)])
def test_a_recording_is_the_mean_of_its_channels(tmp_path, name, tolerance):
    path = tmp_path / name
    soundfile.write(path, np.stack([tone(1.0), 0.5 * tone(1.0)], 1), 8000)
    wave, rate, seconds = read_audio(path)
    assert (rate, len(wave), wave.dtype) == (8000, 8000, np.float32)
    assert seconds == audio_seconds(path) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(wave[500:-500], 0.75 * tone(1.0)[500:-500], atol=tolerance)
    assert np.array_equal(read_audio(path.read_bytes()).samples, wave)


def test_a_part_of_a_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(8000) / 32768, 8000)
    found = read_audio(tmp_path / "a.wav", seconds=0.001, begin=0.25, end=0.75)
    assert (found.samples * 32768).round().tolist() == list(range(2000, 2008))
    assert found.seconds == 0.5
    assert len(read_audio(tmp_path / "a.wav", begin=0.25, end=0.75).samples) == 4000
    assert len(read_audio(tmp_path / "a.wav", seconds=9.0, begin=0.75).samples) == 2000


@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.mkv"])
def test_the_sound_of_a_video(tmp_path, name):
    path = media.write_video(tmp_path / name, [] if name == "a.m4a" else [0] * 20, seconds_of_sound=2.0)
    wave, rate, seconds = read_audio(path, seconds=1.0, begin=0.5)
    assert (rate, len(wave)) == (16000, 16000)
    assert seconds == pytest.approx(1.5, abs=0.07)  # a codec's last frame may be longer than the sound
    # the loudest frequency of this second is the tone's
    assert np.abs(np.fft.rfft(wave)).argmax() == 440
    assert np.abs(wave).max() == pytest.approx(0.3, abs=0.02)
    assert audio_seconds(path) == pytest.approx(2.0, abs=0.07)


def test_files_without_sound(tmp_path):
    silent = media.write_video(tmp_path / "film.mp4", [0] * 10)
    tmp_path.joinpath("words.wav").write_text("this is not a recording")
    tmp_path.joinpath("empty.wav").touch()
    told = {
        silent: "the file has no sound (its streams: video)",
        tmp_path / "words.wav": "this is no recording that can be read: of no known kind, or broken",
        tmp_path / "empty.wav": "the file is empty (0 bytes)",
        tmp_path / "missing.wav": "no such file",
        tmp_path: "this is a folder",
    }
    for path, said in told.items():
        for read in (read_audio, audio_seconds):
            with pytest.raises(DataError) as refusal:
                read(path)
            assert str(refusal.value) == f"{path}: {said}"
    soundfile.write(tmp_path / "short.wav", np.zeros(0), 8000)
    assert len(read_audio(tmp_path / "short.wav").samples) == 0
    soundfile.write(tmp_path / "a.wav", tone(0.5), 8000)
    with pytest.raises(DataError, match=r"a\.wav: there is no part from 0\.7 s to its end; the recording is 0\.5 s long$"):
        read_audio(tmp_path / "a.wav", begin=0.7)


# --- videos ---------------------------------------------------------------------------------------------------------------------------


def levels(clip):
    return [np.asarray(frame)[16, 16, 0] for frame in clip.frames]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg"), ("a.webm", "libvpx")])
def test_frames_lie_in_the_middle_of_equal_parts(tmp_path, name, codec):
    """Four seconds at ten frames a second; frame i has the level 5 i."""
    path = media.write_video(tmp_path / name, [5 * number for number in range(40)], codec=codec)
    assert look_at_video(path) == read_video(path, 1).seconds == pytest.approx(4.0, abs=0.01)
    np.testing.assert_allclose(levels(read_video(path, 4)), [25, 75, 125, 175], atol=3)
    np.testing.assert_allclose(levels(read_video(path, 3, 1.0, 2.5)), [60, 85, 110], atol=3)  # 1.25, 1.75, 2.25 s
    np.testing.assert_allclose(levels(read_video(path, 80)), np.repeat(np.arange(0, 200, 5), 2), atol=4)  # each is seen twice
    assert levels(read_video(path.read_bytes(), 4)) == levels(read_video(path, 4))


def test_frames_far_apart_are_sought(tmp_path):
    path = media.write_video(tmp_path / "long.mp4", [5 * (number % 50) for number in range(300)], every=25)
    np.testing.assert_allclose(levels(read_video(path, 5)), [5 * (number % 50) for number in (30, 90, 150, 210, 270)], atol=3)
    np.testing.assert_allclose(levels(read_video(path, 2, 20.0, 28.0)), [5 * (number % 50) for number in (220, 260)], atol=3)


def test_files_without_frames(tmp_path):
    whole = media.write_video(tmp_path / "whole.mkv", [5 * number % 256 for number in range(100)]).read_bytes()
    tmp_path.joinpath("short.mkv").write_bytes(whole[: len(whole) // 3])
    soundfile.write(tmp_path / "sound.wav", tone(0.5), 8000)
    tmp_path.joinpath("words.mp4").write_text("this is not a video")
    told = {
        "sound.wav": r"the file has no pictures \(its streams: audio\)",
        "words.mp4": "this is no video that can be read: of no known kind, or broken",
        "missing.mp4": "no such file",
        "short.mkv": r"the video is cut short: its head says 10 s, but its frames end at \d",
    }
    for name, said in told.items():
        with pytest.raises(DataError, match=f"^{tmp_path / name}: {said}"):
            read_video(tmp_path / name, 4)
    with pytest.raises(DataError, match=r"there is no part from 11 s to its end; the video is 10 s long"):
        read_video(tmp_path / "whole.mkv", 4, 11.0)


# --- series ---------------------------------------------------------------------------------------------------------------------------


def stored_series(folder):
    values = np.array([[1, 2], [3, np.nan], [5, 6]])
    np.save(folder / "a.npy", values)
    np.savez(folder / "a.npz", only=values)
    (folder / "a.csv").write_text("x,y\n1,2\n3,\n5,6\n")
    (folder / "a.tsv").write_text("1\t2\n3\tnan\n5\t6")
    (folder / "a.txt").write_text("1 2\n3 nan\n5 6\n\n")
    (folder / "a.json").write_text(json.dumps([[1, 2], [3, float("nan")], [5, 6]]))
    return values, ("a.npy", "a.npz", "a.csv", "a.tsv", "a.txt", "a.json")


def test_every_format_of_series(tmp_path):
    values, names = stored_series(tmp_path)
    for name in names:
        found = read_series(tmp_path / name)
        assert found.dtype == np.float32, name
        np.testing.assert_array_equal(found, values, name)
    np.testing.assert_array_equal(read_series((tmp_path / "a.npy").read_bytes()), values)
    np.testing.assert_array_equal(read_series("[1, 2.5]"), [[1], [2.5]])
    np.testing.assert_array_equal(read_series([[1, 2], [3, 4]]), [[1, 2], [3, 4]])


def test_what_is_no_series(tmp_path):
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "lost.npy", np.full(3, np.nan))
    np.save(tmp_path / "endless.npy", np.array([[1, 2], [3, np.inf]]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", one=np.ones(2), other=np.ones(2))
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "text.csv").write_text("a,b\nc,d\n")
    (tmp_path / "nothing.npy").touch()
    whole = np.ones(100)
    np.save(tmp_path / "short.npy", whole)
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:300])
    told = {
        "deep.npy": "a series has one dimension (readings) or two (readings, channels), this has the shape (2, 2, 2)",
        "empty.npy": "the series is empty; its shape is (0, 2)",
        "words.npy": "a series is numbers, but these are <U1",
        "lost.npy": "all readings are missing (NaN)",
        "endless.npy": "reading 2, channel 2 is infinite, or too large for 32 bits",
        "objects.npy": "no series can be read from it (Object arrays cannot be loaded",
        "two.npz": "no series can be read from it (an npz should hold one array, this holds one, other)",
        "ragged.csv": "no series can be read from it (its lines have 1 to 2 numbers)",
        "text.csv": "no series can be read from it (could not convert string to float: 'c')",
        "nothing.npy": "the file is empty (0 bytes)",
        "short.npy": "no series can be read from it (",
        "missing.npy": "no such file",
    }
    for name, said in told.items():
        with pytest.raises(DataError) as refusal:
            read_series(tmp_path / name)
        assert str(refusal.value).startswith(f"{tmp_path / name}: {said}"), name
    for cell in ("[1, 2", "[[1], [2, 3]]"):
        with pytest.raises(DataError, match="no series can be read from the cell"):
            read_series(cell)
