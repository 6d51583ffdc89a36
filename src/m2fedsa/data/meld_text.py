"""The words of MELD alone: a folder with `data.csv`, columns `split` (train, val, test), `dialogue`, `utterance`, `speaker`, `text`,
`emotion`; others are not looked at.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from m2fedsa.config import Data
from m2fedsa.data.columns import look_at
from m2fedsa.data.columns.tables import TextColumn
from m2fedsa.data.csv_rows import read_rows, splits_of
from m2fedsa.data.meld import EMOTIONS, emotions_of, repaired
from m2fedsa.data.processors.text import text_processor
from m2fedsa.data.samples import FederatedData
from m2fedsa.data.spread import Table, spread

PATHS = {
    "data.options.folder": "a folder with data.csv, the utterances of MELD (docs/paper_tasks.md says how it is made)",
    "modalities.text.encoder": "a text encoder with its tokenizer: any copy of sentence-transformers/all-MiniLM-L6-v2, or that name itself",
}
"""Settings that only the user can give, and what to give."""


def meld_text(*, seed: int, processors: Mapping[str, str], folder: str, settings: Data, text_tokens: int = 0) -> FederatedData:
    """Which emotion does an utterance express? Seven classes, one modality: `text`.

    processors: modality -> where its encoder's processor lies. folder: with `data.csv`. settings: who holds what; `data.column` may be
    `speaker` or `dialogue`. text_tokens: read of an utterance at most; 0 for as many as the tokenizer takes. A client `evaluation` has the
    validation and test samples.

    Errors: ConfigError when a setting is out of range, DataError when the file is missing or a row cannot be used.
    """
    path = Path(folder).expanduser() / "data.csv"
    rows = read_rows(path, ("split", "dialogue", "utterance", "speaker", "text", "emotion"))
    splits, wrong_splits = splits_of(rows)
    labels, wrong_labels = emotions_of(rows, "emotion")
    text = TextColumn("text", range(len(rows)), lambda row: repaired(rows[row]["text"]), text_processor(processors, "text", text_tokens))
    told = [f"{row['split']} dia{row['dialogue']}_utt{row['utterance']}" for row in rows]
    notes = look_at([text], str(path), told, [*wrong_labels, *wrong_splits])
    groups = {"speaker": [row["speaker"] for row in rows], "dialogue": [f"{row['split']} {row['dialogue']}" for row in rows]}
    table = Table(EMOTIONS, {"text": text}, torch.tensor(labels), splits, ["evaluation"] * len(rows), notes, groups=groups)
    return spread(table, settings, seed)
