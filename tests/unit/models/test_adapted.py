"""An encoder in one piece with its adapters is what head and tail compute with the same ones, for families that differ in their kind."""

import copy

import pytest
import torch
from tests.unit.models.test_families import ZOO, adapter
from tests.unit.models.zoo import encoder

from m2fedsa.models.adapted import Adapted
from m2fedsa.models.cut import cut, plan, specify, whole

FAMILIES = ("BERT", "XLNet", "GPT-2", "T5", "Swin", "BEiT, shared bias", "MobileNetV2", "ResNet", "Wav2Vec2")
CUTS = [(name, k) for name in FAMILIES for k in (0, 1, len(ZOO[name].blocks))]


@pytest.mark.parametrize(("name", "k"), CUTS)
def test_in_one_piece_and_cut(name, k):
    specimen, inputs = ZOO[name], ZOO[name].inputs()
    model = copy.deepcopy(encoder(specimen))
    planned = plan(model, inputs, k)
    head, tail = cut(model, planned)
    ma = adapter(head.width, head.width, head.axis, 1)
    ta = adapter(tail.width_in, tail.width_out, tail.axis, 2) if tail.takes_adapter else None
    with torch.no_grad():
        hidden = head(inputs)
        expected = tail(hidden + ma(hidden), inputs.get("attention_mask"), specify(inputs), ta)
        plain = whole(model, inputs, tail.pooling)
        adapted = Adapted(model, planned, tail.pooling, ma, ta)
        found = adapted(inputs)
        assert torch.equal(Adapted(copy.deepcopy(encoder(specimen)), planned, tail.pooling, None, None)(inputs), plain)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float((found - plain).abs().max()) > 1e-2, "the adapters do nothing"
    assert adapted.encoder.state_dict().keys() == encoder(specimen).state_dict().keys()
