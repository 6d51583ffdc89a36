import hashlib
import json
import struct

import torch
from hypothesis import given
from hypothesis import strategies as st

from m2fedsa.state import by_prefix, digest, fingerprints, nbytes, of_modalities, raw_bytes, snapshot


def test_bytes_of_tensors():
    tensors = [torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64), torch.zeros(5, dtype=torch.bool), torch.zeros((), dtype=torch.int64)]
    assert nbytes(tensors) == 24 + 32 + 5 + 8
    assert nbytes([]) == 0


def test_snapshots_do_not_follow():
    original = {"a": torch.nn.Parameter(torch.ones(2))}
    kept = snapshot(original)
    with torch.no_grad():
        original["a"].add_(1)
    assert kept["a"].tolist() == [1.0, 1.0]
    assert not kept["a"].requires_grad


def test_selection_by_modality():
    names = ("image.ma.up.weight", "images.ma.up.weight", "text.classifier.bias", "fused.classifier.bias", "fusion.x")
    tensors = dict.fromkeys(names, torch.zeros(1))
    assert list(of_modalities(tensors, ["image"])) == ["image.ma.up.weight"]
    assert list(of_modalities(tensors, ["text"], ["fused"])) == ["text.classifier.bias", "fused.classifier.bias"]


def test_the_longest_prefix_counts():
    weights = {"image.": 1, "image.token.": 2, "fusion.": 3, "fusion.bilinear": 4}
    found = [
        by_prefix(weights, name) for name in ("image.ma.up", "image.token.bias", "fusion.blocks", "fusion.bilinear_norm.bias", "text.ma")
    ]
    assert found == [1, 2, 3, 4, 0]


def test_raw_bytes_are_those_of_the_values():
    values = [1.5, -2.0, 3.25, 0.0]
    assert raw_bytes(torch.tensor(values)) == struct.pack("<4f", *values)
    assert raw_bytes(torch.tensor(values).reshape(2, 2).t()) == struct.pack("<4f", 1.5, 3.25, -2.0, 0.0), "row-major, whatever the strides"
    assert raw_bytes(torch.tensor(7)) == struct.pack("<q", 7)
    assert raw_bytes(torch.tensor([1.0], dtype=torch.bfloat16)) == b"\x80\x3f"
    assert raw_bytes(torch.zeros(0)) == b""


def test_the_digest_is_that_of_the_specification():
    """SHA-256 over the sorted list of name, dtype, shape and SHA-256 of the bytes."""
    tensors = {"b": torch.tensor([[1.0, 2.0]], dtype=torch.float64), "a": torch.tensor([3.0])}
    listing = [
        ["a", "float32", [1], hashlib.sha256(struct.pack("<f", 3.0)).hexdigest()],
        ["b", "float64", [1, 2], hashlib.sha256(struct.pack("<2d", 1.0, 2.0)).hexdigest()],
    ]
    expected = hashlib.sha256(json.dumps(listing, separators=(",", ":")).encode()).hexdigest()
    assert digest(fingerprints(tensors)) == expected
    assert digest(fingerprints(dict(reversed(tensors.items())))) == expected


def test_the_digest_sees_every_change():
    def of(**tensors):
        return digest(fingerprints(tensors))

    ones = torch.ones(2, 2)
    others = [
        of(b=ones),
        of(a=ones, b=ones),
        of(a=ones.double()),
        of(a=ones.flatten()),
        of(a=torch.nextafter(ones, 2 * ones)),
        of(a=torch.tensor([[1.0, 1.0], [1.0, -0.0]])),
        of(a=torch.tensor([[1.0, 1.0], [1.0, 0.0]])),
        of(),
    ]
    assert len({of(a=ones), *others}) == len(others) + 1


@given(st.dictionaries(st.text(max_size=5), st.lists(st.floats(width=32), max_size=4), max_size=4), st.randoms())
def test_the_order_of_names_does_not_matter(values, random):
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    shuffled = list(tensors.items())
    random.shuffle(shuffled)
    assert digest(fingerprints(dict(shuffled))) == digest(fingerprints(tensors))
