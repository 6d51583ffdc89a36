"""From tokens to one vector, by hand."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from m2fedsa.errors import CutError
from m2fedsa.models.pooling import pool

TOKENS = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[4.0, 40.0], [5.0, 50.0], [9.0, 90.0]]])
OUTPUT = SimpleNamespace(last_hidden_state=TOKENS, pooler_output=torch.ones(2, 3, 1, 1))
RIGHT, LEFT = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("mean", None, [[3.0, 30.0], [6.0, 60.0]]),
        ("mean", RIGHT, [[1.5, 15.0], [6.0, 60.0]]),
        ("mean", torch.tensor([[0, 0, 0], [0, 1, 0]]), [[0.0, 0.0], [5.0, 50.0]]),
        ("cls", RIGHT, [[1.0, 10.0], [4.0, 40.0]]),
        ("last", None, [[6.0, 60.0], [9.0, 90.0]]),
        ("last", RIGHT, [[2.0, 20.0], [9.0, 90.0]]),
        ("last", LEFT, [[6.0, 60.0], [9.0, 90.0]]),
        ("pooler", RIGHT, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),
    ],
)
def test_pooling_by_hand(pooling: str, mask: torch.Tensor | None, expected: list[list[float]]) -> None:
    assert torch.equal(pool(nn.Identity(), OUTPUT, pooling, mask), torch.tensor(expected))


def test_maps_are_averaged_over_their_area() -> None:
    maps = SimpleNamespace(last_hidden_state=torch.arange(8.0).reshape(1, 2, 2, 2))
    assert torch.equal(pool(nn.Identity(), maps, "mean", None), torch.tensor([[1.5, 5.5]]))
    for pooling in ("cls", "last"):
        with pytest.raises(CutError, match=r"needs tokens \(B, T, D\), but this encoder puts out \(1, 2, 2, 2\)"):
            pool(nn.Identity(), maps, pooling, None)


def test_what_an_encoder_lacks_is_named() -> None:
    with pytest.raises(CutError, match="Identity has no pooler: use 'mean' or 'cls'"):
        pool(nn.Identity(), SimpleNamespace(last_hidden_state=TOKENS, pooler_output=None), "pooler", None)
    with pytest.raises(CutError, match="the mask given to Identity has 7 entries a sample, but it puts out 3 tokens"):
        pool(nn.Identity(), OUTPUT, "mean", torch.ones(2, 7))


def test_waveforms_are_averaged_over_the_frames_that_hold_sound() -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 200:] = 0
    with torch.no_grad():
        output = model(torch.randn(2, 400), attention_mask=mask)
    # kernel 10 stride 5: 400 -> 79, 200 -> 39; kernel 8 stride 4: 79 -> 18, 39 -> 8
    assert output.last_hidden_state.shape[1] == 18
    expected = torch.stack([output.last_hidden_state[0].mean(0), output.last_hidden_state[1, :8].mean(0)])
    assert torch.allclose(pool(model, output, "mean", mask), expected, atol=1e-6)
