"""The last feed-forward part for the pooled token alone: where one token is read, the same features and gradients for less work."""

import pytest
import torch
from tests import worlds
from tests.unit.models.test_families import ZOO, adapter
from tests.unit.models.zoo import encoder
from torch.utils.flop_counter import FlopCounterMode

from m2fedsa import running
from m2fedsa.models.cut import cut, plan, specify
from m2fedsa.models.one_token import narrow

READ_ONE = {
    "BERT": "cls",
    "ViT": None,
    "DINOv2": None,
    "CLIP vision": None,
    "VideoMAE": "cls",
    "GPT-2": None,
    "Llama": None,
    "Mixtral": None,
    "BLOOM": None,
    "T5": "last",
}
READ_MORE = {
    "BERT": "mean",
    "AST": None,  # its pooler reads two tokens
    "SigLIP vision": None,  # its pooler attends to all of them
    "Swin": None,
    "MobileNetV2": None,  # maps have no tokens
    "XLNet": None,  # tokens first, samples second
    "Whisper": None,
    "OPT": None,  # the tokens of all samples stand in one row there
}


def sides(name, pooling, k=1):
    specimen = ZOO[name]
    model, inputs = encoder(specimen), specimen.inputs()
    return (*cut(model, plan(model, inputs, k), pooling), inputs)


def features(tail, hidden, inputs):
    """z, FLOPs, and the gradients of what comes in and of a task adapter."""
    leaf = hidden.detach().clone().requires_grad_()
    beside = adapter(tail.width_in, tail.width_out, tail.axis, 2)
    with FlopCounterMode(display=False) as counter:
        z = tail(leaf, inputs.get("attention_mask"), specify(inputs), beside)
    (z * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return counter.get_total_flops(), [z.detach(), leaf.grad, *(parameter.grad for parameter in beside.parameters())]


@pytest.mark.parametrize("name", READ_ONE)
def test_the_same_features_and_gradients_for_less_work(name):
    head, tail, inputs = sides(name, READ_ONE[name])
    hidden = head(inputs)
    features(tail, hidden, inputs)
    much, whole = features(tail, hidden, inputs)
    assert narrow(head, tail, inputs)
    features(tail, hidden, inputs)
    little, one = features(tail, hidden, inputs)
    assert little < much
    for ours, theirs in zip(one, whole, strict=True):
        assert float(theirs.abs().max()) > 0
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("name", READ_MORE)
def test_where_more_is_read_the_tail_stays_as_it_was(name):
    head, tail, inputs = sides(name, READ_MORE[name])
    hidden, mask, specs = head(inputs), inputs.get("attention_mask"), specify(inputs)
    before = tail(hidden, mask, specs)
    assert not narrow(head, tail, inputs)
    assert torch.equal(tail(hidden, mask, specs), before)


def test_the_work_that_is_spared_is_that_of_all_tokens_but_one():
    """BERT's two products of a feed-forward part: 2 · 2 · D · D_ff a token."""
    head, tail, inputs = sides("BERT", "cls")
    hidden, mask, specs = head(inputs), inputs["attention_mask"], specify(inputs)
    counts = []
    for _ in range(2):
        tail(hidden, mask, specs)
        with FlopCounterMode(display=False) as counter:
            tail(hidden, mask, specs)
        counts.append(counter.get_total_flops())
        narrow(head, tail, inputs)
    config, (rows, tokens) = tail.encoder.config, inputs["input_ids"].shape
    assert counts[0] - counts[1] == rows * (tokens - 1) * 4 * config.hidden_size * config.intermediate_size


def test_after_the_last_block_there_is_nothing_to_spare():
    head, tail, inputs = sides("ViT", None, len(ZOO["ViT"].blocks))
    assert not narrow(head, tail, inputs)


def test_the_setting_spares_work_where_one_token_is_pooled_and_a_run_learns_the_same():
    runs = {}
    for kind in ("whole", "pooled"):
        settings = worlds.config(compute__last_block=kind)
        modalities = {name: one.model_copy(update={"adapter_dropout": 0.0}) for name, one in settings.modalities.items()}
        settings = settings.model_copy(update={"modalities": modalities})
        runs[kind] = running.run(settings, data=worlds.federated(), encoders=worlds.encoders())
    work = {kind: {name: entry["server"]["flops"] for name, entry in run.ledger.items()} for kind, run in runs.items()}
    assert work["pooled"]["image"]["forward"] < work["whole"]["image"]["forward"]  # ViT, its first token
    for name in ("audio", "text"):  # two tokens, and the mean
        assert work["pooled"][name] == work["whole"][name]
    for one, other in zip(*(run.history for run in runs.values()), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
