"""The encoders of the paper by shape: what they cost does not depend on their weights."""

from m2fedsa.config import Config


def paper_shapes(*, rounds: int = 1, seed: int = 0, clients: int = 2) -> Config:
    """What do Swin-T, AST-base and RoBERTa-base cost a client? Random weights and inputs: read the ledger, not the accuracy."""
    return Config.from_mapping(
        {
            "name": "paper_shapes",
            "seed": seed,
            "data": {
                "source": "random_shapes",
                "clients": clients,
                "multimodal_fraction": 1.0,
                "options": {"samples_per_client": 4, "evaluation_samples": 2, "image_size": 224, "text_tokens": 64, "text_read": 32},
            },
            "modalities": {
                # The first stage of Swin, and the merge behind it.
                "image": {"encoder": "random:swin-tiny", "block": 2},
                "audio": {"encoder": "random:ast-base"},
                "text": {"encoder": "random:roberta-base"},
            },
            "federation": {"rounds": rounds, "batch_size": 4, "warm_start": False},
            # At this size the fastest on CPUs that multiply in bfloat16 (docs/benchmarks.md).
            "compute": {"precision": "bfloat16"},
        },
        "recipe paper_shapes",
    )
