"""The run directory is a contract: every file and key, of the right type, with the right number."""

import hashlib
import json
import struct
from html.parser import HTMLParser

import pytest
from safetensors import safe_open
from tests.integration import small

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.synthetic import synthetic
from m2fedsa.models.head import Head

NUMBER = (int, float)
SCORE = (int, float, type(None))
SUBSETS = {"fused", "image", "text", "image+text"}
BYTES = {"up": int, "down": int}
SCORES = {"accuracy": SCORE, "uar": SCORE, "macro_f1": SCORE, "auc": SCORE, "auc_error": SCORE, "loss": SCORE, "samples": int}
SIDE = {
    "frozen": {"parameters": int, "bytes": int},
    "trainable": {"parameters": int, "bytes": int},
    "flops": {"forward": NUMBER, "backward": NUMBER},
}


def assert_form(value, form, place=""):
    """`form`: a type, a mapping of keys to forms, or [form] for a list."""
    if isinstance(form, dict):
        assert set(value) == set(form), place
        for key, part in form.items():
            assert_form(value[key], part, f"{place}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list), place
        for number, part in enumerate(value):
            assert_form(part, form[0], f"{place}[{number}]")
    else:
        assert isinstance(value, form), f"{place}: {value!r}"
        assert not isinstance(value, bool), place


METRICS = dict.fromkeys(SUBSETS, SCORES)


def test_files(uninterrupted):
    assert {path.name for path in uninterrupted.iterdir()} == {
        "config.toml",
        "clients.json",
        "warm_start.json",
        "rounds.jsonl",
        "result.json",
        "checkpoint",
        "report.html",
    }


def test_rounds(uninterrupted):
    records = small.rounds(uninterrupted)
    assert [record["round"] for record in records] == [1, 2, 3]
    for record in records:
        losses = {"image": SCORE, "text": SCORE, "fused": SCORE}
        form = {"round": int, "phase": str, "clients": [str], "loss": losses, "bytes": BYTES, "seconds": NUMBER, "metrics": METRICS}
        form |= {"tensors": BYTES, "visits": dict.fromkeys(record["visits"], int)}
        assert set(record["visits"]) <= {"image", "text"}
        taught = {"teaching": BYTES} if "teaching" in record else {}
        assert_form(record, {**form, **taught})
        assert record["phase"] in ("fusion", "transfer")
        assert record["clients"] == sorted(record["clients"])
        assert len(record["clients"]) == 3
        assert all(scores["samples"] == 12 for scores in record["metrics"].values())
    # Teachers are made when the phase begins, and are not counted among the four messages.
    assert [record["phase"] for record in records if "teaching" in record][:1] == ["transfer"]
    assert "teaching" in next(record for record in records if record["phase"] == "transfer")


def test_null_where_not_evaluated(encoders, tmp_path):
    """Every second round, and the last one always."""
    m2fedsa.run(small.config(encoders, evaluation__every=2), out=tmp_path / "run")
    assert [record["metrics"] is None for record in small.rounds(tmp_path / "run")] == [True, False, False]


def test_result(uninterrupted, settings):
    result = small.result(uninterrupted)
    trains = {"modalities": [str], "train": int, "metrics": type(None), "rounds": int, "loss": NUMBER, "bytes": BYTES}
    client = {**SIDE, "flops": {**SIDE["flops"], "head": NUMBER}}
    entry = {"client": client, "server": SIDE, "whole": SIDE, "bytes": BYTES, "kept": int}
    form = {
        "metrics": METRICS,
        "validation": METRICS,
        "closed_form": METRICS,
        "per_client": {
            **{f"client-{number:02d}": trains for number in range(4)},
            "evaluation": {"modalities": [str], "train": int, "metrics": METRICS},
        },
        "ledger": {"image": entry, "text": entry},
        "digest": str,
        "rounds": int,
        "seconds": NUMBER,
        "versions": dict.fromkeys(("python", "m2fedsa", "torch", "transformers", "numpy", "machine", "threads"), str),
        "confusion": {subset: [[NUMBER]] for subset in SUBSETS},
    }
    assert_form(result, form)
    assert result["rounds"] == 3
    assert set(result["digest"]) <= set("0123456789abcdef")
    assert len(result["digest"]) == 64
    for subset, scores in result["metrics"].items():
        matrix = result["confusion"][subset]
        assert sum(map(sum, matrix)) == scores["samples"] == 12
        assert scores["accuracy"] == pytest.approx(sum(matrix[k][k] for k in range(3)) / 12)
    assert result["validation"] == small.rounds(uninterrupted)[-1]["metrics"]
    assert result["closed_form"] == json.loads((uninterrupted / "warm_start.json").read_text())["test"]
    assert result["per_client"]["evaluation"]["metrics"] == result["metrics"]


def test_accounts_of_clients_add_up_to_those_of_rounds(uninterrupted):
    records, accounts = small.rounds(uninterrupted), small.result(uninterrupted)["per_client"]
    for way in ("up", "down"):
        assert sum(one["bytes"][way] for one in accounts.values() if one["train"]) == sum(record["bytes"][way] for record in records)
    for name, one in accounts.items():
        assert one.get("rounds", 0) == sum(name in record["clients"] for record in records)


def test_clients_and_warm_start(uninterrupted):
    facts = json.loads((uninterrupted / "clients.json").read_text())
    client = {"modalities": [str], "train": int, "labelled": int, "validation": int, "test": int, "classes": [int]}
    data = synthetic_of(Config.from_file(uninterrupted / "config.toml"))
    assert set(facts["clients"]) == set(data.clients)
    clients = {
        name: {**client, **({"having": dict.fromkeys(data.clients[name].modalities, int)} if data.clients[name].train else {})}
        for name in facts["clients"]
    }
    assert_form(facts, {"modalities": [str], "classes": [str], "clients": clients})
    for name, one in data.clients.items():
        if one.train is not None:
            had = dict(zip(one.train.modalities, one.train.presence.sum(0).tolist(), strict=True))
            assert facts["clients"][name]["having"] == had
    for name, one in data.clients.items():
        labels = [] if one.train is None else one.train.labels.tolist()
        told = facts["clients"][name]
        assert told["modalities"] == list(one.modalities)
        assert (told["train"], told["labelled"]) == (len(labels), sum(label >= 0 for label in labels))
        assert told["classes"] == [labels.count(k) for k in range(3)]
    warm = json.loads((uninterrupted / "warm_start.json").read_text())
    chosen = {"shrinkage": NUMBER, "scale": NUMBER}
    visits = {"image": int, "text": int}
    form = {"metrics": METRICS, "test": METRICS, "bytes": BYTES, "sums": BYTES, "seconds": NUMBER, "samples": int, "visits": visits}
    assert_form({**warm, "failures": {}}, {**form, "failures": {}, "chosen": {"image": chosen, "text": chosen}})
    assert warm["failures"] == []
    sent = [one.train for one in data.clients.values() if one.train is not None]
    assert warm["samples"] == sum(int(((one.labels >= 0) | (one.presence.sum(1) > 1)).sum()) for one in sent)


def synthetic_of(config):
    """The data of the settings, from the source itself."""
    common = {name: getattr(config.data, name) for name in ("clients", "multimodal_fraction", "missing_rate", "labelled_fraction")}
    return synthetic(seed=config.seed, **common, **config.data.options)


def test_running_the_written_settings_again_gives_the_same(uninterrupted, tmp_path):
    assert small.call("run", uninterrupted / "config.toml", "--out", tmp_path / "again") == 0
    small.assert_same(tmp_path / "again", uninterrupted)


def test_another_seed_gives_another_digest(settings, uninterrupted, tmp_path):
    assert small.call("run", settings, "--set", "seed=6", "--out", tmp_path / "run") == 0
    assert small.result(tmp_path / "run")["digest"] != small.result(uninterrupted)["digest"]


def test_the_digest_is_that_of_the_tensors(uninterrupted):
    """By hashlib, from the bytes in the checkpoint's files: sorted [name, dtype, shape, SHA-256 of the bytes] as compact JSON."""
    words = {"F32": "float32", "F64": "float64", "I64": "int64"}
    listing = []
    for party in ("fed_server", "main_server"):
        (file,) = (uninterrupted / "checkpoint" / party).iterdir()
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        for name, one in header.items():
            if name in ("log_prior", "class_weights") or name.startswith(("__metadata__", "velocity/", "local/", "accounts/", "locals/")):
                continue
            begin, end = (8 + length + offset for offset in one["data_offsets"])
            listing.append([name, words[one["dtype"]], one["shape"], hashlib.sha256(content[begin:end]).hexdigest()])
    text = json.dumps(sorted(listing), separators=(",", ":"))
    assert small.result(uninterrupted)["digest"] == hashlib.sha256(text.encode()).hexdigest()
    names = {name for name, *_ in listing}
    assert {"image.ma.down.weight", "text.ta.update.bias", "fused.classifier.bias", "image.token.weight"} <= names


def test_each_party_keeps_what_it_holds(uninterrupted):
    """Nothing of the main server's at the fed server or a client, and the reverse."""
    held = {}
    for party in ("fed_server", "main_server", "clients"):
        held[party] = set()
        for file in (uninterrupted / "checkpoint" / party).rglob("*.safetensors"):
            with safe_open(file, "pt") as opened:
                held[party] |= {name.removeprefix("velocity/") for name in opened.keys()}  # noqa: SIM118  (no mapping)
    accounts = {"accounts/rounds", "accounts/up", "accounts/down", "accounts/loss", "locals/round", "locals/sha256"}
    assert accounts < held["fed_server"]
    client_side = held["fed_server"] - {"log_prior", "class_weights"} - accounts
    assert all(".ma." in name or ".classifier." in name for name in client_side)
    assert all(".ta." in name or ".token." in name or ".bilinear." in name or name.startswith("fusion.") for name in held["main_server"])
    assert all(".classifier." in name or name in ("teacher/fused", "teacher window") for name in held["clients"])


class Addresses(HTMLParser):
    """Everything that a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        loads = [value for key, value in attrs if key in ("src", "href", "data", "action") and tag != "a"]
        self.found += [value for value in loads if not value.startswith(("#", "data:"))]


def test_the_report_needs_no_network(uninterrupted):
    text = (uninterrupted / "report.html").read_text()
    page = Addresses()
    page.feed(text)
    assert page.found == []
    assert "@import" not in text
    assert "url(http" not in text


# --- bytes on the wire ----------------------------------------------------------------------------------------------------------------

INDEX, TRUTH = 8, 1
FUSED = 8
"""F"""


def row(width, wire, tokens=1):
    """Bytes of the numbers of a sample's tokens, or of a feature. A scale is a token's, or the sample's where a token has less than 16."""
    return tokens * {"float32": 4, "bfloat16": 2, "int8": 1}[wire] * width + (wire == "int8") * 4 * (tokens if width >= 16 else 1)


def payload(samples, wire):
    """(up, down) of one step over these samples: activations and gradients up, features and activations' gradients down."""
    number, sent = len(samples.labels), []
    for way in (wire.up, wire.down):
        total = number * row(FUSED, way)
        for column, name in enumerate(samples.modalities):
            present, width = int(samples.presence[:, column].sum()), small.WIDTHS[name]
            total += present * (row(width, way, small.TOKENS[name]) + row(width, way))
        sent.append(total)
    for column, name in enumerate(samples.modalities):
        mask = small.TOKENS[name] * INDEX if name == "text" else 0
        sent[0] += int(samples.presence[:, column].sum()) * (INDEX + mask)
    return sent[0] + number * len(samples.modalities) * TRUTH, sent[1]


WIRES = pytest.mark.parametrize(("up", "down"), [("float32", "float32"), ("int8", "bfloat16")])


def one_batch(encoders, up, down, rounds):
    """One batch per client and round, so that every batch has every modality of the client."""
    settings = {"transfer__start": '"never"', "federation__batch_size": 32, "data__labelled_fraction": 1.0}
    return small.config(encoders, **settings, federation__rounds=rounds, wire__up=f'"{up}"', wire__down=f'"{down}"')


@WIRES
def test_bytes_are_those_of_the_four_messages(encoders, tmp_path, up, down):
    config = one_batch(encoders, up, down, 2)
    m2fedsa.run(config, out=tmp_path / "run")
    data = synthetic_of(config)
    for record in small.rounds(tmp_path / "run"):
        expected = [payload(data.clients[name].train, config.wire) for name in record["clients"]]
        assert record["bytes"] == {"up": sum(one for one, _ in expected), "down": sum(one for _, one in expected)}


@WIRES
def test_a_pass_without_training_counts_what_travels(encoders, tmp_path, up, down):
    """The warm start: activations up, features down, each sample once."""
    config = one_batch(encoders, up, down, 1)
    m2fedsa.run(config, out=tmp_path / "run")
    sent = {"up": 0, "down": 0}
    for samples in (client.train for client in synthetic_of(config).clients.values() if client.train is not None):
        for column, name in enumerate(samples.modalities):
            present, width = int(samples.presence[:, column].sum()), small.WIDTHS[name]
            mask = small.TOKENS[name] * INDEX if name == "text" else 0
            sent["up"] += present * (row(width, up, small.TOKENS[name]) + INDEX + mask)
            sent["down"] += present * row(width, down)
        sent["up"] += len(samples.labels) * len(samples.modalities) * TRUTH
    assert json.loads((tmp_path / "run" / "warm_start.json").read_text())["bytes"] == sent


@WIRES
def test_the_ledger_tells_what_the_rounds_measure(encoders, tmp_path, up, down):
    """Per sample and modality; on top of it, per sample, its row of the table of what enters fusion, and f with its gradient."""
    config = one_batch(encoders, up, down, 1)
    m2fedsa.run(config, out=tmp_path / "run")
    ledger, (record,) = small.result(tmp_path / "run")["ledger"], small.rounds(tmp_path / "run")
    data = synthetic_of(config)
    total = {"up": 0, "down": 0}
    for name in record["clients"]:
        samples = data.clients[name].train
        for column, modality in enumerate(samples.modalities):
            for way in total:
                total[way] += int(samples.presence[:, column].sum()) * ledger[modality]["bytes"][way]
        total["up"] += len(samples.labels) * (len(samples.modalities) * TRUTH + row(FUSED, up))
        total["down"] += len(samples.labels) * row(FUSED, down)
    assert record["bytes"] == total


# --- head outputs ---------------------------------------------------------------------------------------------------------------------


class Counting:
    """Progress that opens a count when training begins and closes it with the last round."""

    def __init__(self, monkeypatch):
        self.rows, self.open = 0, False
        forward = Head.forward

        def counted(head, inputs, graph=False):
            if self.open:
                self.rows += len(next(iter(inputs.values())))
            return forward(head, inputs, graph)

        monkeypatch.setattr(Head, "forward", counted)

    def started(self, facts, after=0):
        self.open = True

    def round_done(self, record):
        self.open = record["round"] < 3

    def __getattr__(self, name):
        return lambda *_arguments, **_more: None


def test_the_head_output_is_computed_once_per_sample(encoders, monkeypatch):
    """Through warm start, three rounds, teachers and evaluations: every sample of every client, once per modality that it has."""
    count, config = Counting(monkeypatch), small.config(encoders, federation__clients_per_round="none")
    m2fedsa.run(config, progress=count)
    splits = [one.split(name) for one in synthetic_of(config).clients.values() for name in ("train", "validation", "test")]
    assert count.rows == sum(int(samples.presence.sum()) for samples in splits if samples is not None)
