"""Two tasks on the embedded digits: name the digit (`digits`, `few_labels`), and say whether written and spoken digit agree (`match`).

A sample is a written digit, a spoken one and a number word, noisy enough that no modality suffices. 1,192 rows belong to the training
clients; the 300 of validation and the 600 of test lie with six clients that only evaluate, one for each speaker. The public rows, on
which the embedded encoders were pretrained, are in none of them.

Shapes: N rows, P samples of a task, M modalities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from m2fedsa.config import Data
from m2fedsa.data.digits_inputs import attention_mask, character_ids, log_mel, masked_characters, noisy_audio, noisy_images, pixel_values
from m2fedsa.data.digits_pack import DigitRows, read_digits
from m2fedsa.data.pairs import draw_pairs, even_classes
from m2fedsa.data.partition import partitioned
from m2fedsa.data.samples import SPLITS, FederatedData, InMemorySamples, Split
from m2fedsa.data.spread import evaluator, group_of, keep_labels, training_clients, with_notes
from m2fedsa.seeding import derive

TWENTY = Data(clients=20)
ALL_HOLD_BOTH = TWENTY.model_copy(update={"multimodal_fraction": 1.0})
DIGITS = tuple("0123456789")
AGREEMENT = ("differ", "agree")


@dataclass(frozen=True)
class _Task:
    """All samples of a task, before anybody holds them."""

    columns: Mapping[str, Mapping[str, Tensor]]
    indices: Tensor
    """(P,) or, where modalities come from different rows, (P, M): rows of `columns`"""
    labels: Tensor
    splits: Sequence[Split]
    speakers: Sequence[str]

    @property
    def modalities(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(self.columns)

    def samples(self, rows: Tensor, modalities: tuple[str, ...], presence: Tensor) -> InMemorySamples:
        """See `spread.Rows.samples`."""
        indices = self.indices[rows]
        if indices.ndim == 2:
            indices = indices[:, [list(self.columns).index(modality) for modality in modalities]]
        return InMemorySamples(self.columns, indices, self.labels[rows], presence, modalities)

    def where(self, split: Split, speaker: str) -> Tensor:
        """(int64) the samples of a split, of one speaker."""
        found = [number for number, name in enumerate(self.splits) if name == split and speaker == self.speakers[number]]
        return torch.tensor(found, dtype=torch.int64)


def digits(
    *, seed: int, settings: Data = TWENTY, image_noise: float = 1.0, audio_snr_db: float = -5.0, text_mask: float = 0.5
) -> FederatedData:
    """Which digit is it? Ten classes, three modalities: `image`, `audio`, `text`.

    seed: of noise, partition and which labels are kept. settings: who holds what; a column that clients can be made by is `speaker`.
    image_noise: standard deviation on pixels in [0, 1]. audio_snr_db: of white noise. text_mask: probability that a character is lost.

    Errors: ConfigError when a setting is out of range or the samples do not suffice.
    """
    rows = read_digits("federation")
    splits = [row.split for row in rows.rows]
    train = torch.tensor([split == "train" for split in splits]).nonzero()[:, 0]
    labels = rows.digits
    labels[train] = keep_labels(labels[train], settings.labelled_fraction, seed)
    speakers = [row.speaker for row in rows.rows]
    groups = group_of({"speaker": [speakers[row] for row in train.tolist()]}, settings)
    parts = partitioned(settings, rows.digits[train], seed, groups)
    columns = {
        "image": _image_column(rows, image_noise, seed),
        "audio": _audio_column(rows, audio_snr_db, seed),
        "text": _text_column(rows, text_mask, seed),
    }
    task = _Task(columns, torch.arange(len(labels)), labels, splits, speakers)
    return _spread(task, DIGITS, [train[part] for part in parts], settings, seed)


few_labels = partial(digits, settings=TWENTY.model_copy(update={"labelled_fraction": 0.1}))
"""`digits` where one training sample in ten has a label."""


def match(
    *, seed: int, settings: Data = ALL_HOLD_BOTH, pairings: int = 2, image_noise: float = 0.5, audio_snr_db: float = 5.0
) -> FederatedData:
    """Do the written and the spoken digit agree? Two classes, two modalities: `image`, `audio`.

    Each image and each recording of a split is in `pairings` samples of that split, half of which agree: neither says anything about
    the label, only both together do. Rows of a digit beyond those of the rarest are left out.
    A client with one modality cannot learn the task, so by default all have both.
    Training clients hold images (`settings.partition` goes by the digit of the image, `speaker` by who has written it) with all pairs they
    are in; a recording may so be heard at several clients, an image is at one. Evaluation clients are the speakers of the recordings.

    The other arguments are those of `digits`. Errors: ConfigError when a setting is out of range or the samples do not suffice.
    """
    rows = read_digits("federation")
    row_splits = [row.split for row in rows.rows]
    pairs: list[Tensor] = []
    splits: list[Split] = []
    for split in SPLITS:
        inside = torch.tensor([name == split for name in row_splits]).nonzero()[:, 0]
        inside = inside[even_classes(rows.digits[inside], derive(seed, "match", "rows", split))]
        pairs.append(inside[draw_pairs(rows.digits[inside], pairings, derive(seed, "match", "pairs", split))])
        splits += [split] * len(pairs[-1])
    pairs_P2 = torch.cat(pairs)
    labels = (rows.digits[pairs_P2[:, 0]] == rows.digits[pairs_P2[:, 1]]).long()
    trained = len(pairs[0])
    labels[:trained] = keep_labels(labels[:trained], settings.labelled_fraction, seed)
    images = torch.unique(pairs[0][:, 0])
    groups = group_of({"speaker": [rows.rows[row].speaker for row in images.tolist()]}, settings)
    parts = partitioned(settings, rows.digits[images], seed, groups)
    columns = {"image": _image_column(rows, image_noise, seed), "audio": _audio_column(rows, audio_snr_db, seed)}
    task = _Task(columns, pairs_P2, labels, splits, [rows.rows[row].speaker for row in pairs_P2[:, 1].tolist()])
    return _spread(task, AGREEMENT, [torch.isin(pairs[0][:, 0], images[part]).nonzero()[:, 0] for part in parts], settings, seed)


def _image_column(rows: DigitRows, sigma: float, seed: int) -> dict[str, Tensor]:
    return {"pixel_values": pixel_values(noisy_images(rows.images_NHW, rows.numbers, sigma, seed))}


def _audio_column(rows: DigitRows, snr_db: float, seed: int) -> dict[str, Tensor]:
    return {"input_values": log_mel(noisy_audio(rows.audio_NS, rows.numbers, snr_db, seed))}


def _text_column(rows: DigitRows, probability: float, seed: int) -> dict[str, Tensor]:
    ids = masked_characters(character_ids(rows.words), rows.numbers, probability, seed)
    return {"input_ids": ids, "attention_mask": attention_mask(ids)}


def _spread(task: _Task, classes: tuple[str, ...], parts: Sequence[Tensor], settings: Data, seed: int) -> FederatedData:
    """Training clients with these parts of the task; evaluation clients by speaker."""
    clients = training_clients(task, parts, settings, seed)
    if settings.evaluation == "global":
        for speaker in sorted(set(task.speakers)):
            clients[f"speaker-{speaker}"] = evaluator(task, {split: task.where(split, speaker) for split in ("validation", "test")})
    return with_notes(FederatedData(classes, task.modalities, clients))
