"""The transfer losses by hand: one sample, two modalities, two classes."""

import math

import pytest
import torch

from m2fedsa.losses import Predictions, feature_transfer, paper_loss, step_loss
from m2fedsa.tasks import SingleLabel

LOG3, LOG4 = math.log(3), math.log(4)
CE = {"image": math.log(4 / 3), "text": math.log(2), "fused": math.log(5 / 4)}
"""p_image = (3/4, 1/4), p_text = (1/2, 1/2), s = (4/5, 1/5), and the first class is right."""
KL = {
    "image": 0.8 * math.log(0.8 / 0.75) + 0.2 * math.log(0.2 / 0.25),
    "text": 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5),
}


def predictions() -> Predictions:
    unimodal = {"image": torch.tensor([[LOG3, 0.0]], requires_grad=True), "text": torch.zeros(1, 2, requires_grad=True)}
    rows = dict.fromkeys(unimodal, torch.tensor([0]))
    fused, counts = torch.tensor([[LOG4, 0.0]], requires_grad=True), torch.tensor([2.0])
    return Predictions(unimodal, rows, fused, counts, torch.tensor([0]), torch.zeros(2), {}, {}, SingleLabel(2), torch.ones(2), {})


@pytest.mark.parametrize(("loss", "least"), [(paper_loss, 0.0), (step_loss, 1.0)], ids=["paper", "floored"])
def test_the_loss_of_the_transfer_phase(loss, least: float) -> None:
    """L = Σ_m λ1 (ce_m + ce_s / 2) + λ2 KL(s ‖ p_m) / (ce_m + ce_s); both divisors are below 1 here."""
    at = predictions()
    total = loss(at, "transfer", (0.6, 0.2, 0.2)).total
    expected = 0.0
    for name in ("image", "text"):
        divisor = max(CE[name] + CE["fused"], least)
        expected += 0.6 * (CE[name] + CE["fused"] / 2) + 0.2 * KL[name] / divisor
    assert CE["image"] + CE["fused"] < CE["text"] + CE["fused"] < 1
    assert total.item() == pytest.approx(expected, rel=1e-6)
    # Teacher and divisor are constants: p_text learns λ1 (p − y) and λ2 (p − s) / divisor, s from the labels alone.
    total.backward()
    divisor = max(CE["text"] + CE["fused"], least)
    assert at.unimodal["text"].grad[0, 0] == pytest.approx(0.6 * (0.5 - 1) + 0.2 * (0.5 - 0.8) / divisor, rel=1e-5)
    assert at.fused.grad[0, 0] == pytest.approx(2 * 0.6 * (0.8 - 1) / 2, rel=1e-5)


def test_the_fusion_phase_is_the_same_in_both() -> None:
    found = [loss(predictions(), "fusion", (0.6, 0.2, 0.2)).total.item() for loss in (paper_loss, step_loss)]
    assert found[0] == found[1] == pytest.approx(sum(CE.values()), rel=1e-6)


def test_the_feature_level() -> None:
    """Tokens at 0° and 60° to the teacher: 1 − (1 + ½) / 2."""
    tokens = torch.tensor([[2.0, 0.0], [0.5, 3**0.5 / 2]])
    assert float(feature_transfer(tokens, torch.tensor([[3.0, 0.0], [1.0, 0.0]]))) == pytest.approx(0.25, rel=1e-6)
