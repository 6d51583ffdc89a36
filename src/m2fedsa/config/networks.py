"""[modalities] and [fusion]: the networks and where they are cut."""

import re
from typing import Annotated, Literal

from pydantic import Field

from m2fedsa.config.section import FROM_TOML, Count, Probability, Section

MODALITY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED_NAMES = ("fusion", "fused")
"""First parts of tensor names that belong to no modality."""


class Modality(Section):
    """One modality: its encoder and where it is cut."""

    encoder: str
    """`embedded:NAME`, `random:NAME`, a folder (one that `m2fedsa cut` wrote too), a hub name, or `object` for a model that is passed
    to `run`."""
    kind: Annotated[Literal["image", "audio", "video", "text", "tabular", "series"] | None, Field(examples=["image"])] = None
    """What a manifest has of it. `image`, `audio`, `video`: a path, or a file's content. `text`. `tabular`: the columns that its encoder
    was made for. `series`: a path to an array, or a list."""
    column: Annotated[str | None, Field(examples=["photo"])] = None
    """The manifest's column; unset: the one that is called like the modality."""
    options: dict[str, float | int | str] = Field(default_factory=dict)
    """How a manifest's cells are read, 0 for what the encoder's processor says. `image`: size, pixels a side. `audio`: seconds that are
    heard. `video`: frames, spread evenly, and size. `text`: tokens that are read. `audio` and `video`: begin and end, columns with seconds,
    where a file holds more than the sample."""
    processor: Annotated[str | None, Field(examples=["path/to/processor"])] = None
    """Folder or hub name of its tokenizer, image processor or feature extractor; unset: where the encoder lies."""
    revision: Annotated[str | None, Field(examples=["main"])] = None
    """Branch, tag or commit of an encoder from the hub; unset: its main branch."""
    head_dtype: Literal["float32", "bfloat16", "int8", "int4"] = "float32"
    """How clients store the weights of the head, in training and after. A folder that was cut has its own."""
    block: Annotated[int, Field(ge=0)] = 1
    """The head keeps the embeddings and this many blocks."""
    blocks: Annotated[Annotated[tuple[str, ...], FROM_TOML] | None, Field(examples=[["encoder.layer.*"]])] = None
    """Names of the encoder's blocks in the order in which they run, `encoder.layer.*` for all of a list; unset: found by themselves."""
    keep: Annotated[tuple[str, ...], FROM_TOML] = ()
    """Names of modules that finish before the cut but feed every block, where they are not known: the main server holds them too."""
    readable_text: bool = False
    """Allow `block = 0` for text: it leaves the client as embeddings of its words, from which it can simply be read."""
    pooling: Literal["default", "pooler", "mean", "cls", "last"] = "default"
    """How one feature comes from the last hidden state; `default`: as this family of encoders does it."""
    adapter_width: Count = 64
    """R, the bottleneck of both adapters."""
    adapter_dropout: Probability = 0.1
    """Dropout within both adapters."""
    modality_adapter: bool = True
    """Whether there is an adapter at the end of the head, on the client."""
    task_adapter: bool = True
    """Whether there is an adapter beside the tail's last feed-forward part, on the main server."""
    augment: Annotated[tuple[Literal["flip", "shift", "erase", "frames", "bands", "noise", "drop"], ...], FROM_TOML] = ()
    """How training samples are disturbed, on the client. Pictures: `flip` (left and right, half of them), `shift` (by an eighth at most),
    `erase` (a rectangle). Spectrograms: `frames`, `bands` (a quarter at most is silent). `noise` (a tenth of a sample's deviation). Texts:
    `drop` (a tenth of the tokens)."""
    augment_views: Annotated[int, Field(ge=0)] = 4
    """The price of it. N: each sample has N views, itself and N - 1 disturbed ones, drawn once; the outputs of the head are kept for all,
    so a client computes and stores N times as much of them. 0: each step disturbs anew; nothing is kept, the head runs in each step."""
    frozen: bool = True
    """Whether the encoder's own weights stay as they are; if not they are trained and averaged too, the head's with the clients."""

    @property
    def views(self) -> int:
        """How many views a sample has: 1 where samples stay as they are, 0 where each step disturbs anew."""
        return self.augment_views if self.augment else 1


class Fusion(Section):
    """The network on the main server that joins the modalities of a sample."""

    width: Count = 256
    """F, the width of its tokens and of the fused feature."""
    blocks: Annotated[int, Field(ge=0)] = 1
    """Blocks of attention over the modalities of a sample."""
    heads: Count = 4
    """Heads of that attention; they divide the width."""
    feed_forward: Annotated[int, Field(ge=0)] = 512
    """Width of the blocks' feed-forward part; 0 leaves attention alone."""
    bilinear: bool = True
    """Add products of pairs of modalities, so that fusion can learn relations."""
    late: bool = True
    """Add the sum of the unimodal logits; without it the paper's form, C_f(f) alone."""
    gradient_to_encoders: bool = True
    """Let the fused loss reach tails and adapters in the fusion phase."""
    learned: bool = True
    """Train on the fused loss. If not, modalities train apart, and the fused opinion is the sum of theirs."""
    modality_dropout: Probability = 0.0
    """Probability that a modality of a sample does not enter fusion, in the fusion phase."""
