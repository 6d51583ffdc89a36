import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2fedsa.checkpoint import MANIFEST, LocalFiles, Manifest
from m2fedsa.errors import RunDirectoryError
from m2fedsa.storage import Store

MADE = Manifest(
    3,
    "f" * 64,
    "0" * 64,
    "d" * 64,
    {"fed_server": {"losses": [0.1, 1 / 3, 5e-324, 1e300], "since": None}},
)


def test_there_and_back(tmp_path):
    """To the bit: losses decide when transfer starts."""
    MADE.write(tmp_path)
    assert Manifest.read(tmp_path) == MADE
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    start = Manifest(0, "f" * 64, None, "d" * 64)
    start.write(tmp_path)
    assert Manifest.read(tmp_path) == start


def test_none_before_the_first(tmp_path):
    assert Manifest.read(tmp_path) is None
    assert Manifest.read(tmp_path / "nowhere") is None


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_change_goes_unnoticed(tmp_path, data):
    """One character less, more or other, anywhere: refused, unless it only moved white space."""
    MADE.write(tmp_path)
    path = tmp_path / MANIFEST
    text = path.read_text()
    place = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:place] + data.draw(st.sampled_from(["", "0", "1", '"', "a", text[place] * 2])) + text[place + 1 :]
    path.write_text(spoilt)
    try:
        same = json.loads(spoilt) == json.loads(text)
    except ValueError:
        same = False
    if same:
        assert Manifest.read(tmp_path) == MADE
    else:
        with pytest.raises(RunDirectoryError, match=r"manifest.json: was altered or cut short.* Restore it from a copy"):
            Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"sha256": "x"}', "\udcff"])
def test_what_is_no_manifest(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunDirectoryError, match=r"manifest.json: was altered or cut short"):
        Manifest.read(tmp_path)


def test_local_files_come_back_from_a_checkpoint(tmp_path):
    """Those of clients that have none stay away; ten thousand cost forty bytes each."""
    noted, store = LocalFiles(["cyd", "ann", "bob"]), Store(tmp_path)
    assert noted.plain() == {}
    noted.note("bob", 3, "0f" * 32)
    noted.note("ann", 1, "a1" * 32)
    noted.note("ann", 2, "b2" * 32)
    file = store.write(3, {"image.ma.up.bias": torch.zeros(1), **noted.filed()})
    again = LocalFiles(["ann", "bob", "cyd"])
    assert set(again.restore(store.read(3, file))) == {"image.ma.up.bias"}
    assert again.plain() == noted.plain() == {"ann": (2, "b2" * 32), "bob": (3, "0f" * 32)}
    many = LocalFiles(f"client-{number}" for number in range(10_000)).filed()
    assert sum(tensor.nbytes for tensor in many.values()) == 400_000
