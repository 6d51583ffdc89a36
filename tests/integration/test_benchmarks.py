"""Each benchmark runs, at a size of seconds, and writes what it measured."""

import importlib
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from tests import worlds
from tests.integration import small

from m2fedsa import recipes
from m2fedsa.comparing.outcome import fingerprint
from m2fedsa.config import Config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys):
    """Run a benchmark's quick size as its command does; its record and what it printed."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        out = tmp_path / "record.json"
        runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"](["--quick", "--out", str(out), *arguments])
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def test_step(quick):
    record, printed = quick("step")
    for size in ("digits", "base"):
        found = record["sizes"][size]
        assert found["steps"] >= 1
        assert found["losses differ by"] < 1e-4
        assert found["cpu"]["ratio"]["least"] > 0
    assert "ViT-base" in printed
    assert record["machine"]["torch"]


def test_run(quick):
    record, printed = quick("run")
    assert record["passes"]["ratio"] == 1.0
    (found,) = record["runs"]["1"]
    assert 0 < found["first line"] < found["clients"] < found["done"] <= found["wall"]
    assert len(found["rounds"]) == 1
    assert found["peak"] > 1e8
    assert "peak memory" in printed


def test_many_rows(quick):
    record, printed = quick("many_rows")
    few, many = (record["starts"][rows][0] for rows in ("200", "400"))
    for found in (few, many):
        assert 0 < found["ready"]["cpu"] <= found["first round"]["cpu"]
        assert 1e8 < found["ready"]["peak"] <= found["first round"]["peak"]
    assert set(record["bytes a row"]) == {"ready", "first round"}
    assert "a row more costs" in printed


def test_many_clients(quick):
    record, printed = quick("many_clients")
    for books in ("new", "full"):
        few, many = record["rounds"][books].values()
        assert set(few["parts"]) == set(many["parts"])
        assert few["wall"]["least"] > 0
    assert record["bytes"]["without"]["traced"]["idle"] < record["goal"]
    assert "checkpoint" in printed


def test_study_goes_on_where_it_was_stopped_and_makes_its_tables(monkeypatch, tmp_path, capsys):
    """The search decides on seeds of its own, nothing is run twice, tables come from the rows alone."""
    settings = small.tables(small.save_encoders(tmp_path / "encoders")) | {"averaging": {"rules": []}}
    settings["federation"] = {"rounds": 1, "batch_size": 8}
    monkeypatch.setitem(recipes.RECIPES, "small", lambda: Config.from_mapping(settings))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = runpy.run_path(str(BENCHMARKS / "study.py"))
    main = study["main"]
    numbers = {"adapters of 2": ("modalities.*.adapter_width=2",)}
    for module in ("study_plan", "study_table"):
        monkeypatch.setattr(importlib.import_module(module), "NUMBERS", numbers)
    tasks = importlib.import_module("study_tasks")
    main.__globals__["TASKS"] = (tasks.Task("small", 1, (0.001, 0.1), 0.1, seeds=(5, 6), search=(20, 21)),)
    rows, runs, table = tmp_path / "rows.jsonl", tmp_path / "runs", tmp_path / "study.md"
    given = ["--set=data.clients=4", "--arm=m2fedsa", "--arm=closed_form", "--arm=no_ma", f"--rows={rows}", f"--runs={runs}"]
    given += ["--processes=1", f"--table={table}"]
    main([*given, "--part=methods", "--part=ablations"])
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    searched, told = ([row for row in kept if row["stage"] == stage] for stage in ("search", "report"))
    # Two rates on two seeds; the better one is at an edge, so one beyond it.
    assert [(row["arm"], row["seed"]) for row in searched] == [("m2fedsa", seed) for seed in (20, 20, 21, 21, 20, 21)]
    assert all(row["outcome"]["test"] is None for row in searched)
    assert [(row["arm"], row["seed"]) for row in told] == [
        *[(arm, seed) for seed in (5, 6) for arm in ("m2fedsa", "closed_form")],
        ("no_ma", 5),
        ("no_ma", 6),
        ("m2fedsa", 5),
        ("m2fedsa", 6),
    ]
    assert len(kept) == 14
    judged = dict.fromkeys(sorted({row["candidate"] for row in searched}), 0.0)
    for row in searched:
        judged[row["candidate"]] += row["outcome"]["validation"]["fused"]["accuracy"]
    rates = {told: float(told.partition("=")[2]) for told in judged}
    # Of equals the one nearest to the middle of the grid, here its second rate.
    chosen = max(judged, key=lambda told: (judged[told], -abs(math.log(rates[told] / 0.1))))
    assert told[0]["candidate"] == told[4]["candidate"] == chosen
    assert sorted(rates.values()) in ([0.001, 0.1, 0.4], [0.00025, 0.001, 0.1])
    edge = " (edge)" if rates[chosen] in (min(rates.values()), max(rates.values())) else ""
    mean = sum(row["outcome"]["test"]["fused"]["accuracy"] for row in (told[0], told[2])) / 2
    assert f"| m2fedsa | {chosen}{edge} | 5, 6 | {mean:.3f} ±" in table.read_text()
    assert f"| adapters of 2 | {chosen}{edge} | 5, 6 |" in table.read_text()
    assert "## What training adds to the closed form" in table.read_text()
    assert (tmp_path / "study_small.png").read_bytes().startswith(b"\x89PNG")
    assert not list(runs.rglob("*.json"))
    # Once more: what is kept stays, and what lacks is run.
    first, lines = table.read_text(), rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:-1]) + "\n")
    main([*given, "--part=methods", "--part=ablations"])
    assert [{**json.loads(line)["outcome"], "seconds": 0} for line in rows.read_text().splitlines()] == [
        {**row["outcome"], "seconds": 0} for row in kept
    ]
    assert table.read_text() == first
    capsys.readouterr()
    main([*given, "--estimate"])
    assert "small          methods       0 runs" in capsys.readouterr().out


def study_rows(metric="accuracy"):
    """A row of each kind, for two seeds: what training, more rounds, factors, ablations and labels did."""

    def row(part, arm, seed, value, factor="default", stage="report", rate="0.005"):
        scores = {name: {metric: value} for name in ("fused", "image", "text")}
        curve = [
            {"round": number, "bytes": 10**6 * number, "flops": 1e9 * number, "validation": {"fused": {metric: value}}} for number in (0, 1)
        ]
        outcome = {
            "modalities": ["image", "text"], "test": None if stage == "search" else scores, "validation": scores, "curve": curve,
            "seconds": 1.0, "digest": "0", "ledger": {}, "rounds": 1,
        }  # fmt: skip
        candidate = f"learning_rate={rate}" if rate else ""
        return {"task": "digits", "part": part, "factor": factor, "stage": stage, "arm": arm, "candidate": candidate, "seed": seed,
                "config": "c", "outcome": outcome}  # fmt: skip

    rows = [row("methods", arm, 20, 0.5, stage="search", rate=rate) for arm in ("m2fedsa", "fedavg") for rate in ("0.001", "0.005", "0.02")]
    for seed, more in ((5, 0.0), (6, 0.02)):
        rows += [row("methods", "closed_form", seed, 0.5 + more, rate=""), row("methods", "fedavg", seed, 0.4 + more)]
        rows += [row("methods", "m2fedsa", seed, 0.6 + more), row("methods", "splitfed_v1", seed, 0.4 + more)]
        rows += [row("longer", "fedavg", seed, 0.45 + more, "twice the rounds"), row("ablations", "no_ma", seed, 0.55 + more)]
        rows += [row("factors", "fedavg", seed, 0.3 + more, "IID"), row("factors", "m2fedsa", seed, 0.7 + more, "IID")]
        rows += [row("labels", arm, seed, value + more, "10 %") for arm, value in (("m2fedsa", 0.35), ("no_transfer", 0.25))]
    return rows


def test_tables_of_the_study_do_not_depend_on_who_ended_first(bench, tmp_path):
    table = bench("study_table")
    rows = study_rows()
    text = table.render(rows, tmp_path)
    assert text == table.render(rows[:6] + rows[:5:-1], tmp_path)
    assert (
        "| digits | m2fedsa | 0.610 ± 0.127 | 1.00 MB | closed_form (best by validation) | 0.510 ± 0.127 | 1.00 MB | +10.0 ± 0.0 |" in text
    )
    assert "| calibrated |" not in text
    arms = {"m2fedsa": "calibrated", "closed_form": "closed_form_calibrated"}
    both = [
        {**row, "arm": arms[row["arm"]]} for row in rows if row["part"] == "methods" and row["stage"] == "report" and row["arm"] in arms
    ]
    assert "| digits | calibrated | 0.610 ± 0.127 | 1.00 MB | closed_form_calibrated (best by val" in table.render([*rows, *both], tmp_path)
    assert "| fedavg | 0.410 ± 0.127 | 0.460 ± 0.127 | +5.0 ± 0.0 | 0.610 ± 0.127 |" in text
    assert "| m2fedsa | 0.610 ± 0.127 | 0.710 ± 0.127 |" in text
    assert "| fedavg | 0.410 ± 0.127 (-20.0 ± 0.0) | 0.310 ± 0.127 (-40.0 ± 0.0) |" in text
    assert "| labelled | accuracy | no_transfer | m2fedsa |" in text
    assert "| 10 % | fused | 0.260 ± 0.127 | +10.0 ± 0.0 |" in text
    assert "(edge)" not in text
    for row in rows:
        row["candidate"] = row["candidate"].replace("0.005", "0.02") if row["stage"] == "report" else row["candidate"]
    assert "| splitfed_v1 | learning_rate=0.02 (edge) |" in table.render(rows, tmp_path), "the search of fedavg is its own"


def test_the_pages_of_results_are_what_their_rows_make(bench):
    """Every figure there comes from a stored run, and nobody has edited it by hand."""
    docs, results, store = BENCHMARKS.parent / "docs", BENCHMARKS / "results", bench("quality").Store
    rows = {path.stem: store(path).rows for path in results.glob("*.jsonl")}
    made = {
        "study": bench("study_table").render(rows["study"], docs),
        "results_digits": bench("quality_table").render(rows["quality"]),
        "transfer": bench("taught_heads").page(rows["taught_heads"], rows["wrong_labels"]),
        "closed_forms": bench("closed_forms").render(rows["closed_forms"]),
        "results_real": bench("real_table").render(rows["real"]),
    }
    for name, text in made.items():
        assert (docs / f"{name}.md").read_text(encoding="utf-8").strip() == text.strip(), name


def test_rows_on_frozen_features_are_of_the_settings_of_today(bench):
    """What decides them stands in the code, so a change there asks for new rows."""
    forms, heads, wrong, store = bench("closed_forms"), bench("taught_heads"), bench("wrong_labels"), bench("quality").Store
    tasks = {task.recipe: task for task in bench("study_tasks").TASKS}
    for row in store(BENCHMARKS / "results" / "taught_heads.jsonl").rows:
        assert row["settings"] == heads.settings_of(tasks[row["task"]], row["seed"], heads.CONSTANTS)
        assert len(row["digest"]) == 64
    for row in store(BENCHMARKS / "results" / "closed_forms.jsonl").rows:
        assert row["settings"] == heads.settings_of(tasks[row["task"]], row["seed"], forms.constants(row["form"]))
        assert len(row["digest"]) == 64
    for row in store(BENCHMARKS / "results" / "wrong_labels.jsonl").rows:
        assert row["config"] == fingerprint(wrong.config_of(row["arm"], row["seed"]))
        assert row["settings"] == list(wrong.ARMS[row["arm"]])
        assert len(row["digest"]) == 64


def test_the_best_of_the_study_are_different_methods(bench):
    """One that ends with another's tensors is not one more; ties of the search are broken towards the middle."""
    digits = bench("study_tasks").TASKS[0]
    rows = bench("study_plan").Rows(bench("quality").Store(Path("nowhere"), study_rows()))
    assert rows.best(digits, 4) == ["m2fedsa", "fedavg"]
    assert rows.rate(digits, "methods", "m2fedsa") == "0.005"
    assert rows.rate(digits, "methods", "fedavg") == "0.001", "the middle of its own grid"
    assert rows.rate(digits, "methods", "local") is None


def test_a_finished_run_of_other_settings_is_no_row_of_the_study(bench, monkeypatch, tmp_path):
    """Its directory lies where that of the wanted one would."""
    study = bench("study")
    (wanted,) = study.Plan(study.TASKS[0], {}, ())._runs("methods", "default", "report", "m2fedsa", (5,), "0.005")
    told = {"settings": "of another", "directory": "d", "test": {}, "validation": {}, "curve": []}
    monkeypatch.setattr("m2fedsa.comparing.outcome.outcome", lambda job, runs: told)
    with pytest.raises(SystemExit, match="holds a finished run of other settings"):
        study.row_of(wanted, tmp_path)


def test_link(quick):
    record, printed = quick("link")
    for found in record["echo"].values():
        assert found["raw TCP"] == 1.0
        assert 0 < found["with TLS"] < 3
    steps = record["steps"]
    assert 0 < steps["at once"]["least"] <= steps["at once"]["largest"]
    assert steps["step"]["median"] > 0
    assert "2 clients at once" in printed


# --- heads on frozen features ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch):
    """A benchmark's names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(name)


def toy(taught_heads):
    """Two modalities of three classes, which tell them apart through different noise; not every sample has both."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=draw)
    features = {
        name: 2 * torch.randn(3, width, generator=draw)[labels] + torch.randn(300, width, generator=draw)
        for name, width in (("image", 6), ("text", 9))
    }
    rows = torch.arange(200)
    train = {"image": rows[:150], "text": rows[50:]}
    return taught_heads.Table(features, labels, train, torch.arange(200, 250), torch.arange(250, 300), 3)


def test_forms_of_teaching_by_hand(bench):
    """What each adds to the cross-entropy, for heads that still say the same of every sample."""
    heads = bench("taught_heads")
    features, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0, 1, 2])
    white = torch.zeros(6, heads.SPACE)
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(6, -1).clone()
    teacher[3:] = torch.nan
    known = heads.Known(features, labels, {"b": (torch.arange(6), white)}, {"b": (white, labels)}, {"fused": teacher, "self": teacher}, 3)
    one, strength = heads.Heads.new(1, 4, 3, 0), torch.tensor([1.0])
    plain = heads.nothing(one, known, strength).item()
    assert plain == pytest.approx(math.log(3))
    # Three samples are taught by (1/2, 1/4, 1/4): against (1/3, 1/3, 1/3) that is log 3 less the entropy 1.5 log 2.
    apart = math.log(3) - 1.5 * math.log(2)
    found = {form: loss(one, known, strength).item() for form, (loss, _) in heads.FORMS.items()}
    for form in ("taught by itself", "taught by fusion"):
        assert found[form] == pytest.approx((3 * apart + 3 * plain) / 6)
        half = heads.FORMS[form][0](one, known, torch.tensor([0.5])).item()
        assert half == pytest.approx((3 * (apart + plain) / 2 + 3 * plain) / 6)
    # All other modalities are the same point: contrast and prototypes cannot tell six samples, or three classes, apart.
    assert found["contrastive"] == pytest.approx(plain + math.log(6), rel=1e-5)
    assert found["prototypes"] == pytest.approx(2 * plain, rel=1e-5)
    told = (one.projected(features) @ one.extra["of 0"]) ** 2
    assert found["features"] == pytest.approx(plain + told.mean().item(), rel=1e-5)
    assert found["shared classifier"] == pytest.approx(2 * plain)


def test_every_form_of_teaching_learns(bench, monkeypatch):
    heads = bench("taught_heads")
    monkeypatch.setattr(heads, "STEPS", 20)
    monkeypatch.setattr(heads, "WIDTH", 8)
    monkeypatch.setattr(heads, "HIDDEN", 8)
    table = toy(heads)
    for population in heads.POPULATIONS:
        found = heads.measured(table, "text", population, 0)["accuracy"]
        assert set(found) == set(heads.FORMS)
        assert min(found.values()) > 0.6, population
    wrong = heads.mislabelled(table, 0).labels != table.labels
    assert 0.2 < wrong[:200].double().mean() < 0.4
    assert not wrong[200:].any(), "those that judge have their own labels"
    rows = [
        {"task": "toy", "modality": "text", "population": "as dealt", "seed": seed, "accuracy": {**found, "none": 0.5, "features": 0.52}}
        for seed in (0, 1)
    ]
    assert "| toy | text | as dealt | 0.500 ± 0.000 |" in heads.render(rows)
    assert "+2.0 ± 0.0" in heads.render(rows)


def test_a_teacher_has_not_seen_the_sample(bench, monkeypatch):
    """Labels that have nothing to do with the features are told by chance, however well they could be learnt by heart."""
    heads = bench("taught_heads")
    monkeypatch.setattr(heads, "STEPS", 30)
    draw = torch.Generator().manual_seed(1)
    values, labels = torch.randn(120, 60, generator=draw), torch.randint(0, 2, (120,), generator=draw)
    table = heads.Table({"a": values}, labels, {"a": torch.arange(100)}, torch.arange(100, 110), torch.arange(110, 120), 2)
    told = heads.unseen(values, table, torch.arange(100), 0)
    assert told[100:].isnan().all()
    assert (told[:100].argmax(-1) == labels[:100]).double().mean() < 0.65


def test_closed_forms_tell_classes_apart(bench):
    forms, heads = bench("closed_forms"), bench("taught_heads")
    table = toy(heads)
    for form in forms.FORMS:
        said = {name: logits[table.test] for name, logits in forms.opinions(table, form, 0).items()}
        found = heads.judged_on(table, said)["accuracy"]
        assert found["fused"] >= max(found["image"], found["text"]) - 0.1 > 0.6
    even, odd = forms.halves(5)[0]
    assert (even.tolist(), odd.tolist()) == ([0, 2, 4], [1, 3])
    assert sorted(row for _, judged in forms.folds(11, 5) for row in judged.tolist()) == list(range(11))
    assert all(not set(fitted.tolist()) & set(judged.tolist()) for fitted, judged in forms.folds(11, 5))


def test_wrong_labels_are_those_of_training_alone(bench):
    wrong = bench("wrong_labels")
    data = worlds.federated(unlabelled=0.3)
    found = wrong.mislabelled(data, 0.5, 3)
    for name, client in found.clients.items():
        if client.train:
            assert (client.train.labels[data.clients[name].train.labels < 0] < 0).all(), "what has no label gets none"
            assert client.train.labels.max() < len(data.classes)
    changed = [
        int((client.train.labels != data.clients[name].train.labels).sum()) for name, client in found.clients.items() if client.train
    ]
    assert 0 < sum(changed) < sum(len(client.train.labels) for client in data.clients.values() if client.train)
    assert all(client.test is data.clients[name].test for name, client in found.clients.items())
    same = wrong.mislabelled(data, 0.0, 3)
    assert all(torch.equal(client.train.labels, data.clients[name].train.labels) for name, client in same.clients.items() if client.train)
