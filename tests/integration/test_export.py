"""A trained run as an ordinary folder: its logits are those that the federation computed when it evaluated."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests import worlds
from tests.integration import small
from torch.testing import assert_close

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.sources import load_data
from m2fedsa.errors import ConfigError, DataError, RunDirectoryError, WeightsError
from m2fedsa.exported import export
from m2fedsa.metrics import ClassTally

SUBSETS = ("fused", "image", "audio", "text", "image+audio", "image+text", "audio+text", "image+audio+text")


@pytest.fixture(scope="module")
def federation():
    """Six clients in memory, of which `tst` has twelve complete samples to test on; and some of a client whose samples lack modalities."""
    return worlds.federated()


@pytest.fixture(scope="module")
def trained(federation, tmp_path_factory):
    """The directory of a run, and the logits that the federation computed when it ended: subset -> (12, K)."""
    directory, seen = tmp_path_factory.mktemp("trained") / "run", []
    settings = worlds.config(transfer__start=2, federation__rounds=2, federation__warm_start=True, evaluation__every=100)
    with pytest.MonkeyPatch.context() as patch:
        original = ClassTally.of.__func__
        patch.setattr(
            ClassTally, "of", classmethod(lambda kind, logits, *more: seen.append(logits.clone()) or original(kind, logits, *more))
        )
        m2fedsa.run(settings, out=directory, data=federation, encoders=worlds.encoders())
    # The fed server looks at the form of an answer by that of one sample.
    of_all = [logits for logits in seen if len(logits) == 12]
    return directory, dict(zip(SUBSETS, of_all[-len(SUBSETS) :], strict=True))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained[0], tmp_path_factory.mktemp("exported") / "model", encoders=worlds.encoders())


def of_tests(federation, *modalities):
    samples = federation.clients["tst"].test
    return {name: samples.inputs(name, torch.arange(12)) for name in modalities or worlds.MODALITIES}


@pytest.mark.parametrize("where", ["run", "export"])
def test_logits_are_those_of_the_federation(trained, exported, federation, where):
    directory, theirs = trained
    model = m2fedsa.load(exported) if where == "export" else m2fedsa.load(directory, encoders=worlds.encoders())
    for subset in SUBSETS:
        modalities = () if subset == "fused" else subset.split("+")
        logits = model(of_tests(federation, *modalities))
        ours = logits[subset if subset in worlds.MODALITIES else "fused"]
        assert theirs[subset].shape == (12, len(worlds.CLASSES))
        assert float((ours - theirs[subset]).abs().max()) <= 1e-5, subset
        assert float(theirs[subset].std()) > 0.1


def test_samples_that_lack_modalities(exported, federation):
    """Each as if it were alone with what it has."""
    model, samples = m2fedsa.load(exported), federation.clients["bob"].train
    presence = {name: samples.presence[:, place] for place, name in enumerate(worlds.MODALITIES)}
    inputs = {name: samples.inputs(name, mask.nonzero().squeeze(1)) for name, mask in presence.items()}
    together = model(inputs, presence)
    assert not all(bool(mask.all()) for mask in presence.values())
    for row in range(10):
        alone = model({name: samples.inputs(name, torch.tensor([row])) for name, mask in presence.items() if mask[row]})
        assert_close(together["fused"][row], alone["fused"][0], rtol=1e-5, atol=1e-5)
        for name, mask in presence.items():
            if mask[row]:
                assert_close(together[name][row], alone[name][0], rtol=1e-5, atol=1e-5)
            else:
                assert bool(together[name][row].isnan().all())


def test_encoders_are_ordinary_ones(exported):
    """transformers reads them by itself, with the numbers of the run's; what trained lies beside them."""
    for name, model in worlds.encoders().items():
        folder = exported / "encoders" / name
        plain = transformers.AutoModel.from_pretrained(folder).state_dict()
        assert all(torch.equal(plain[key], tensor) for key, tensor in model.state_dict().items())
    tensors = m2fedsa.load(exported).trained_tensors()
    assert tensors["image.ma.down.weight"].shape == (6, 16)
    assert tensors["fused.classifier.weight"].shape == (4, 8)


def test_nothing_tells_where_things_lay(exported, trained):
    told = "".join((exported / name).read_text() for name in ("README.md", "model.json", "settings.toml"))
    assert str(trained[0].parent) not in told
    assert "/tmp" not in told


def test_the_model_card(exported, trained, monkeypatch, capsys):
    card, result = (exported / "README.md").read_text(), small.result(trained[0])
    assert card.startswith("---\nlibrary_name: m2fedsa\n")
    scores = result["metrics"]["image+text"]
    assert f"| image+text | {scores['accuracy']:.3f} | {scores['uar']:.3f} | {scores['macro_f1']:.3f} | {scores['auc']:.3f} | 12 |" in card
    assert result["digest"] in card
    assert "| `audio` | object (ASTModel) | after block 2 of 3, beside the last feed-forward part |" in card
    lines = card.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 11
    monkeypatch.chdir(exported)
    exec(lines, {})
    assert capsys.readouterr().out.strip() in worlds.CLASSES


def test_a_model_is_told_nonsense(exported, federation):
    model, inputs = m2fedsa.load(exported), of_tests(federation)
    for given, said in (
        ({"video": inputs["image"]}, "the model has the modalities image, audio, text, but was given video"),
        ({}, "but was given none"),
        ({**inputs, "text": {name: value[:3] for name, value in inputs["text"].items()}}, "say with `presence`"),
    ):
        with pytest.raises(DataError, match=said):
            model(given)
    with pytest.raises(DataError, match="2 samples are said to have image, but 12 rows of it were given"):
        model({"image": inputs["image"]}, {"image": torch.arange(12) < 2})


# --- runs of other kinds --------------------------------------------------------------------------------------------------------------


def final_logits(monkeypatch, settings, directory):
    """Run settings; the fused logits of the last evaluation on test samples, per client in order, and the samples."""
    seen = []
    original = ClassTally.of.__func__
    monkeypatch.setattr(
        ClassTally, "of", classmethod(lambda kind, logits, *more: seen.append(logits.clone()) or original(kind, logits, *more))
    )
    m2fedsa.run(settings, out=directory)
    return seen


@pytest.mark.parametrize("kind", ["int8", "folder in int8", "trained"])
def test_heads_in_few_bits_and_encoders_that_were_cut(encoders, tmp_path, monkeypatch, kind):
    """In one piece an encoder has the numbers that its head computed with, and those that it was trained to."""
    tables = small.tables(encoders)
    tables |= {"averaging": {"rules": []}, "federation": {"rounds": 1}}
    tables["modalities"]["image"] |= {"head_dtype": "bfloat16", "modality_adapter": False, "task_adapter": False}
    if kind == "trained":
        tables["modalities"]["image"] |= {"head_dtype": "float32", "frozen": False}
        tables["modalities"]["text"] |= {"frozen": False}
    elif kind == "int8":
        tables["modalities"]["text"]["head_dtype"] = "int8"
    else:
        assert small.call("cut", encoders / "text", "--block", 1, "--out", tmp_path / "text", "--head-dtype", "int8") == 0
        tables["modalities"]["text"]["encoder"] = str(tmp_path / "text")
    settings = Config.from_mapping(tables)
    seen = final_logits(monkeypatch, settings, tmp_path / "run")
    fused, image, text, both = [logits for logits in seen if len(logits) > 1][-4:]
    data = load_data(settings.data, settings.seed)
    (test,) = [client.test for client in data.clients.values() if client.test is not None]
    inputs = {name: test.inputs(name, torch.arange(len(test.labels))) for name in ("image", "text")}
    for model in (m2fedsa.load(tmp_path / "run"), m2fedsa.load(export(tmp_path / "run", tmp_path / "out"))):
        logits = model(inputs)
        for ours, theirs in ((logits["fused"], fused), (logits["fused"], both), (logits["image"], image), (logits["text"], text)):
            assert float((ours - theirs).abs().max()) <= 1e-5


def test_a_client_with_tensors_of_its_own(uninterrupted, tmp_path):
    """Where rules keep tensors with each client, there is a model per client and none for all."""
    with pytest.raises(ConfigError, match=r"keeps fused.classifier.bias and 7 more with each client.*Name a client.*client-00"):
        export(uninterrupted, tmp_path / "out")
    with pytest.raises(ConfigError, match="client nobody has no tensors of its own"):
        export(uninterrupted, tmp_path / "out", "nobody")
    found = {}
    for name in ("client-00", "client-01"):
        (file,) = (uninterrupted / "checkpoint" / "clients" / name).glob("*.safetensors")
        model = m2fedsa.load(export(uninterrupted, tmp_path / name, name))
        own = load_file(file)
        found[name] = model.trained_tensors()
        for modality in model.modalities:
            assert torch.equal(found[name][f"{modality}.classifier.weight"], own[f"{modality}.classifier.weight"])
        assert model.modalities == tuple(json.loads((uninterrupted / "clients.json").read_text())["clients"][name]["modalities"])
    assert any(not torch.equal(found["client-00"][name], found["client-01"][name]) for name in found["client-00"] if "ta.up" in name)
    assert not (tmp_path / "out").exists()


def test_the_command(trained, uninterrupted, tmp_path, capsys):
    assert small.call("export", uninterrupted, "--client", "client-00", "--out", tmp_path / "model") == 0
    assert f"{tmp_path / 'model'}" in capsys.readouterr().out
    assert "is there already, and not empty" in small.refused(capsys, "export", uninterrupted, "--out", tmp_path / "model")
    said = small.refused(capsys, "export", trained[0], "--out", tmp_path / "other")
    assert "modalities.image.encoder is an object that a program passed to the run.\n       Pass it again: m2fedsa.load(" in said
    assert "no such directory" in small.refused(capsys, "export", tmp_path / "nowhere", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_altered_files(exported, trained, tmp_path):
    altered = shutil.copytree(exported, tmp_path / "altered")
    content = (altered / "adapters.safetensors").read_bytes()
    (altered / "adapters.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="is not what `m2fedsa export` writes"):
        m2fedsa.load(altered)
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "checkpoint" / "manifest.json").unlink()
    with pytest.raises(RunDirectoryError, match="has no checkpoint yet"):
        m2fedsa.load(run, encoders=worlds.encoders())
