"""Photos and titles of products, with pretrained encoders of the user's own."""

from m2fedsa.config import Config


def products(*, rounds: int = 6, seed: int = 0, clients: int = 20, folder: str = "", image: str = "", text: str = "") -> Config:
    """Which category is a product of? Photos and titles, MobileNetV2 and MiniLM; data and encoders are folders that you name.

    folder: with `data.csv`. image, text: encoders, as `modalities.*.encoder`.
    """
    return Config.from_mapping(
        {
            "name": "products",
            "seed": seed,
            "data": {
                "source": "products",
                "clients": clients,
                "missing_rate": 0.2,
                "options": {"folder": folder, "image_size": 160, "text": "title", "text_tokens": 0, "division": 0},
            },
            "modalities": {
                "image": {"encoder": image, "block": 10, "adapter_width": 32},
                "text": {"encoder": text, "block": 1, "adapter_width": 32},
            },
            "fusion": {"width": 128, "feed_forward": 256},
            "optimizer": {"learning_rate": 0.005, "schedule": "cosine", "fusion_factor": 1.0},
            "federation": {"rounds": rounds},
        },
        "recipe products",
    )
