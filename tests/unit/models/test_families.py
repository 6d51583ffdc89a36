"""Every family of the tested list, cut at 0, 1, half and all of its blocks: the split encoder is the whole one, to the bit.

What is known of a family stands in `zoo*.py`; the unsplit encoder, its adapters and its pooling are written here anew.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.models.zoo import Inputs, Specimen, encoder
from tests.unit.models.zoo_decoders import DECODERS
from tests.unit.models.zoo_records import RECORDS
from tests.unit.models.zoo_sight import SIGHT
from tests.unit.models.zoo_sound import SOUND
from tests.unit.models.zoo_text import TEXT
from torch import Tensor, nn

from m2fedsa.errors import CutError
from m2fedsa.models.adapter import Adapter
from m2fedsa.models.cut import Head, Tail, cut, pack, plan, specify, unpack
from m2fedsa.models.pooling import pool

ZOO = {**TEXT, **DECODERS, **SIGHT, **SOUND, **RECORDS}
CUTS = [(name, k) for name, specimen in ZOO.items() for k in sorted({0, 1, len(specimen.blocks) // 2, len(specimen.blocks)})]


def pooled(specimen: Specimen, output: Any) -> Tensor:
    """One vector per sample."""
    if specimen.pooling == "pooler":
        return output.pooler_output.flatten(1)
    hidden = output.last_hidden_state
    if specimen.pooling == "cls":
        return hidden[:, 0]
    if specimen.pooling == "channels":
        return hidden.mean(2).flatten(1)
    if specimen.pooling == "map":
        return hidden.flatten(2).mean(2)
    lengths = specimen.lengths or (hidden.shape[1],) * 3
    rows = zip(hidden, lengths, strict=True)
    return torch.stack([row[length - 1] if specimen.pooling == "last" else row[:length].mean(0) for row, length in rows])


def adapter(width_in: int, width_out: int, axis: int, seed: int) -> Adapter:
    """An adapter whose output is not zero."""
    made = Adapter(width_in, width_out, 8, dropout=0.0, axis=axis)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return made


class Unsplit:
    """The whole encoder with adapters hooked in by hand."""

    def __init__(self, name: str, k: int) -> None:
        self.specimen, self.model = ZOO[name], encoder(ZOO[name])
        self.blocks, self.k = self.specimen.blocks, k

    def run(self, inputs: Inputs, ma: nn.Module, ta: nn.Module | None) -> Any:
        """The encoder's output."""
        seen: dict[str, Tensor] = {}

        def adapt(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (args[0] + ma(args[0]), *args[1:]), kwargs
            name = "hidden_states" if "hidden_states" in kwargs else "hidden_state"
            return args, {**kwargs, name: kwargs[name] + ma(kwargs[name])}

        def adapt_end(_: nn.Module, _args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return output + ma(output)
            return type(output)([output[0] + ma(output[0]), *output[1:]])

        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["x"] = args[0] if args else kwargs["hidden_states"]

        def add(_: nn.Module, _args: Any, output: Any) -> Any:
            return output + ta(seen["x"]) if isinstance(output, Tensor) else (output[0] + ta(seen["x"]), *output[1:])

        if self.k == len(self.blocks):
            handles = [self._module(self.blocks[-1]).register_forward_hook(adapt_end)]
        else:
            handles = [self._module(self.blocks[self.k]).register_forward_pre_hook(adapt, with_kwargs=True)]
        if ta is not None:
            first, last = (f"{self.blocks[-1]}.{part}".rstrip(".") for part in self.specimen.site)
            handles += [self._module(first).register_forward_pre_hook(see, with_kwargs=True), self._module(last).register_forward_hook(add)]
        try:
            return self.model(**inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)


def each_side_holds_its_blocks_alone(specimen: Specimen, k: int, head: Head, tail: Tail) -> None:
    """What is in a block is on that block's side alone, and nothing is nowhere."""
    at_head, at_tail = head.encoder.state_dict(), tail.encoder.state_dict()
    early, late = (tuple(f"{block}." for block in blocks) for blocks in (specimen.blocks[:k], specimen.blocks[k:]))
    for name, tensor in encoder(specimen).state_dict().items():
        here, there = not at_head[name].is_meta, not at_tail[name].is_meta
        assert here or there or tensor.is_meta, name
        if name.startswith(specimen.shared or ("-",)):
            continue
        assert not (here and name.startswith(late)), name
        assert not (there and name.startswith(early)), name


def outputs_are_equal(specimen: Specimen, model: nn.Module, head: Head, tail: Tail, inputs: Inputs) -> None:
    """To the bit, with the activation packed as on a wire."""
    mask, specs, hidden = inputs.get("attention_mask"), specify(inputs), head(inputs)
    assert hidden.shape[0] == 3
    assert (head.axis, hidden.shape[head.axis]) == (specimen.axis, head.width)
    with torch.no_grad():
        expected, found = model(**inputs), tail.run(unpack(*pack(hidden)), mask, specs)
    assert expected.last_hidden_state.isfinite().all()
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(pooled(specimen, found), pooled(specimen, expected))
    z = pool(tail.encoder, found, tail.pooling, mask)
    assert torch.allclose(z, pooled(specimen, expected), rtol=1e-5, atol=1e-6)
    assert z.shape == (3, tail.width)


def gradients_are_equal(specimen: Specimen, whole: Unsplit, head: Head, tail: Tail, inputs: Inputs) -> None:
    """Those of both adapters; of MA alone after the last block."""
    mask, specs, takes = inputs.get("attention_mask"), specify(inputs), tail.takes_adapter
    (ma, ta), (theirs_ma, theirs_ta) = (
        (
            adapter(head.width, head.width, specimen.axis, 1),
            adapter(tail.width_in, tail.width_out, specimen.site_axis, 2) if takes else None,
        )
        for _ in range(2)
    )
    hidden = head(inputs)
    sent = hidden + ma(hidden)
    received = unpack(*pack(sent.detach())).requires_grad_()
    ours = pooled(specimen, tail.run(received, mask, specs, ta))
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5))
    (ours * direction).sum().backward()
    sent.backward(received.grad)
    theirs = pooled(specimen, whole.run(inputs, theirs_ma, theirs_ta))
    (theirs * direction).sum().backward()

    assert torch.equal(ours, theirs) or specimen.rounds
    for mine, other in [(ma, theirs_ma), *([(ta, theirs_ta)] if takes else [])]:
        for (tensor, parameter), found in zip(other.named_parameters(), mine.parameters(), strict=True):
            largest = parameter.grad.abs().max()
            assert largest > 0, tensor
            assert (found.grad - parameter.grad).abs().max() <= (1e-6 * largest if specimen.rounds else 0), tensor
    assert not any(parameter.grad is not None for side in (head, tail) for parameter in side.parameters())


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # WavLM's own
@pytest.mark.parametrize(("name", "k"), CUTS)
def test_a_cut_encoder_is_the_whole_one_and_so_are_its_gradients(name: str, k: int) -> None:
    specimen, whole, inputs = ZOO[name], Unsplit(name, k), ZOO[name].inputs()
    head, tail = cut(whole.model, plan(whole.model, inputs, k))
    each_side_holds_its_blocks_alone(specimen, k, head, tail)
    outputs_are_equal(specimen, whole.model, head, tail, inputs)
    if k < len(specimen.blocks):
        assert tail.takes_adapter
        assert tail.axis == specimen.site_axis
    else:
        with pytest.raises(CutError, match=rf"block = {k} leaves .* no block for a task adapter"):
            tail.run(head(inputs), inputs.get("attention_mask"), specify(inputs), nn.Identity())
    gradients_are_equal(specimen, whole, head, tail, inputs)


def test_the_list_in_the_documentation_is_the_tested_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "encoders.md").read_text()
    families = {encoder(specimen).config.model_type for specimen in ZOO.values()}
    assert f"\n{len(ZOO)} encoders of {len(families)} families" in page
    assert [name for name in ZOO if name not in page] == []
    assert [family for family in families if f"(`{family}`)" not in page] == []
