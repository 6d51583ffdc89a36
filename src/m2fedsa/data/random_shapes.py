"""Random inputs of the shapes that large encoders take: nothing can be learned from them, but everything can be measured.

N samples, L tokens.
"""

import torch
from torch import Tensor

from m2fedsa.data.holdings import assign_modalities, draw_presence
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

VOCABULARY, PADDING, FIRST = 50265, 1, 4
"""RoBERTa's: ids below `FIRST` are special."""
FRAMES, MELS = 128, 128
CLASSES = 4


def random_shapes(
    *,
    seed: int,
    clients: int = 3,
    samples_per_client: int = 4,
    evaluation_samples: int = 2,
    multimodal_fraction: float = 1.0,
    missing_rate: float = 0.0,
    image_size: int = 224,
    text_tokens: int = 64,
    text_read: int = 32,
) -> FederatedData:
    """Clients `client-00` and so on that train, and one, `evaluation`; four classes that mean nothing.

    `image`: `pixel_values` (N, 3, 224, 224). `audio`: `input_values` (N, 128, 128). `text`: `input_ids` and `attention_mask` (N, L), of
    whose `text_tokens` the first `text_read` are real. evaluation_samples: for validation, and as many for test.

    Errors: ConfigError when a setting is out of range.
    """
    for name, value, lowest in (
        ("samples_per_client", samples_per_client, 1),
        ("evaluation_samples", evaluation_samples, 1),
        ("image_size", image_size, 1),
        ("text_read", text_read, 1),
        ("text_tokens", text_tokens, text_read),
    ):
        if value < lowest:
            raise ConfigError(f"{name} is {value}; it must be at least {lowest}")
    train = clients * samples_per_client
    count = train + 2 * evaluation_samples
    columns = _columns(count, image_size, text_tokens, text_read, derive(seed, "random_shapes"))
    modalities = tuple(columns)
    labels = torch.arange(count) % CLASSES

    def samples(begin: int, number: int, own: tuple[str, ...], rate: float) -> InMemorySamples:
        presence = draw_presence(number, len(own), rate, derive(seed, "random_shapes", "missing", begin))
        return InMemorySamples(columns, torch.arange(begin, begin + number), labels[begin : begin + number], presence, own)

    everyone = {
        f"client-{number:02d}": ClientData(own, train=samples(number * samples_per_client, samples_per_client, own, missing_rate))
        for number, own in enumerate(assign_modalities(clients, modalities, multimodal_fraction, seed))
    }
    validation, test = (samples(begin, evaluation_samples, modalities, 0.0) for begin in (train, train + evaluation_samples))
    everyone["evaluation"] = ClientData(modalities, validation=validation, test=test)
    return FederatedData(tuple(f"class-{number}" for number in range(CLASSES)), modalities, everyone)


def _columns(count: int, image_size: int, text_tokens: int, text_read: int, generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
    """The encoders' arguments for all samples."""
    ids = torch.randint(FIRST, VOCABULARY, (count, text_tokens), generator=generator)
    ids[:, text_read:] = PADDING
    return {
        "image": {"pixel_values": torch.randn(count, 3, image_size, image_size, generator=generator)},
        "audio": {"input_values": torch.randn(count, FRAMES, MELS, generator=generator)},
        "text": {"input_ids": ids, "attention_mask": (ids != PADDING).long()},
    }
