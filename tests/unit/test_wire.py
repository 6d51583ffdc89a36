"""Messages as bytes, and frames: what arrives is what was sent, and whatever else arrives is refused by name."""

import random
import struct
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.test_ports import activations
from torch import Tensor

from m2fedsa import messages
from m2fedsa.errors import ProtocolError
from m2fedsa.links.frames import HEADER, Incoming, Outgoing
from m2fedsa.links.narrow import CODES, narrowed, payload
from m2fedsa.links.plain import DTYPES, Tensors, form_of
from m2fedsa.links.wire import decode, encode, to_bytes
from m2fedsa.messages import ActivationGradients, Activations, EvaluationReply, Features, Gradients, RoundPlan
from m2fedsa.models.layout import pack


@dataclass(frozen=True)
class One:
    value: Tensor


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 5), max_size=5))
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    made = (100 * torch.randn(shape, generator=g)).to(dtype)
    return made.permute(draw(st.permutations(range(len(shape)))))


@given(tensors())
def test_a_tensor_arrives_with_type_shape_order_in_memory_and_bits(value: Tensor) -> None:
    (found,) = vars(decode(to_bytes(One(value)), One)).values()
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    assert torch.equal(found, value)
    if value.numel() and all(size > 1 for size in value.shape):
        assert found.stride() == value.stride()


@given(tensors(), st.sampled_from(["bfloat16", "int8"]))
def test_narrow_values_are_near_and_whole_numbers_stay(value: Tensor, width: str) -> None:
    found = decode(encode(One(value), width).whole(), One).value
    assert found.dtype == value.dtype
    if not value.is_floating_point() or not value.dim() or (width == "bfloat16" and value.element_size() <= 2):
        assert torch.equal(found, value)
    elif width == "bfloat16":
        assert torch.equal(found, value.to(torch.bfloat16).to(value.dtype))
    elif value.numel():
        # Half a code of a row's largest entry is as far as rounding goes, and in sixteen bits half of their last place beside it.
        values, arrived = (pack(one)[0].reshape(-1, row_of(value)).double() for one in (value, found))
        bound = values.abs().amax(1, keepdim=True) / CODES / 2 * 1.001
        if value.element_size() == 2:
            bound = bound + values.abs() / 128 + 0.01 * bound
        assert bool(((arrived - values).abs() <= bound + 1e-12).all())


def row_of(value: Tensor) -> int:
    """From the innermost dimension in memory outwards until there are sixteen, and never over the outermost one."""
    *_, last = sizes = pack(value)[0].shape
    inner = list(sizes[1:-1])
    while last < 16 and inner:
        last *= inner.pop()
    return last


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((2, 7, 64), 14),  # tokens
        ((2, 8, 3, 3), 2),  # maps of nine: one scale a sample
        ((2, 8, 5, 5), 16),  # a map each
        ((2, 8, 20, 20), 320),  # a line of a map each
        ((2, 8), 2),
        ((2, 3, 0), 0),
        ((0, 4), 0),
    ],
)
def test_rows_have_sixteen_numbers_and_lie_within_a_sample(shape: tuple[int, ...], rows: int) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert payload([value], "int8") == value.numel() + 4 * rows
    if value.numel() >= 100:
        assert payload([value], "int8") < 0.32 * payload([value], "float32")


def test_maps_with_channels_last_in_memory_have_a_scale_a_place() -> None:
    value = torch.randn(2, 32, 3, 3).to(memory_format=torch.channels_last)
    assert payload([value], "int8") == 2 * 9 * (32 + 4)


def test_what_is_narrow_already_is_not_widened() -> None:
    value = torch.randn(3, 40).to(torch.bfloat16)
    assert payload([value], "bfloat16") == payload([value], "float32") == 240
    assert payload([value], "int8") == 3 * 44


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("width", ["float32", "bfloat16", "int8"])
def test_what_is_not_finite_arrives_as_not_finite(width: str, spoil: float) -> None:
    value = torch.ones(3, 4)
    value[1, 2] = spoil
    found = decode(encode(One(value), width).whole(), One).value
    assert found.isfinite().all(1).tolist() == [True, False, True]


@given(st.lists(tensors(), max_size=3), st.sampled_from(["float32", "bfloat16", "int8"]))
def test_what_is_counted_is_what_travels(values: list[Tensor], width: str) -> None:
    """All but headers and the zeros that lie between tensors."""
    parts = [part for value in values for part in narrowed(pack(value)[0], width)[1]]
    assert payload(values, width) == sum(part.numel() * part.element_size() for part in parts)


def test_bytes_of_a_message_are_those_of_its_numbers() -> None:
    """2,000 float32 take 8,000 bytes, 4,000 as bfloat16, 2,000 and four a row as int8; all else is a few hundred."""
    value = One(torch.ones(20, 100))
    for width, expected in (("float32", 8000), ("bfloat16", 4000), ("int8", 2080)):
        assert 0 <= encode(value, width).nbytes - expected < 300


def test_every_message_of_the_parties_has_a_form() -> None:
    for kind in vars(messages).values():
        if isinstance(kind, type) and is_dataclass(kind):
            with pytest.raises(ProtocolError, match=f"exactly {', '.join(one.name for one in fields(kind))} are needed"):
                form_of(kind).read({}, Tensors([]), kind.__name__)


def test_plain_values_and_their_order() -> None:
    plan = RoundPlan(3, "transfer", 2**62, {"b": ("x", "ü"), "a": ()}, 0.1, (1 / 3, 0.0, 5e-324), None)
    found = decode(to_bytes(plan), RoundPlan)
    assert found == plan
    assert list(found.roster) == ["b", "a"]
    reply = EvaluationReply({"z": torch.ones(1, 2), "a": torch.zeros(2, 3)}, {(): torch.ones(1), ("z", "a"): torch.zeros(1)})
    back = decode(to_bytes(reply), EvaluationReply)
    assert list(back.pooled) == ["z", "a"]
    assert list(back.fused) == [(), ("z", "a")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: whole[:10], "shorter than its header"),
        (lambda whole: whole[:-1], "says that it has"),
        (lambda whole: whole + b"\0", "says that it has"),
        (lambda whole: whole.replace(b"RoundPlan", b"RoundPlum"), "'RoundPlum' came where Features or RoundPlan was awaited"),
        (lambda whole: whole.replace(b'"phase":"fusion"', b'"phase":"fusiom"'), "RoundPlan.phase: is 'fusiom'; one of fusion, transfer"),
        (lambda whole: whole.replace(b'"number":1', b'"number":"'), "no JSON"),
        (lambda whole: whole.replace(b'"seed":41', b'"seed":.1'), "no JSON"),
        (lambda whole: whole.replace(b'"seed":41', b'"seed":[]'), "RoundPlan.seed: is .*a whole number"),
        (lambda whole: whole.replace(b'"seed":', b'"sead":'), "has number, phase, sead.*exactly number, phase, seed"),
        (lambda whole: whole.replace(b'["ann",', b'["bob",'), "RoundPlan.roster: has 'bob' twice"),
    ],
)
def test_plain_values_that_do_not_fit(spoil, said: str) -> None:
    whole = to_bytes(RoundPlan(1, "fusion", 41, {"ann": ("text",), "bob": ()}, 0.1, (0.0, 0.0, 0.0)))
    with pytest.raises(ProtocolError, match=said):
        decode(spoil(whole), Features, RoundPlan)


def test_a_label_has_no_place() -> None:
    """The fields of the four messages of a step, written down here once more, by hand."""
    allowed = {
        "Activations": {"modalities", "entering"},
        "Activation": {"hidden", "rows", "mask", "inputs"},
        "Features": {"pooled", "fused"},
        "Gradients": {"pooled", "fused"},
        "ActivationGradients": {"hidden"},
    }
    for name, names in allowed.items():
        assert {one.name for one in fields(getattr(messages, name))} == names
    said = to_bytes(activations(("image", "text")))
    assert b'"entering":' in said
    labelled = said.replace(b'"entering":', b'"labels":0,"entering":')
    at = struct.unpack_from("<IIQQ", labelled)
    grown = struct.pack("<IIQQ", at[0], at[1], at[2] + 11, at[3] + 11) + labelled[24:]
    with pytest.raises(ProtocolError, match=r"labels|awaited|no type|belong|needs"):
        decode(grown, Activations)


@given(st.randoms(use_true_random=False), st.sampled_from(["float32", "int8"]))
def test_mutated_messages_are_refused_or_read_and_nothing_else(random_: random.Random, width: str) -> None:
    whole = bytearray(encode(activations(("image", "text")), width).whole())
    for _ in range(random_.randint(1, 4)):
        whole[random_.randrange(600)] = random_.randrange(256)
    with suppress(ProtocolError):
        assert isinstance(decode(bytes(whole), Activations), Activations)


# --- frames -------------------------------------------------------------------------------------------------------------------------

BIG = Gradients({"image": torch.arange(3000.0).reshape(30, 100)}, torch.ones(3, 8))
SMALL = ActivationGradients({"image": torch.ones(2, 2)})


def pair(**settings) -> tuple[Outgoing, Incoming]:
    return Outgoing(session=7, size=1000, **settings), Incoming(session=7, size=1000, largest=20_000, **settings)


@pytest.mark.parametrize("checked", [False, True])
def test_messages_arrive_in_frames_of_bounded_size(checked: bool) -> None:
    out, into = pair(checked=checked)
    for message in (BIG, SMALL, BIG):
        frames = list(out.frames(encode(message)))
        assert max(map(len, frames)) <= 1000 + HEADER
        assert len(frames) > 1 or message is SMALL
        arrived = [into.add(frame) for frame in frames]
        assert arrived[:-1] == [None] * (len(frames) - 1)
        found = decode(arrived[-1], type(message))
        assert torch.equal(values(found), values(message))


def values(message: Gradients | ActivationGradients) -> Tensor:
    return message.pooled["image"] if isinstance(message, Gradients) else message.hidden["image"]


def swapped(frames: list[bytes]) -> list[bytes]:
    return [frames[1], frames[0], *frames[2:]]


def changed(at: int, value: bytes):
    return lambda frames: [frames[0][:at] + value + frames[0][at + len(value) :], *frames[1:]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (swapped, "came where message 0 from byte 0 on was due"),
        (lambda frames: frames[1:], "came where"),
        (lambda frames: [frames[0], frames[0]], "came where"),
        (lambda frames: [*frames, *frames], "message 0 from byte 0 on came where message 1 .* was due"),
        (lambda frames: [frames[0][:30]], "shorter than its header"),
        (lambda frames: [frames[0][:-1]], "but has 999"),
        (lambda frames: [frames[0] + b"x"], "but has 1001"),
        (changed(0, b"x"), "not a frame"),
        (changed(4, b"\2"), "another version"),
        (changed(5, b"\0"), "altered"),
        (changed(16, struct.pack("<Q", 8)), "session 0000000000000008.*recorded"),
        (changed(24, struct.pack("<Q", 2**40)), "1099511627776 bytes is announced; at most 20000"),
        (changed(24, struct.pack("<Q", 999)), "says that it has 1000 bytes"),
        (changed(HEADER + 40, b"!"), "altered"),
        (lambda frames: [frames[0], *changed(24, struct.pack("<Q", 12000))(frames[1:])], "announced, then one of 12000"),
    ],
)
def test_frames_that_are_not_the_next(spoil, said: str) -> None:
    out, into = pair(checked=True)
    frames = spoil(list(out.frames(encode(BIG))))
    with pytest.raises(ProtocolError, match=said):
        [into.add(frame) for frame in frames]
