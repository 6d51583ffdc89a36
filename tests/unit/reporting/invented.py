"""An invented run, in the shape that training hands over; every figure is made up, none comes from the code under test."""

import math
import random
from pathlib import Path

from m2fedsa.config import Config
from m2fedsa.reporting.run_directory import RunDirectory

MODALITIES = ["image", "audio", "text"]
CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def config(rounds=20, seed=0, name="digits", **others):
    values = {
        "name": name,
        "seed": seed,
        "data": {"clients": 20},
        "modalities": {modality: {"encoder": f"embedded:{modality}"} for modality in MODALITIES},
        "federation": {"rounds": rounds},
        **others,
    }
    return Config.from_mapping(values)


def facts(clients=20, evaluation=True):
    draw = random.Random(1)
    held = {}
    for number in range(clients):
        modalities = MODALITIES if number % 2 == 0 else draw.sample(MODALITIES, draw.choice([1, 2]))
        counts = [int(60 * draw.betavariate(0.25, 1.5)) for _ in CLASSES]
        modalities = [modality for modality in MODALITIES if modality in modalities]
        held[f"client-{number:02d}"] = {"modalities": modalities, "train": sum(counts), "labelled": sum(counts), "classes": counts}
    if evaluation:
        empty = [0] * len(CLASSES)
        held["evaluation"] = {"modalities": MODALITIES, "train": 0, "labelled": 0, "validation": 300, "test": 600, "classes": empty}
    return {"modalities": MODALITIES, "classes": CLASSES, "clients": held}


def metrics(fused, image, audio, text):
    values = {"fused": fused, "image": image, "audio": audio, "text": text, "image+audio": fused - 0.05, "audio+text": fused - 0.08}
    return {
        name: {
            "accuracy": value,
            "uar": value - 0.01,
            "macro_f1": value - 0.015,
            "auc": None if "+" in name else min(1.0, value + 0.15),
            "samples": 600,
        }
        for name, value in values.items()
    }


def warm_start():
    return {"metrics": metrics(0.8, 0.48, 0.6, 0.41), "bytes": {"up": 3_100_000, "down": 900_000}, "seconds": 1.2, "samples": 1200}


def record(number, failures=(), evaluated=True, phase=None):
    late = 1 - math.exp(-number / 6)
    value = {
        "round": number,
        "phase": phase or ("fusion" if number < 13 else "transfer"),
        "clients": [f"client-{client:02d}" for client in range(20)],
        "loss": {"fused": 0.9 - 0.5 * late, "image": 1.6 - 0.3 * late, "audio": 1.2 - 0.3 * late, "text": 1.7 - 0.2 * late},
        "bytes": {"up": 12_400_000, "down": 12_400_000},
        "seconds": 2.1,
        "metrics": metrics(0.8 + 0.03 * late, 0.48 + 0.02 * late, 0.6 + 0.03 * late, 0.41 + 0.02 * late) if evaluated else None,
    }
    return {**value, "failures": list(failures)} if failures else value


def side(frozen, trainable, forward, **more):
    return {
        "frozen": {"parameters": frozen // 4, "bytes": frozen},
        "trainable": {"parameters": trainable // 4, "bytes": trainable},
        "flops": {"forward": forward, "backward": 2 * forward, **more},
    }


def result(rounds=20, fused=0.832):
    counts = [[0.0] * 10 for _ in CLASSES]
    for place in range(10):
        for column in range(10):
            counts[place][column] = 50.0 if place == column else 10.0 if column == (place + 1) % 10 else 0.0
    clients = facts(evaluation=False)["clients"]
    per_client = {
        name: {"modalities": held["modalities"], "train": held["train"], "rounds": rounds, "loss": 0.2 + 0.03 * place}
        for place, (name, held) in enumerate(clients.items())
    }
    ledger = {
        name: {
            "client": side(40_000, 9_000, 1.0e5, head=0.6e5),
            "server": side(600_000, 20_000, 2.4e6),
            "whole": side(640_000, 29_000, 2.5e6),
            "bytes": {"up": 8_000, "down": 7_000},
        }
        for name in MODALITIES
    }
    return {
        "metrics": metrics(fused, 0.5, 0.621, 0.43),
        "validation": metrics(0.83, 0.5, 0.63, 0.43),
        "closed_form": metrics(0.815, 0.48, 0.6, 0.41),
        "per_client": per_client,
        "ledger": ledger,
        "confusion": {"fused": counts},
        "digest": "9f" * 32,
        "rounds": rounds,
        "seconds": 48.0,
        "versions": {"m2fedsa": "0.1.0", "torch": "2.13.0"},
    }


def write(path: Path, settings=None, finished=True, failures=(), fused=0.832):
    """A run directory as a run leaves it; its path."""
    settings = settings or config()
    directory = RunDirectory.create(settings, path)
    directory.begin(facts())
    directory.warm_started(warm_start())
    rounds = settings.federation.rounds
    for number in range(1, (rounds if finished else rounds // 2) + 1):
        directory.append(record(number, failures if number == 3 else ()))
    if finished:
        directory.finish(result(rounds, fused))
    directory.close()
    return path
