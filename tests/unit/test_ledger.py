"""Parameters, bytes and FLOPs of a tiny ViT and a tiny BERT, counted by hand from their widths.

T tokens, D width, WIDE that of the feed-forward part, R bottleneck, K classes, F fusion width. A multiply-add is two FLOPs.
"""

import pytest
import torch
from tests import worlds

from m2fedsa.assembly import Extensions, assemble
from m2fedsa.ledger import ledger

R, K, F = 6, 4, 8
T, D, WIDE, PATCH = 5, 16, 20, 16
"""of the ViT: four patches of 16 pixels and a first token"""


def entries_of(modalities, models=None, **settings):
    data = worlds.federated({"ann": (modalities, 6)}, modalities=modalities)
    parties = assemble(worlds.config(modalities, **settings), Extensions(data, models or worlds.encoders(modalities)))
    return ledger(parties.blueprint, parties.measured)


@pytest.fixture(scope="module")
def entries():
    torch.set_num_threads(1)
    return entries_of(("image", "text"))


def linear(into, out):
    return into * out + out


NORM = 2 * D
BLOCK = 4 * linear(D, D) + linear(D, WIDE) + linear(WIDE, D) + 2 * NORM
EMBEDDINGS = D + T * D + linear(PATCH, D)
ADAPTER = linear(D, R) + linear(R, R) + linear(R, D)


def test_parameters(entries):
    """Cut after block 1 of 3."""
    image = entries["image"]
    counted = {
        ("client", "frozen"): EMBEDDINGS + BLOCK,
        ("server", "frozen"): 2 * BLOCK + NORM,
        ("whole", "frozen"): 0,
        ("client", "trainable"): ADAPTER + linear(D, K),
        ("server", "trainable"): ADAPTER + linear(D, F) + D * F,  # TA; W_m and e_m; B_m
        ("whole", "trainable"): EMBEDDINGS + 3 * BLOCK + NORM,
    }
    for (side, kind), number in counted.items():
        assert image[side][kind] == {"parameters": number, "bytes": 4 * number}, (side, kind)


def multiply(rows, into, out):
    return 2 * rows * into * out


ATTENTION = multiply(T, D, T) + multiply(T, T, D)
"""over the heads together: Q Kᵀ, then times V"""
LINEARS = 4 * multiply(T, D, D) + multiply(T, D, WIDE) + multiply(T, WIDE, D)
EMBED = multiply(T - 1, PATCH, D)
BOTTLENECK = multiply(T, D, R) + multiply(T, R, R) + multiply(T, R, D)
CLASSIFY = multiply(1, D, K)


def test_forward_flops(entries):
    image, block = entries["image"], LINEARS + ATTENTION
    assert image["client"]["flops"]["head"] == EMBED + block
    assert image["client"]["flops"]["forward"] == EMBED + block + BOTTLENECK + CLASSIFY
    assert image["server"]["flops"]["forward"] == 2 * block + BOTTLENECK
    assert image["whole"]["flops"]["forward"] == EMBED + 3 * block


def test_backward_flops(entries):
    """A trained linear layer costs twice its forward: once for its weight, once for its input; a frozen one only the latter. Attention
    is two products, each with two backward."""
    image = entries["image"]
    # MA's input h is fixed, so its first layer owes nothing to it; C_m passes its gradient on.
    assert image["client"]["flops"]["backward"] == 2 * BOTTLENECK - multiply(T, D, R) + 2 * CLASSIFY
    assert image["server"]["flops"]["backward"] == 2 * (LINEARS + 2 * ATTENTION) + 2 * BOTTLENECK
    # The embeddings are trained but owe nothing to the pixels.
    assert image["whole"]["flops"]["backward"] == EMBED + 3 * (2 * LINEARS + 2 * ATTENTION)


def test_bytes_per_sample(entries):
    """Up: activation, its row's number, the mask of a text, the gradient of its feature. Down: the feature, the activation's gradient."""
    float_, index = 4, 8
    tokens, width = worlds.TEXT_LENGTH, 20
    assert entries["image"]["bytes"] == {"up": T * D * float_ + index + D * float_, "down": D * float_ + T * D * float_}
    assert entries["text"]["bytes"] == {
        "up": tokens * width * float_ + index + tokens * index + width * float_,
        "down": width * float_ + tokens * width * float_,
    }


def test_counting_leaves_everything_as_it_was():
    """Nothing trains, nothing keeps a gradient."""
    models = worlds.encoders(("image",))
    before = {name: value.clone() for name, value in models["image"].state_dict().items()}
    entries_of(("image",), models)
    assert all(torch.equal(value, before[name]) for name, value in models["image"].state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in models["image"].parameters())


def test_what_a_party_does_not_have_costs_it_nothing():
    image = entries_of(("image",), modalities__image__modality_adapter=False, modalities__image__task_adapter=False)["image"]
    assert image["client"]["trainable"]["parameters"] == linear(D, K)
    assert image["client"]["flops"]["backward"] == 2 * CLASSIFY
    assert image["server"]["flops"]["forward"] == 2 * (LINEARS + ATTENTION)
