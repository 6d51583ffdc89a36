"""Device, type and attention of the frozen encoders; what trains stays in float32."""

import pytest
import torch
from tests import worlds

from m2fedsa import running
from m2fedsa.config import Compute
from m2fedsa.errors import ConfigError
from m2fedsa.models.precision import attention_of, device_of, fed, place_and_type, prepared


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(Compute()).type == "cpu"
    with pytest.raises(ConfigError, match=r'compute\.device = "cuda", but there is no GPU'):
        device_of(Compute(device="cuda"))


def test_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(Compute()).type == "cuda"
    assert device_of(Compute(device="cpu")).type == "cpu"


def test_a_type_that_the_gpu_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ConfigError, match=r'compute\.precision = "bfloat16", in which Old GPU does not compute'):
        place_and_type(Compute(precision="bfloat16"))
    assert place_and_type(Compute()) == {"device": torch.device("cuda"), "dtype": None}
    assert place_and_type(Compute(precision="bfloat16", device="cpu"))["dtype"] == torch.bfloat16


def test_which_attention() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert attention_of(Compute(), cpu) is None
    assert attention_of(Compute(precision="bfloat16"), cpu) == "eager"
    assert attention_of(Compute(precision="bfloat16"), gpu) is None
    assert attention_of(Compute(precision="bfloat16", attention="sdpa"), cpu) == "sdpa"


def test_an_encoder_in_bfloat16() -> None:
    model = prepared(worlds.encoders(("text",))["text"], Compute(precision="bfloat16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    taken = fed(model, {"input_ids": torch.ones(1, 2, dtype=torch.int64), "soft": torch.ones(1, 2)})
    assert (taken["input_ids"].dtype, taken["soft"].dtype) == (torch.int64, torch.bfloat16)


def test_a_run_in_bfloat16_comes_near_to_one_in_float32() -> None:
    """What trains, and what is averaged and kept of it, is in float32; half the bytes cross the cut."""
    runs = {}
    for precision in ("float32", "bfloat16"):
        settings = worlds.config(compute__precision=precision, transfer__start=2)
        runs[precision] = running.run(settings, data=worlds.federated(unlabelled=0.3), encoders=worlds.encoders())
    whole, half = runs["float32"], runs["bfloat16"]
    assert half.digest != whole.digest
    for one, other in zip(whole.history, half.history, strict=True):
        for name, loss in one["loss"].items():
            assert other["loss"][name] == pytest.approx(loss, rel=0.05), name
        # Activations and their gradients are halved; masks, rows, features and their gradients are what they were.
        assert 0.5 < other["bytes"]["up"] / one["bytes"]["up"] < 0.75
        assert 0.5 < other["bytes"]["down"] / one["bytes"]["down"] < 0.75


def test_by_length_and_shortened_runs_learn_the_same_task() -> None:
    """Another order of samples, so another digest; the same samples, so as many steps of each client."""
    results = [
        running.run(worlds.config(federation__batches=batches, compute__shorten=True), data=worlds.federated(), encoders=worlds.encoders())
        for batches in ("shuffled", "by_length")
    ]
    assert results[0].digest != results[1].digest
    assert [record["clients"] for record in results[0].history] == [record["clients"] for record in results[1].history]
