"""Where in an encoder's last block a task adapter runs: beside its feed-forward part."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

Shape = tuple[tuple[int, ...] | None, tuple[int, ...] | None]
"""of what a module received and of what it put out; None where that is no tensor"""


class Site(NamedTuple):
    """The feed-forward part of a block: TA receives what `first` receives and is added to what `last` gives.

    Names are relative to the block, "" is the block. `axis` is the dimension of the channels.
    """

    first: str
    last: str
    axis: int = -1


SITES = (
    Site("intermediate", "output.dense"),  # BERT, SwinV2, VideoMAE, TimeSformer: `output` itself would add the residual
    Site("ffn2", "ffn2"),  # Conformers, whose first feed-forward part stands before attention
    Site("mlp", "mlp"),  # ViT, AST, Swin, CLIP, GPT-2, Llama
    Site("feed_forward", "feed_forward"),  # Wav2Vec2, HuBERT, WavLM
    Site("ffn", "ffn"),  # DistilBERT
    Site("fc1", "fc2"),  # Whisper, BART, OPT
    Site("pwconv1", "pwconv2"),  # ConvNeXt, which moves the channels last before it
    Site("pointwise_conv1", "pointwise_conv2"),  # DINOv3's ConvNeXt
    Site("expand_1x1", "reduce_1x1", 1),  # MobileNetV2
    Site("expansion", "projection.project_bn", 1),  # EfficientNet
    Site("output.conv1", "output.conv2", 1),  # PoolFormer
    Site("linear.fc1", "linear.fc2", 1),  # SwiftFormer
    Site("main_conv", "main_batch_norm", 1),  # TextNet: its widest branch
    Site("transformer.layer.2.intermediate", "transformer.layer.2.output.dense"),  # MobileViT, whose blocks hold transformers
    Site("transformer.layer.2.ffn", "transformer.layer.2.ffn", 1),  # MobileViTV2
    Site("layer.1.DenseReluDense", "layer.1.DenseReluDense"),  # T5's encoder
    Site("layer.1.mlp", "layer.1.mlp"),  # Switch Transformers' encoder
    Site("ff.layer_1", "ff.layer_2"),  # XLNet, whose feed-forward part adds its residual itself
    Site("ff.0", "ff.3"),  # PatchTST
    Site("block_sparse_moe", "block_sparse_moe"),  # GraniteMoE
    Site("mlp_block", "mlp_block"),  # RecurrentGemma
    Site("mixer", "mixer"),  # Mamba, which has no other part
    Site("module", "module"),  # LeViT: blocks of attention and of feed-forward take turns, the last is of the latter
    Site("layer", "layer", 1),  # ResNet, RegNet: the whole residual branch
    Site("conv1", "conv3", 1),  # BiT: the same
    # Where that branch halves the map, what stands after the step: its last convolution.
    Site("layer.3", "layer.3", 1),
    Site("layer.2", "layer.2", 1),
    Site("layer.1", "layer.1", 1),
    Site("conv3", "conv3", 1),
)
"""Feed-forward parts; the first wins of which a block has both names, and which keeps all of its dimensions but the channels."""


def sites(model: nn.Module, block: str, special: Site | None) -> Iterator[Site]:
    """What may be the feed-forward part of the module called `block`, with names from the model's root; best first.

    special: the one of the model's family, where `SITES` would not find it.
    """
    parts = {name for name, _ in model.get_submodule(block).named_modules()}
    for site in (special,) if special else SITES:
        if site.first in parts and site.last in parts:
            first, last = (f"{block}.{part}".rstrip(".") for part in (site.first, site.last))
            yield Site(first, last, site.axis)


def keeps_places(site: Site, shapes: Mapping[str, Shape]) -> bool:
    """Whether an adapter that acts on channels alone can run from `first` to `last`; shapes: by the names of modules."""
    received, given = shapes.get(site.first, (None, None))[0], shapes.get(site.last, (None, None))[1]
    if received is None or given is None or len(received) != len(given):
        return False
    axis = site.axis % len(received)
    return received[:axis] + received[axis + 1 :] == given[:axis] + given[axis + 1 :]
