"""First settings for a manifest, and the encoders that have to be made for it: what `m2fedsa init` and `m2fedsa encoder` do."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tomli_w

from m2fedsa.config import Columns, Config, Data
from m2fedsa.data.columns.tables import SeriesColumn
from m2fedsa.data.manifest.dividing import training_rows
from m2fedsa.data.manifest.guessing import Guessed, guess_columns
from m2fedsa.data.manifest.labels import SPLIT_NAMES
from m2fedsa.data.manifest.modalities import series_of
from m2fedsa.data.manifest.opening import read_rows
from m2fedsa.data.manifest.rows import Rows
from m2fedsa.data.processors.series import SeriesProcessor
from m2fedsa.durable import write_atomically
from m2fedsa.errors import ConfigError, DataError
from m2fedsa.pretraining import Made, Recipe, is_taken, require_free
from m2fedsa.reporting.program import program
from m2fedsa.reporting.units import plural

ENCODERS = {
    "image": "google/mobilenet_v2_1.0_224",
    "audio": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "video": "MCG-NJU/videomae-base",
    "text": "sentence-transformers/all-MiniLM-L6-v2",
}
"""kind -> an encoder of the hub to begin with"""
RECORD = "record"
"""The modality of all columns of numbers and categories."""
_WIDTH = 32
_OF_EACH = 20
_USUAL = Columns()


def write_settings(manifest: str, out: Path, encoders: Mapping[str, str], label: str | None = None) -> Iterator[str]:
    """Write settings for a manifest to `out`, and encoders of records and series beside it; what was done, line by line.

    encoders: modality or kind -> its encoder, where it shall not be the usual one. Errors: ConfigError for a file or an encoder that is
    there already, or an encoder for nothing; DataError for a manifest that cannot be read or has no column for a modality. Nothing is
    made before all of this is known.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already. Choose another --out, or remove it.")
    rows = read_rows(manifest)
    guessed = guess_columns(rows, label)
    kinds = {
        **{name: kind for name, kind in guessed.kinds.items() if kind != "tabular"},
        **({RECORD: "tabular"} if guessed.tabular else {}),
    }
    strange = [name for name in encoders if name not in kinds and name not in kinds.values()]
    if strange:
        raise ConfigError(
            f"--encoder {strange[0]}=...: the manifest has no such modality or kind, but {', '.join(map(_told, kinds.items()))}."
        )
    modalities: dict[str, dict[str, object]] = {}
    to_make: dict[str, Path] = {}
    for name, kind in kinds.items():
        chosen = encoders.get(name, encoders.get(kind, ENCODERS.get(kind)))
        if chosen is None:
            to_make[name] = out.parent / f"{out.stem}_encoders" / name
            _require_free(name, to_make[name], out)
        modalities[name] = {"kind": kind, "encoder": chosen or str(to_make[name]), "adapter_width": _WIDTH}
        if kind != "tabular" and guessed.columns[name] != name:
            modalities[name]["column"] = guessed.columns[name]
    tables = {"name": out.stem, "data": _data(manifest, rows, guessed), "modalities": modalities}
    # Gentle rates, and the best round: a few hundred samples are soon learnt by heart.
    tables |= {"optimizer": {"learning_rate": 0.001, "fusion_factor": 1.0, "schedule": "cosine"}, "federation": {"rounds": 20}}
    tables |= {"evaluation": {"keep_best": True}} if _is_validated(rows, guessed) else {}
    config = Config.from_mapping(tables, str(out))
    yield from guessed.told
    if to_make:
        used, note = training_rows(rows, config.data, config.seed)
        if note is not None:
            yield _drawn(note, config.seed)
        for name, folder in to_make.items():
            columns = guessed.tabular if kinds[name] == "tabular" else [guessed.columns[name]]
            yield _make(kinds[name], rows, used, columns, guessed.categorical, 0, Recipe(seed=config.seed), folder)
    write_atomically(out.absolute(), (_HEAD.format(out=out) + tomli_w.dumps(tables)).encode())
    yield f"{out}: settings to edit. Look at the samples: {program()} data check {out} --sample sample.png; run: {program()} run {out}"


def _require_free(name: str, folder: Path, out: Path) -> None:
    if is_taken(folder):
        raise ConfigError(
            f"{folder}: an encoder is there already, though {out} is not. Take it with --encoder {name}={folder} if it was made for "
            f"these columns; else remove {folder.parent}, or choose an --out of another name."
        )


_HEAD = """\
# First settings, from what the columns look like. All keys, each explained: m2fedsa config {out}
# Look at the samples:  m2fedsa data check {out} --sample sample.png
# Run:                  m2fedsa run {out}

"""


def _is_validated(rows: Rows, guessed: Guessed) -> bool:
    """Whether a run has samples to compare its rounds by: told by a column, or drawn."""
    column = guessed.roles.get("split")
    return column is None or any(SPLIT_NAMES.get(str(cell).strip().lower()) == "validation" for cell in rows.column(column))


def _told(one: tuple[str, str]) -> str:
    return f"{one[0]} ({one[1]})"


def _data(manifest: str, rows: Rows, guessed: Guessed) -> dict[str, object]:
    data: dict[str, object] = {"manifest": manifest}
    if guessed.roles.get("client") is None:
        train = (
            sum(SPLIT_NAMES.get(str(cell).strip().lower()) == "train" for cell in rows.column(guessed.roles["split"]))
            if ("split" in guessed.roles)
            else round(0.7 * len(rows))
        )
        clients = max(2, min(10, math.floor(train / _OF_EACH)))
        data |= {"clients": clients, "minimum": min(8, max(1, train // clients)), "multimodal_fraction": 1.0}
    if guessed.task != "single_label":
        data["task"] = guessed.task
    named = {role: column for role, column in guessed.roles.items() if role != column}
    return data | ({"columns": named} if named else {})


def make_encoder(
    kind: str,
    manifest: str,
    columns: Sequence[str],
    categorical: Sequence[str],
    length: int,
    recipe: Recipe,
    out: Path,
    told: Columns = _USUAL,
) -> Iterator[str]:
    """Make an encoder from the training rows of a manifest; what was done, line by line.

    told: the columns of splits and clients, where they have other names. Without splits the rows are those that a run with the recipe's
    seed and the usual `data.held_out` draws for training.
    """
    require_free(out)
    rows = read_rows(manifest)
    for role, name in (("--split", told.split), ("--client", told.client)):
        if name is not None:
            rows.require(name, role)
    for name in (*columns, *categorical):
        rows.require(name, "--columns")
    used, note = training_rows(rows, Data(manifest=manifest, columns=told), recipe.seed)
    if note is not None:
        yield _drawn(note, recipe.seed)
    yield _make(kind, rows, used, columns, categorical, length, recipe, out)


def _drawn(note: str, seed: int) -> str:
    return f"{note}; encoders see the training rows of seed = {seed}. Another seed draws others: a column split keeps them apart for good"


def _make(
    kind: str, rows: Rows, used: Sequence[int], columns: Sequence[str], categorical: Sequence[str], length: int, recipe: Recipe, out: Path
) -> str:
    """Make an encoder from the rows `used`; what was made, in a line."""
    if kind == "tabular":
        from m2fedsa.pretraining.tabular import make_tabular

        return _made(kind, make_tabular(rows, used, columns, categorical, recipe, out))
    from m2fedsa.pretraining.series import make_series

    name = columns[0]
    have = [row for row in used if rows.cell(name, row) is not None]
    if not have:
        raise DataError(f"{rows.source}: the column {name!r} has nothing in it for training. Leave it out.")
    column = SeriesColumn(name, have, lambda row: series_of(rows, name, row), SeriesProcessor(1, 1))
    return _made(kind, make_series(column, have, length, recipe, out))


def _made(kind: str, made: Made) -> str:
    error = "its weights are random"
    if made.last is not None:
        error = f"guessing what is hidden: error {made.first:.3g} before, {made.last:.3g} after"
        if made.last == made.first:
            error = f"guessing what is hidden: error {made.first:.3g} before and no better after, so its weights stay as they were drawn"
    what = "records" if kind == "tabular" else "series"
    return f"{made.folder}: an encoder of {what} from {plural(made.rows, 'row')}, {made.parameters:,} parameters; {error}"
