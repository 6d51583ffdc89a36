"""Digits in three modalities, with pretrained encoders of the user's own."""

from m2fedsa.config import Config


def spoken_digits(
    *, rounds: int = 4, seed: int = 0, clients: int = 20, folder: str = "", image: str = "", audio: str = "", text: str = ""
) -> Config:
    """Which digit was written, spoken and spelled out? MobileNetV2, YAMNet and MiniLM; data and encoders are folders that you name.

    folder: with `data.npz` and `index.csv`. image, audio, text: encoders, as `modalities.*.encoder`.
    """
    return Config.from_mapping(
        {
            "name": "spoken_digits",
            "seed": seed,
            "data": {
                "source": "spoken_digits",
                "clients": clients,
                "options": {
                    "folder": folder,
                    "image_noise": 0.25,
                    "audio_snr_db": 10.0,
                    "image_size": 96,
                    "audio_seconds": 0.0,
                    "text_tokens": 0,
                },
            },
            "modalities": {
                "image": {"encoder": image, "block": 10, "adapter_width": 32},
                "audio": {"encoder": audio, "block": 14, "adapter_width": 32},
                "text": {"encoder": text, "block": 1, "adapter_width": 32},
            },
            "fusion": {"width": 128, "feed_forward": 256},
            "optimizer": {"learning_rate": 0.005, "schedule": "cosine", "fusion_factor": 1.0},
            "federation": {"rounds": rounds},
        },
        "recipe spoken_digits",
    )
