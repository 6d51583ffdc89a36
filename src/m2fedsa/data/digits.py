"""Two tasks on the embedded digits: name the digit (`digits`, `few_labels`), and say whether written and spoken digit agree (`match`).

A sample is a written digit, a spoken one and a number word, noisy enough that no modality suffices. 1,192 rows belong to the training
clients; the 300 of validation and the 600 of test lie with six clients that only evaluate, one for each speaker. The public rows, on
which the embedded encoders were pretrained, are in none of them.

Shapes: N rows, P samples of a task, M modalities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from m2fedsa.data.digits_inputs import attention_mask, character_ids, log_mel, masked_characters, noisy_audio, noisy_images, pixel_values
from m2fedsa.data.digits_pack import DigitRows, read_digits
from m2fedsa.data.pairs import draw_pairs, even_classes
from m2fedsa.data.partition import assign_modalities, dirichlet, draw_presence, iid
from m2fedsa.data.samples import SPLITS, UNLABELLED, ClientData, FederatedData, InMemorySamples, Split
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

Partition = Literal["dirichlet", "iid"]
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

    def samples(self, chosen: Tensor, modalities: tuple[str, ...], presence: Tensor | None = None) -> InMemorySamples:
        """The chosen samples (int64) as far as these modalities go."""
        indices = self.indices[chosen]
        if indices.ndim == 2:
            indices = indices[:, [list(self.columns).index(modality) for modality in modalities]]
        if presence is None:
            presence = torch.ones(len(chosen), len(modalities), dtype=torch.bool)
        return InMemorySamples(self.columns, indices, self.labels[chosen], presence, modalities)

    def where(self, split: Split, speaker: str | None = None) -> Tensor:
        """(int64) the samples of a split, of one speaker if given."""
        found = [number for number, name in enumerate(self.splits) if name == split and speaker in (None, self.speakers[number])]
        return torch.tensor(found, dtype=torch.int64)


def digits(
    *,
    seed: int,
    clients: int = 20,
    partition: Partition = "dirichlet",
    alpha: float = 0.3,
    minimum: int = 8,
    multimodal_fraction: float = 0.5,
    missing_rate: float = 0.0,
    labelled_fraction: float = 1.0,
    image_noise: float = 1.0,
    audio_snr_db: float = -5.0,
    text_mask: float = 0.5,
) -> FederatedData:
    """Which digit is it? Ten classes, three modalities: `image`, `audio`, `text`.

    seed: of noise, partition and which labels are kept. clients: that train, named `client-00` and so on.
    partition, alpha, minimum: see `m2fedsa.data.partition`. multimodal_fraction: of the clients hold all three modalities, the others
    one or two. missing_rate: probability that a sample of a client with several modalities lacks one of them.
    labelled_fraction: of the training samples have a label, the same share of each class.
    image_noise: standard deviation on pixels in [0, 1]. audio_snr_db: of white noise. text_mask: probability that a character is lost.

    Errors: ConfigError when a setting is out of range or the samples do not suffice.
    """
    rows = read_digits("federation")
    splits = [row.split for row in rows.rows]
    train = torch.tensor([split == "train" for split in splits]).nonzero()[:, 0]
    labels = rows.digits
    labels[train] = keep_labels(labels[train], labelled_fraction, seed)
    parts = _partition(rows.digits[train], clients, partition, alpha, minimum, seed)
    held = assign_modalities(clients, ("image", "audio", "text"), multimodal_fraction, seed)
    columns = {
        "image": _image_column(rows, image_noise, seed),
        "audio": _audio_column(rows, audio_snr_db, seed),
        "text": _text_column(rows, text_mask, seed),
    }
    task = _Task(columns, torch.arange(len(labels)), labels, splits, [row.speaker for row in rows.rows])
    return _spread(task, DIGITS, [train[part] for part in parts], held, missing_rate, seed)


few_labels = partial(digits, labelled_fraction=0.1)
"""`digits` where one training sample in ten has a label."""


def match(
    *,
    seed: int,
    clients: int = 20,
    pairings: int = 2,
    partition: Partition = "dirichlet",
    alpha: float = 0.3,
    minimum: int = 8,
    multimodal_fraction: float = 1.0,
    missing_rate: float = 0.0,
    labelled_fraction: float = 1.0,
    image_noise: float = 0.5,
    audio_snr_db: float = 5.0,
) -> FederatedData:
    """Do the written and the spoken digit agree? Two classes, two modalities: `image`, `audio`.

    Each image and each recording of a split is in `pairings` samples of that split, half of which agree: neither says anything about
    the label, only both together do. Rows of a digit beyond those of the rarest are left out.
    A client with one modality cannot learn the task, so by default all have both.
    Training clients hold images (`partition` goes by the digit of the image) with all pairs they are in; a recording may so be heard at
    several clients, an image is at one. Evaluation clients are the speakers of the recordings.

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
    labels[:trained] = keep_labels(labels[:trained], labelled_fraction, seed)
    images = torch.unique(pairs[0][:, 0])
    parts = _partition(rows.digits[images], clients, partition, alpha, minimum, seed)
    held = assign_modalities(clients, ("image", "audio"), multimodal_fraction, seed)
    columns = {"image": _image_column(rows, image_noise, seed), "audio": _audio_column(rows, audio_snr_db, seed)}
    task = _Task(columns, pairs_P2, labels, splits, [rows.rows[row].speaker for row in pairs_P2[:, 1].tolist()])
    return _spread(task, AGREEMENT, [torch.isin(pairs[0][:, 0], images[part]).nonzero()[:, 0] for part in parts], held, missing_rate, seed)


def _image_column(rows: DigitRows, sigma: float, seed: int) -> dict[str, Tensor]:
    return {"pixel_values": pixel_values(noisy_images(rows.images_NHW, rows.numbers, sigma, seed))}


def _audio_column(rows: DigitRows, snr_db: float, seed: int) -> dict[str, Tensor]:
    return {"input_values": log_mel(noisy_audio(rows.audio_NS, rows.numbers, snr_db, seed))}


def _text_column(rows: DigitRows, probability: float, seed: int) -> dict[str, Tensor]:
    ids = masked_characters(character_ids(rows.words), rows.numbers, probability, seed)
    return {"input_ids": ids, "attention_mask": attention_mask(ids)}


def _partition(labels: Tensor, clients: int, partition: Partition, alpha: float, minimum: int, seed: int) -> tuple[Tensor, ...]:
    if partition == "dirichlet":
        return dirichlet(labels, clients, alpha, seed, minimum)
    if partition == "iid":
        return iid(len(labels), clients, seed, minimum)
    raise ConfigError(f'partition is "{partition}"; it must be "dirichlet" or "iid"')


def keep_labels(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A copy of `labels` (N,) that keeps round(fraction N) of them, the same share of each class up to one, and is UNLABELLED elsewhere.

    Errors: ConfigError unless 0 < fraction <= 1, or when not one label would be kept.
    """
    total = round(fraction * len(labels)) if 0 < fraction <= 1 else 0
    if total == 0:
        raise ConfigError(f"labelled_fraction is {fraction}; it must be at most 1 and enough for one label among {len(labels)} samples")
    order = torch.randperm(len(labels), generator=derive(seed, "labels"))
    classes, sizes = torch.unique(labels, return_counts=True)
    shares = fraction * sizes.double()
    counts = shares.floor().long()
    counts[(counts - shares).argsort(stable=True)[: total - int(counts.sum())]] += 1
    result = torch.full_like(labels, UNLABELLED)
    for value, count in zip(classes, counts, strict=True):
        result[order[labels[order] == value][:count]] = value
    return result


def _spread(
    task: _Task, classes: tuple[str, ...], parts: Sequence[Tensor], held: Sequence[tuple[str, ...]], missing_rate: float, seed: int
) -> FederatedData:
    """Training clients with these parts of the task and these modalities; evaluation clients by speaker, with all of them."""
    modalities, clients = tuple(task.columns), {}
    width = max(2, len(str(len(parts) - 1)))
    for number, (part, own) in enumerate(zip(parts, held, strict=True)):
        name = f"client-{number:0{width}d}"
        presence = draw_presence(len(part), len(own), missing_rate, derive(seed, "partition", "missing", name))
        clients[name] = ClientData(own, train=task.samples(part, own, presence))
    for speaker in sorted(set(task.speakers)):
        validation, test = (task.samples(task.where(split, speaker), modalities) for split in ("validation", "test"))
        clients[f"speaker-{speaker}"] = ClientData(modalities, validation=validation, test=test)
    return FederatedData(classes, modalities, clients)
