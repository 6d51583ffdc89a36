"""What trackers are told of a run: the figures of its own files."""

import json

import pytest
from tests.integration import small

import m2fedsa
from m2fedsa.errors import ConfigError, Interrupted
from m2fedsa.reporting.files import read_json
from m2fedsa.reporting.trackers import MLflow, TensorBoard, WeightsAndBiases


class Notebook:
    """Writes down what it is told."""

    def __init__(self, name="42"):
        self.name, self.begun, self.steps, self.ended, self.closed = name, [], {}, None, 0

    def begin(self, name, settings, directory, known, after):
        self.begun.append((name, settings["federation.rounds"], directory, known, after))
        return self.name

    def log(self, step, values):
        self.steps[step] = dict(values)

    def end(self, values):
        self.ended = dict(values)

    def close(self):
        self.closed += 1


class Fails(Notebook):
    def log(self, step, values):
        raise OSError("no network")


class Leaves(Notebook):
    """A person who presses Ctrl-C after a round."""

    def log(self, step, values):
        if step == 2:
            raise KeyboardInterrupt


def figures(path):
    """By the names that trackers get, from the files of the run: step -> name -> value."""
    found = {0: scores("validation", read_json(path / "warm_start.json")["metrics"])}
    for record in small.rounds(path):
        found[record["round"]] = {
            **{f"loss/{name}": value for name, value in record["loss"].items() if value is not None},
            **scores("validation", record["metrics"] or {}),
            **{f"bytes/{way}": count for way, count in record["bytes"].items()},
            "seconds": record["seconds"],
            "clients": len(record["clients"]),
            "failures": 0,
            "transfer": int(record["phase"] == "transfer"),
        }
    return found


def scores(split, metrics):
    return {f"{split}/{subset}/{name}": one for subset, its in metrics.items() for name, one in its.items() if isinstance(one, int | float)}


def events(path):
    """What TensorBoard shows: step -> name -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(path))
    shown.Reload()
    found = {}
    for name in shown.Tags()["scalars"]:
        for event in shown.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def test_a_tracker_of_ones_own(encoders, tmp_path):
    notebook, fails = Notebook(), Fails()
    m2fedsa.run(small.config(encoders), out=tmp_path / "run", trackers=[fails, notebook])
    assert notebook.steps == figures(tmp_path / "run")
    assert notebook.begun == [("small", 3, tmp_path / "run", None, 0)]
    result = small.result(tmp_path / "run")
    assert notebook.ended == {**scores("test", result["metrics"]), "seconds/all": result["seconds"]}
    assert notebook.closed == 1
    assert (fails.ended, fails.closed) == (None, 1)


def test_one_that_fails_is_told_of_once(encoders, tmp_path, capsys):
    m2fedsa.run(small.config(encoders), out=tmp_path / "run", trackers=[Fails()])
    said = capsys.readouterr().err
    assert said == "warning: Fails failed and is told nothing more (OSError: no network). The run goes on.\n"


def test_tensorboard_goes_on_where_the_run_does(encoders, tmp_path, monkeypatch):
    """A run that dies behind a round that does not count: what TensorBoard was told of it disappears."""
    path = tmp_path / "run"
    settings = small.write(tmp_path / "small.toml", small.tables(encoders))
    original = TensorBoard.log

    def dies(self, step, values):
        original(self, step, values)
        if step == 2:
            original(self, 3, {"loss/fused": -1.0})
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoard, "log", dies)
        assert small.call("run", settings, "--out", path, "--track", "tensorboard") == 130
    assert small.call("run", "--resume", path, "--track", "tensorboard") == 0
    shown, expected = events(path / "tensorboard"), figures(path)
    result = small.result(path)
    expected[3] |= {**scores("test", result["metrics"]), "seconds/all": result["seconds"]}
    assert shown.keys() == expected.keys()
    for step, values in expected.items():
        assert shown[step].keys() == values.keys()
        assert shown[step] == pytest.approx(values, rel=1e-6)
    assert json.loads((path / "trackers.json").read_text()) == {"0-TensorBoard": str(path / "tensorboard")}


def test_a_name_that_a_tracker_gave_comes_back(encoders, tmp_path):
    with pytest.raises(Interrupted):
        m2fedsa.run(small.config(encoders), out=tmp_path / "run", trackers=[Leaves("mine")])
    again = Notebook("mine")
    m2fedsa.run(small.config(encoders), out=tmp_path / "run", trackers=[again], resume=True)
    # another class may stand in the same place: it is no more the same tracker
    assert again.begun[0][3:] == (None, 2)
    assert set(again.steps) == {3}


@pytest.mark.usefixtures("nothing_is_trained")
def test_what_cannot_be_tracked(encoders, tmp_path, capsys, monkeypatch):
    settings = small.write(tmp_path / "small.toml", small.tables(encoders))
    said = small.refused(capsys, "run", settings, "--track", "excel", "--out", tmp_path / "run")
    assert "--track excel: there is no such tracker.\n       There are tensorboard, mlflow, wandb." in said
    monkeypatch.setattr("m2fedsa.reporting.trackers.find_spec", lambda name: None)
    said = small.refused(capsys, "run", settings, "--track", "wandb", "--out", tmp_path / "run")
    assert "the package wandb is not installed, so nothing can be tracked there.\n       Install m2fedsa[wandb]." in said
    assert not (tmp_path / "run").exists()


def test_tensorboard_without_a_directory(encoders):
    with pytest.raises(ConfigError, match=r"TensorBoard has no place for its files.*TensorBoard\(directory\)"):
        m2fedsa.run(small.config(encoders, federation__rounds=0), trackers=[TensorBoard()])


# --- those whose packages are extras --------------------------------------------------------------------------------------------------


def interrupted_and_resumed(encoders, path, tracker):
    """A run of three rounds that is left in the second and goes on; what the tracker called it before and after."""
    with pytest.raises(Interrupted):
        m2fedsa.run(small.config(encoders), out=path, trackers=[tracker(), Leaves()])
    before = read_json(path / "trackers.json")
    m2fedsa.run(small.config(encoders), out=path, trackers=[tracker()], resume=True)
    return next(iter(before.values())), next(iter(read_json(path / "trackers.json").values()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database
def test_mlflow(encoders, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    place = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    mlflow.set_tracking_uri(place)
    first, name = interrupted_and_resumed(encoders, tmp_path / "run", MLflow)
    assert first == name
    client, expected = mlflow.MlflowClient(), figures(tmp_path / "run")
    for figure in ("loss/fused", "validation/image+text/accuracy", "bytes/up"):
        told = {step: values[figure] for step, values in expected.items() if figure in values}
        history = client.get_metric_history(name, figure.replace("+", "-"))  # it takes no plus
        assert {entry.step: entry.value for entry in history} == pytest.approx(told)
    run = client.get_run(name)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/fused/accuracy"] == small.result(tmp_path / "run")["metrics"]["fused"]["accuracy"]
    assert run.data.params["federation.rounds"] == "3"


def test_weights_and_biases(encoders, tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, name = interrupted_and_resumed(encoders, tmp_path / "run", WeightsAndBiases)
    assert first == name
    logs = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(logs) == 2  # one of each process that wrote
    assert all(log.stat().st_size for log in logs)
    assert "test/fused/accuracy" in capfd.readouterr().err  # which it tells at the end
