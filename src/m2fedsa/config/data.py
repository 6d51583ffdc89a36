"""[data]: which samples there are and who holds them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from m2fedsa.complaints import shown
from m2fedsa.config.section import FROM_TOML, Count, Fraction, Positive, Probability, Section

MANIFEST = "manifest"
"""The source of samples that a manifest lists."""


class Columns(Section):
    """Columns of a manifest that are no modality. Unset: those that are called `label`, `client`, `split` and `id`, if there are such."""

    label: Annotated[str | tuple[str, ...] | None, FROM_TOML, Field(examples=["label"])] = None
    """What is to be told of a sample; an empty cell is a sample without a label. Of several classes: one column with names between `;`, or
    a list of columns with 0 and 1. Of several numbers: a list of columns."""
    client: Annotated[str | None, Field(examples=["client"])] = None
    """Whose the sample is. Without such a column clients are made as `partition` says."""
    split: Annotated[str | None, Field(examples=["split"])] = None
    """`train`, `validation` or `test`. Without such a column they are drawn, in the shares of `held_out`."""
    id: Annotated[str | None, Field(examples=["id"])] = None
    """How the sample is called in messages; no two may be called the same."""


class Data(Section):
    """Which samples there are and who holds them."""

    manifest: Annotated[str | None, Field(examples=["train.csv"])] = None
    """Samples of your own: a CSV, TSV, JSONL or Parquet file, or a Hugging Face data set by folder or name; a row is a sample, and
    modalities.*.kind says how its columns are read. Relative to the working directory."""
    source: str = "digits"
    """Without a manifest, a data set by name (`digits`, `match`, `synthetic`, `products`, `spoken_digits`, `hateful_memes`, `meld`,
    `epic_kitchens`, `meld_text`, `random_shapes`), or `object` for one that is passed to `run`."""
    clients: Count = 25
    """Clients that train; those that only evaluate come with the data."""
    task: Literal["single_label", "multi_label", "regression"] = "single_label"
    """What a label is. `single_label`: one class of several. `multi_label`: any number of classes. `regression`: numbers."""
    partition: Literal["dirichlet", "iid", "shards", "linear", "square", "exponential", "column"] = "dirichlet"
    """`dirichlet`: clients differ in their classes. `iid`: samples are dealt out at random. `shards`: sorted by class and cut into pieces,
    of which each client has a few. `linear`, `square`, `exponential`: clients differ in their size, which grows so with their number.
    `column`: all samples of one value of `data.column` are at one client. Samples of several classes count as of the rarest of them,
    numbers by their tenth of all."""
    alpha: Positive = 0.3
    """Concentration of the Dirichlet distribution over classes; small means few classes per client."""
    shards: Count = 2
    """Pieces that a client has under `partition = "shards"`."""
    column: Annotated[str | None, Field(examples=["speaker"])] = None
    """What `partition = "column"` goes by. With more values than clients, a client has several of them."""
    minimum: Count = 8
    """Least number of training samples of a client; does not hold where a column decides."""
    evaluation: Literal["global", "clients"] = "global"
    """Who validates and tests. `global`: clients that do nothing else, on samples that the data set has set apart. `clients`: each on its
    own, see `held_out`; what the data set has set apart is then left alone."""
    held_out: Annotated[tuple[Probability, Probability], FROM_TOML] = (0.1, 0.2)
    """The shares of the samples that are for validation and for test: of a client's own under `evaluation = "clients"`, and of a manifest
    that does not tell."""
    multimodal_fraction: Fraction = 0.5
    """Fraction of the clients that hold all modalities; the others hold one or two."""
    holdings: dict[str, Fraction] = Field(default_factory=dict)
    """Instead of `multimodal_fraction`, the fraction of the clients that hold each subset of the modalities, e.g. "image+text" = 0.5 and
    image = 0.5; together 1. `all` stands for all modalities."""
    missing_rate: Probability = 0.0
    """Probability that a sample of a multimodal client lacks a modality; each keeps at least one."""
    missing_rates: dict[str, Probability] = Field(default_factory=dict)
    """The same of single modalities, where it differs from `missing_rate`, e.g. audio = 0.9."""
    labelled_fraction: Fraction = 1.0
    """Fraction of the training samples that carry their label."""
    arrangement: Literal["federated", "pooled", "apart"] = "federated"
    """`pooled`: one client holds all training samples, centralised training. `apart`: the samples that evaluate are dealt out to the
    training clients, each of which judges what it holds itself."""
    absent: Literal["left_out", "zeros"] = "left_out"
    """What becomes of a modality that a training sample lacks; `zeros`: its inputs are zero, and every client holds every modality."""
    columns: Columns = Columns()
    folder: Annotated[str | None, Field(examples=["photos"])] = None
    """Where the paths in a manifest begin; unset: where the manifest lies."""
    classes: Annotated[tuple[str, ...], FROM_TOML] = ()
    """The classes of a manifest, in their order; empty: those of its training rows, sorted."""
    on_error: Literal["stop", "skip"] = "stop"
    """What becomes of rows of a manifest that cannot be used. `stop`: nothing is trained, the first twenty are told. `skip`: they are left
    out and counted."""
    look: Literal["auto", "all", "heads"] = "auto"
    """How files are looked at before the first round. `all`: each is decoded. `heads`: each is there, and the heads of 2,000
    can be read. `auto`: all where that takes seconds, up to 20,000 pictures and recordings or 2,000 videos, or where they were looked at
    before."""
    options: dict[str, Annotated[float, Field(allow_inf_nan=True)] | int | bool | str] = Field(default_factory=dict)
    """What only this source knows; a wrong key is answered with those that there are. `digits` and `match`: image_noise is a standard
    deviation on pixels in 0 … 1, audio_snr_db the signal-to-noise ratio of white noise (inf: none). `digits` alone: text_mask is the
    probability that a character is lost. `match` alone: pairings is in how many samples each image and each recording takes part, half
    of which agree (even). `products` and `spoken_digits`: folder is where the files lie, image_size the pixels a side (0: what the
    encoder's processor says), text_tokens the most that is read of a text (0: all that its tokenizer takes). `products` alone: text is the
    column `title` or `description`, division another way to divide the samples (0: the file's own). `spoken_digits` alone: audio_seconds
    is how much of a recording a feature extractor hears (0: what it says itself). `hateful_memes`, `meld`, `epic_kitchens`: incomplete does
    without files that are missing; frames is how many are seen of a video (0: what the encoder takes); validation and test name the files
    of `hateful_memes`; annotations is where the tables of `epic_kitchens` lie, frames_from is `videos` or `rgb_frames`, validation is the
    share of its training videos that validate. `random_shapes`: of text_tokens text_read are real."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_manifest(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("manifest") is not None:
            return {"source": MANIFEST, **values}
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.manifest is not None) != (self.source == MANIFEST):
            raise ValueError(
                f"data.source = {self.source!r} and data.manifest = {shown(self.manifest)}: name a manifest and leave the source out, "
                "or the other way round"
            )
        if self.manifest is not None and self.options:
            raise ValueError(f"data.options.{next(iter(self.options))}: a manifest has no options; see modalities.*.options")
        return self
