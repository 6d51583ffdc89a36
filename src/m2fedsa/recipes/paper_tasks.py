"""The tasks of the paper on the data as their owners distribute it: encoders, clients and rates as the paper has them."""

from typing import Any, Literal

from m2fedsa.config import Config

SWIN, ROBERTA, AST = "microsoft/swin-tiny-patch4-window7-224", "FacebookAI/roberta-base", "MIT/ast-finetuned-audioset-10-10-0.4593"
Split = Literal["iid", "dirichlet", "column"]


def hateful_memes(
    *, rounds: int = 300, seed: int = 0, clients: int = 25, partition: Split = "iid", alpha: float = 0.5, folder: str = ""
) -> Config:
    """Is a meme hateful? Pictures and the words on them, Swin-T and RoBERTa-base; data is a folder that you name.

    folder: with `train.jsonl`, `img/` and so on. partition: `iid`, or `dirichlet` with `alpha`: 5, 1, 0.5 and 0.1 in the paper. Its metric
    is `auc`.
    """
    options = {"folder": folder, "validation": "dev_seen", "test": "test_seen", "image_size": 0, "text_tokens": 0, "incomplete": False}
    data = {"source": "hateful_memes", "clients": clients, "partition": partition, "alpha": alpha, "options": options}
    return _config("hateful_memes", rounds, seed, data, {"image": _swin(), "text": {"encoder": ROBERTA}})


def meld(*, rounds: int = 300, seed: int = 0, clients: int = 25, partition: Split = "iid", alpha: float = 0.5, folder: str = "") -> Config:
    """Which emotion does an utterance express? Sound, video and words, AST, Swin-T and RoBERTa-base; data is a folder that you name.

    folder: with `train_sent_emo.csv`, `train_splits/` and so on. partition: as for `hateful_memes`, or `column`: by speaker. Its metric is
    `uar`.
    """
    options = {"folder": folder, "frames": 0, "image_size": 0, "audio_seconds": 0.0, "text_tokens": 0, "incomplete": False}
    data = {"source": "meld", "clients": clients, "partition": partition, "alpha": alpha, "column": "speaker", "options": options}
    return _config("meld", rounds, seed, data, {"audio": {"encoder": AST}, "visual": _swin(), "text": {"encoder": ROBERTA}})


def epic_kitchens(
    *,
    rounds: int = 300,
    seed: int = 0,
    clients: int = 25,
    partition: Split = "iid",
    alpha: float = 0.5,
    folder: str = "",
    annotations: str = "",
) -> Config:
    """Which of 97 verbs says what is done? Video and sound of EPIC-KITCHENS-100, Swin-T and AST; data are folders that you name.

    folder: with `P01/videos/` and so on. annotations: with `EPIC_100_train.csv`. partition: as for `hateful_memes`, or `column`: by
    participant. Its metric is `accuracy`.
    """
    options = {"folder": folder, "annotations": annotations, "validation": 0.1, "frames_from": "videos", "frames": 0}
    options |= {"image_size": 0, "audio_seconds": 0.0, "incomplete": False}
    data = {"source": "epic_kitchens", "clients": clients, "partition": partition, "alpha": alpha, "column": "participant"}
    return _config("epic_kitchens", rounds, seed, {**data, "options": options}, {"visual": _swin(), "audio": {"encoder": AST}})


def _swin() -> dict[str, Any]:
    """The first stage of Swin, and the merge behind it."""
    return {"encoder": SWIN, "block": 2}


def _config(name: str, rounds: int, seed: int, data: dict[str, Any], modalities: dict[str, Any]) -> Config:
    return Config.from_mapping(
        {
            "name": name,
            "seed": seed,
            "data": data,
            "modalities": modalities,
            "optimizer": {"learning_rate": 1e-4, "fusion_factor": 10.0},
            "federation": {"rounds": rounds, "batch_size": 32, "local_epochs": 1},
            "evaluation": {"every": 5},
            "kept": {"where": "disk"},
        },
        f"recipe {name}",
    )
