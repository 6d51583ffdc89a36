"""Three tasks on handwritten, spoken and written digits that ship with the package."""

from typing import Any

from m2fedsa.config import Config

ENCODERS = {
    "image": {"encoder": "embedded:digits-image", "pooling": "mean", "block": 1, "adapter_width": 32},
    "audio": {"encoder": "embedded:digits-audio", "pooling": "mean", "block": 1, "adapter_width": 32},
    "text": {"encoder": "embedded:digits-text", "pooling": "mean", "block": 1, "adapter_width": 32},
}

NOISE = {"image_noise": 1.0, "audio_snr_db": -5.0, "text_mask": 0.5}
"""Those that `data.digits` takes by itself, in the settings to be seen and changed."""


def digits(*, rounds: int = 15, seed: int = 0, clients: int = 20) -> Config:
    """Which digit was written, spoken and spelled out: noisy images, sound and text, 20 clients, half with one or two modalities."""
    return _config("digits", rounds, seed, clients, data={"source": "digits", "options": NOISE}, modalities=ENCODERS)


def few_labels(*, rounds: int = 12, seed: int = 0, clients: int = 20) -> Config:
    """`digits` with one training sample in ten labelled: the others take part by transfer."""
    return _config(
        "few_labels",
        rounds,
        seed,
        clients,
        data={"source": "digits", "labelled_fraction": 0.1, "options": NOISE},
        modalities=ENCODERS,
        transfer={"start": 1, "refresh": 3},
        optimizer={"learning_rate": 0.015},
    )


def match(*, rounds: int = 15, seed: int = 0, clients: int = 20) -> Config:
    """Do the written and the spoken digit agree? Each modality alone is at chance: only a fusion that learns can tell."""
    return _config(
        "match",
        rounds,
        seed,
        clients,
        data={"source": "match", "multimodal_fraction": 1.0, "options": {"pairings": 2, "image_noise": 0.5, "audio_snr_db": 5.0}},
        modalities={name: ENCODERS[name] for name in ("image", "audio")},
        optimizer={"learning_rate": 0.01, "schedule": "constant"},
    )


def _config(name: str, rounds: int, seed: int, clients: int, data: dict[str, Any], **tables: dict[str, Any]) -> Config:
    """What the three have in common: small widths, and rates for small encoders."""
    optimizer = {"learning_rate": 0.005, "schedule": "cosine", "fusion_factor": 1.0, **tables.pop("optimizer", {})}
    federation = {"rounds": rounds, "batch_size": 32, **tables.pop("federation", {})}
    values = {
        "name": name,
        "seed": seed,
        "data": {"clients": clients, **data},
        "fusion": {"width": 64, "feed_forward": 128},
        "optimizer": optimizer,
        "federation": federation,
        # The networks are so small that a second thread costs more than it brings, and the words so short that they are not worth cutting.
        "compute": {"threads": 1, "shorten": False},
        **tables,
    }
    return Config.from_mapping(values, f"recipe {name}")
