"""A generated federated task: tiny inputs for tiny encoders, as many clients as wanted.

Each class has a pattern per modality; a sample is its class's pattern in noise. The samples lie in one pool that all clients share,
so that a client costs its indices and labels, about a kilobyte, and 10,000 clients are cheap.

Shapes: P rows of the pool, N samples of a client, L = 8 characters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from m2fedsa.data.digits_inputs import BEGIN, FIRST_CHARACTER
from m2fedsa.data.holdings import assign_modalities, draw_presence
from m2fedsa.data.samples import UNLABELLED, ClientData, FederatedData, InMemorySamples
from m2fedsa.errors import ConfigError
from m2fedsa.seeding import derive

IMAGE_SHAPE = (1, 8, 8)
AUDIO_SHAPE = (16, 8)
"""frames, mel bands"""
CHARACTERS = 8
VOCABULARY = 32
MODALITIES = ("image", "audio", "text")
LARGEST_POOL = 4096


def synthetic(
    *,
    clients: int,
    samples_per_client: int,
    seed: int,
    modalities: tuple[str, ...] = ("image", "text"),
    classes: int = 3,
    noise: float = 1.0,
    multimodal_fraction: float = 1.0,
    missing_rate: float = 0.0,
    labelled_fraction: float = 1.0,
    evaluation_samples: int = 60,
) -> FederatedData:
    """Clients `client-00` and so on that train, and one, `evaluation`, with validation and test.

    modalities: of `image` (`pixel_values` (N, 1, 8, 8)), `audio` (`input_values` (N, 16, 8)) and `text` (`input_ids` and
    `attention_mask` (N, 8), 32 different ids). noise: standard deviation around patterns of standard deviation 1; of a text, half
    that (at most all) is the probability that a character is a random one. Up to 4,096 samples differ; beyond, clients share some.

    Errors: ConfigError when a setting is out of range.
    """
    _check(clients, samples_per_client, modalities, classes, noise, labelled_fraction, evaluation_samples)
    held = assign_modalities(clients, modalities, multimodal_fraction, seed)
    pool = min(clients * samples_per_client, LARGEST_POOL)
    count = pool + 2 * evaluation_samples
    labels = torch.arange(count) % classes
    columns = {modality: _column(modality, labels, classes, noise, seed) for modality in modalities}
    width = max(2, len(str(clients - 1)))
    order = torch.randperm(pool, generator=derive(seed, "synthetic", "order"))
    everyone: dict[str, ClientData] = {}
    for number, own in enumerate(held):
        name = f"client-{number:0{width}d}"
        generator = derive(seed, "synthetic", name)
        indices = order[torch.arange(number * samples_per_client, (number + 1) * samples_per_client) % pool]
        known = torch.rand(samples_per_client, generator=generator) < labelled_fraction
        own_labels = torch.where(known, labels[indices], UNLABELLED)
        presence = draw_presence(samples_per_client, len(own), missing_rate, generator)
        everyone[name] = ClientData(own, train=InMemorySamples(columns, indices, own_labels, presence, own))
    validation, test = (_whole(columns, labels, begin, evaluation_samples) for begin in (pool, pool + evaluation_samples))
    everyone["evaluation"] = ClientData(modalities, validation=validation, test=test)
    return FederatedData(tuple(f"class-{number}" for number in range(classes)), modalities, everyone)


def _check(
    clients: int, samples_per_client: int, modalities: tuple[str, ...], classes: int, noise: float, labelled: float, evaluation_samples: int
) -> None:
    for name, value, lowest in (
        ("clients", clients, 1),
        ("samples_per_client", samples_per_client, 1),
        ("classes", classes, 2),
        ("evaluation_samples", evaluation_samples, 1),
    ):
        if value < lowest:
            raise ConfigError(f"{name} is {value}; it must be at least {lowest}")
    if not noise >= 0:
        raise ConfigError(f"noise is {noise}; it is a standard deviation and must be 0 or more")
    if not 0 < labelled <= 1:
        raise ConfigError(f"labelled_fraction is {labelled}; it must be above 0 and at most 1")
    if not modalities or len(set(modalities)) < len(modalities) or not set(modalities) <= set(MODALITIES):
        raise ConfigError(f"modalities are {modalities}; they must be one or more, without repetition, of {', '.join(MODALITIES)}")


def _column(modality: str, labels: Tensor, classes: int, noise: float, seed: int) -> Mapping[str, Tensor]:
    """The encoder's arguments for the whole pool."""
    generator, count = derive(seed, "synthetic", "column", modality), len(labels)
    if modality == "text":
        patterns = torch.randint(FIRST_CHARACTER, VOCABULARY, (classes, CHARACTERS), generator=generator)
        other = torch.randint(FIRST_CHARACTER, VOCABULARY, (count, CHARACTERS), generator=generator)
        ids = torch.where(torch.rand(count, CHARACTERS, generator=generator) < noise / 2, other, patterns[labels])
        ids[:, 0] = BEGIN
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    name, shape = ("pixel_values", IMAGE_SHAPE) if modality == "image" else ("input_values", AUDIO_SHAPE)
    patterns = torch.randn(classes, *shape, generator=generator)
    return {name: patterns[labels] + noise * torch.randn(count, *shape, generator=generator)}


def _whole(columns: Mapping[str, Mapping[str, Tensor]], labels: Tensor, begin: int, count: int) -> InMemorySamples:
    indices = torch.arange(begin, begin + count)
    return InMemorySamples(columns, indices, labels[indices], torch.ones(count, len(columns), dtype=torch.bool), tuple(columns))
