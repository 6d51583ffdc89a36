"""A run that takes a second and has every kind of state: local classifiers and task adapters, momentum, teachers of unlabelled samples.

Two tiny encoders, drawn at random, lie in a folder as `save_pretrained` writes them; four clients of the synthetic source, of which
three take part in a round, and transfer from the second.
"""

import copy
import json
import os
import tomllib

import tomli_w
import torch
import transformers

from m2fedsa.checkpoint import Manifest
from m2fedsa.cli import main
from m2fedsa.config import Config

DEPTH = 2
SIZES = {"num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 24}
WIDTHS = {"image": 16, "text": 12}
TOKENS = {"image": 5, "text": 8}


def vit(width=WIDTHS["image"], **settings):
    """Four patches and a first token."""
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": width, **SIZES, **settings}
    return drawn(transformers.ViTModel, transformers.ViTConfig(**sizes))


def bert(width=WIDTHS["text"], **settings):
    sizes = {"vocab_size": 32, "max_position_embeddings": TOKENS["text"], "hidden_size": width, **SIZES, **settings}
    return drawn(transformers.BertModel, transformers.BertConfig(**sizes))


def drawn(kind, config):
    """Weights from a seed, large enough that features differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config, add_pooling_layer=False).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def save_encoders(folder):
    """Both encoders as a user has them."""
    for name, model in (("image", vit()), ("text", bert())):
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(folder / name)
    return folder


def tables(encoders):
    """The settings as nested tables, to be changed and written."""
    return {
        "name": "small",
        "seed": 5,
        "data": {
            "source": "synthetic",
            "clients": 4,
            "multimodal_fraction": 0.75,
            "missing_rate": 0.2,
            "labelled_fraction": 0.6,
            "options": {"samples_per_client": 10, "classes": 3, "noise": 1.5, "evaluation_samples": 12},
        },
        "modalities": {name: {"encoder": str(encoders / name), "adapter_width": 4} for name in ("image", "text")},
        "fusion": {"width": 8, "heads": 2, "feed_forward": 8},
        "transfer": {"start": 2, "refresh": 2},
        "optimizer": {"learning_rate": 0.005},
        "federation": {"rounds": 3, "clients_per_round": 3, "batch_size": 8, "server_momentum": 0.5},
        "averaging": {
            "rules": [
                {"pattern": "*.classifier.*", "over": "nothing"},
                {"pattern": "image.ta.up.*", "over": "nothing"},
                {"pattern": "*.update.*", "over": "modalities"},
            ]
        },
        "compute": {"threads": 1},
    }


def config(encoders, **settings):
    """The settings; `federation__rounds=1` overrides `federation.rounds`."""
    found = Config.from_mapping(tables(encoders))
    return found.override([f"{name.replace('__', '.')}={value}" for name, value in settings.items()])


def write(path, values):
    """A TOML file."""
    path.write_text(tomli_w.dumps(values))
    return path


def changed(encoders, **settings):
    """The small settings with `{"a.b": value}` put in; None takes a key away."""
    values = copy.deepcopy(tables(encoders))
    for key, value in settings.items():
        *path, last = key.split(".")
        table = values
        for part in path:
            table = table.setdefault(part, {})
        if value is None:
            del table[last]
        else:
            table[last] = value
    return values


# --- what a run leaves ----------------------------------------------------------------------------------------------------------------


def rounds(path):
    return [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]


def result(path):
    return json.loads((path / "result.json").read_text())


def outcome(path):
    """Everything that a run says of itself but the time that it took."""
    names = [name for name in ("result.json", "warm_start.json", "clients.json") if (path / name).exists()]
    told = {name: json.loads((path / name).read_text()) for name in names}
    for one in told.values():
        one.pop("seconds", None)
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in rounds(path)]
    return {**told, "rounds": lines, "config": tomllib.loads((path / "config.toml").read_text())}


def files(path):
    """Every file of a directory with its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def assert_same(path, uninterrupted):
    """Digest, rounds, accounts, metrics, ledger: all but the time; the same manifest, and the same files with the same tensors."""
    assert outcome(path) == outcome(uninterrupted)
    assert Manifest.read(path / "checkpoint") == Manifest.read(uninterrupted / "checkpoint")
    ours, theirs = (files(directory) for directory in (path, uninterrupted))
    assert all(ours[name] == content for name, content in theirs.items() if name.endswith(".safetensors"))
    assert set(theirs) <= set(ours)
    # Who died before a commit may keep files of earlier rounds until the next one.
    assert {name.split("/")[1] for name in set(ours) - set(theirs)} <= {"clients", "main_server"}, set(ours) - set(theirs)


def go_on(settings, path):
    """The words that begin a run, or go on where there is something to go on from."""
    return ["run", "--resume", path] if (path / "config.toml").exists() else ["run", settings, "--out", path]


def call(*arguments):
    """The command line, in this process; its exit status."""
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """What is said of input that cannot be used: one message, for a person."""
    capsys.readouterr()
    assert call(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


def refuses(capsys, tmp_path, values):
    """What is said of these settings in mine.toml; nothing is left behind."""
    text = values if isinstance(values, str) else None
    path = tmp_path / "mine.toml"
    if text is None:
        write(path, values)
    else:
        path.write_text(text)
    for words in (["--out", "run"], []):
        said = refused(capsys, "run", "mine.toml", *words)
        assert [entry.name for entry in tmp_path.iterdir()] == ["mine.toml"]
    return " ".join(said.split())


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
