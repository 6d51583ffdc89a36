"""The commands about samples of one's own: `data check`, `init`, `encoder`."""

from pathlib import Path
from typing import Annotated

import click
import typer

from m2fedsa.cli_options import Debug, Settings, settings_of
from m2fedsa.errors import ConfigError

Manifest = Annotated[str, typer.Option(metavar="FILE", help="CSV, TSV, JSONL or Parquet, or a Hugging Face data set by folder or name.")]


def check(
    target: Annotated[str, typer.Argument(metavar="FILE.toml", help="Settings that name a manifest.")],
    settings: Settings = None,
    sample: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write a picture of a few samples, to look at.")] = None,
    debug: Debug = False,
) -> None:
    """Read every sample of a manifest once; report counts, lengths, duplicates across splits, and what cannot be used (exit status 2)."""
    from m2fedsa.assembly import check_of
    from m2fedsa.reporting.data_check import show

    config = settings_of(target, settings)
    checked = check_of(config)
    show(checked)
    if sample is not None:
        from m2fedsa.reporting.contact_sheet import write_sheet

        print(f"sample       {write_sheet(checked, config, sample)}")
    if checked.faults and config.data.on_error == "stop":
        raise typer.Exit(2)


def init(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(metavar="FILE.toml", help="Where to write the settings.")] = Path("mine.toml"),
    encoders: Annotated[
        list[str] | None, typer.Option("--encoder", metavar="NAME=ENCODER", help="The encoder of a modality or kind; may be repeated.")
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="What is to be predicted.")] = None,
    debug: Debug = False,
) -> None:
    """Write first settings from what the columns of a manifest look like. Encoders of records and series are made beside them."""
    from m2fedsa.starting import write_settings

    chosen = {}
    for one in encoders or ():
        name, found, encoder = one.partition("=")
        if not found:
            raise click.UsageError(f"--encoder {one}: write NAME=ENCODER, e.g. --encoder photo=google/mobilenet_v2_1.0_224.")
        chosen[name] = encoder
    for line in write_settings(manifest, out, chosen, label):
        print(line)


def encoder(
    kind: Annotated[str, typer.Argument(metavar="tabular|series", help="What it is for.", click_type=click.Choice(["tabular", "series"]))],
    manifest: Manifest,
    columns: Annotated[str, typer.Option(metavar="A,B,...", help="Of the manifest; of series one.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the encoder; must not be there yet.")],
    categorical: Annotated[str, typer.Option(metavar="A,B,...", help="Columns whose numbers are names.")] = "",
    length: Annotated[int, typer.Option(metavar="N", min=0, help="Readings of a series; as many as the longest has if not given.")] = 0,
    width: Annotated[int, typer.Option(metavar="D", min=4)] = 64,
    blocks: Annotated[int, typer.Option(metavar="K", min=2)] = 3,
    epochs: Annotated[int, typer.Option(metavar="N", min=0, help="Of pretraining without labels; 0 leaves random weights.")] = 20,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="As of the run: where no column tells them, it draws the same rows.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Tells the training rows; `split` if there is one, else a run's are drawn."),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Whose a row is; `client` if there is one. Each one's rows are drawn apart."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make a small encoder of records or series from the training rows of a manifest that may be shown to all parties."""
    from m2fedsa.config import Columns
    from m2fedsa.pretraining import Recipe
    from m2fedsa.starting import make_encoder

    if kind == "series" and "," in columns:
        raise ConfigError("--columns: an encoder of series is made from one column; give each its own encoder.")
    recipe = Recipe(width=width, blocks=blocks, epochs=epochs, seed=seed)
    told = Columns(split=split, client=client)
    for line in make_encoder(kind, manifest, _listed(columns), _listed(categorical), length, recipe, out, told):
        print(line)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
