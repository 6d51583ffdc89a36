"""Words of MELD alone, with a pretrained encoder of the user's own."""

from typing import Literal

from m2fedsa.config import Config


def meld_text(
    *,
    rounds: int = 3,
    seed: int = 0,
    clients: int = 25,
    partition: Literal["column", "dirichlet", "iid"] = "column",
    folder: str = "",
    text: str = "",
) -> Config:
    """Which emotion does an utterance express? Words of MELD, clients by speaker, MiniLM; data and encoder are folders that you name.

    folder: with `data.csv`. text: the encoder, as `modalities.text.encoder`. The classes are far from balanced, and count alike here: look
    at `uar`.
    """
    sampled = min(10, clients)
    return Config.from_mapping(
        {
            "name": "meld_text",
            "seed": seed,
            "data": {
                "source": "meld_text",
                "clients": clients,
                "partition": partition,
                "column": "speaker",
                "options": {"folder": folder, "text_tokens": 24},
            },
            # Cut late: what a client keeps of its utterances is then all but the last block, and a run of minutes.
            "modalities": {"text": {"encoder": text, "block": 5, "adapter_width": 32}},
            "fusion": {"width": 128, "feed_forward": 256},
            "loss": {"balance": "weights"},
            "optimizer": {"learning_rate": 0.002, "schedule": "cosine", "fusion_factor": 1.0},
            "federation": {"rounds": rounds, "clients_per_round": sampled, "local_steps": 5},
            "evaluation": {"every": 100},
            "kept": {"where": "disk"},
            "compute": {"threads": 1},
        },
        "recipe meld_text",
    )
