"""Encoders and data that cannot be used are refused before anything is trained or written."""

import json
import shutil

import pytest
import torch
import transformers
from tests import worlds
from tests.integration import small
from torch import nn

import m2fedsa
from m2fedsa.config import Config
from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples
from m2fedsa.errors import ConfigError, CutError, DataError

pytestmark = pytest.mark.usefixtures("nothing_is_trained")


class OddConfig(transformers.PretrainedConfig):
    model_type = "odd"


class OddModel(transformers.PreTrainedModel):
    """Blocks in a list where no glob looks, without a known feed-forward part."""

    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.entry = nn.Linear(64, 6)
        self.storeys = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, pixel_values):
        hidden = self.entry(pixel_values.flatten(1))[:, None]
        for storey in self.storeys:
            hidden = storey(hidden)
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)


def odd():
    return OddModel(OddConfig())


def test_an_unknown_architecture_tells_what_was_found():
    settings = worlds.config(("image",))
    data = worlds.federated({"ann": (("image",), 4)}, modalities=("image",))
    with pytest.raises(CutError) as refusal:
        m2fedsa.run(settings, data=data, encoders={"image": odd()}, out="run")
    assert str(refusal.value).startswith("modalities.image: no list of blocks is known for OddModel. Tried: ")
    assert "Its module lists: storeys (2). Name them in the order in which they run" in str(refusal.value)
    with pytest.raises(CutError, match="modalities.image: no feed-forward part is known in the blocks of OddModel.*task_adapter = false"):
        m2fedsa.run(
            settings.override(['modalities.image.blocks=["storeys.0", "storeys.1"]']), data=data, encoders={"image": odd()}, out="run"
        )


def test_an_unknown_architecture_runs_with_its_blocks_named(monkeypatch, tmp_path):
    """What the message advises works."""
    monkeypatch.undo()
    settings = worlds.config(("image",)).override(
        ['modalities.image.blocks=["storeys.0", "storeys.1"]', "modalities.image.task_adapter=false"]
    )
    data = worlds.federated({"ann": (("image",), 4)}, modalities=("image",))
    result = m2fedsa.run(settings, data=data, encoders={"image": odd()}, out=tmp_path / "run")
    assert Config.from_file(tmp_path / "run" / "config.toml").modalities["image"].blocks == ("storeys.0", "storeys.1")
    assert result.ledger["image"]["client"]["frozen"]["parameters"] == 64 * 6 + 6 + 6 * 6 + 6


def test_an_unknown_architecture_in_a_folder(capsys, tmp_path, encoders):
    """transformers cannot tell its class: the message names the folder and the key."""
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path.parent / f"{tmp_path.name}-odd"
    odd().save_pretrained(folder)
    said = small.refuses(capsys, tmp_path, small.changed(encoders, **{"modalities.image.encoder": str(folder)}))
    assert f"mine.toml: modalities.image.encoder = {folder}: no encoder could be loaded from {folder}" in said
    assert "odd" in said


def test_an_encoder_of_other_inputs(capsys, tmp_path, encoders):
    said = small.refuses(capsys, tmp_path, small.changed(encoders, **{"modalities.image.encoder": str(encoders / "text")}))
    assert "mine.toml: modalities.image: BertModel does not take the inputs that the data has, per sample pixel_values (1, 8, 8)" in said
    assert said.endswith("Choose an encoder for these.")


def spoilt(encoders, tmp_path, spoil):
    """A copy of the image encoder's folder with something wrong."""
    folder = tmp_path.parent / f"{tmp_path.name}-spoilt"
    shutil.copytree(encoders / "image", folder)
    spoil(folder)
    return folder


def other_width(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "intermediate_size": 40}))


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


SPOILT = {
    "other widths": (other_width, "the weights do not fit config.json of ViTModel: 6 tensors have another shape (layers.0.mlp."),
    "a file that is cut short": (cut_short, "is broken or cut short"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no encoder could be loaded"),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "has no config.json; an encoder is a folder"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_weights_that_do_not_fit(capsys, tmp_path, encoders, case):
    spoil, told = SPOILT[case]
    folder = spoilt(encoders, tmp_path, spoil)
    said = small.refuses(capsys, tmp_path, small.changed(encoders, **{"modalities.image.encoder": str(folder)}))
    assert f"mine.toml: modalities.image.encoder = {folder}: " in said
    assert told in said


# --- data of a program ----------------------------------------------------------------------------------------------------------------


def held(labels, presence=None, modalities=("image", "text")):
    """Samples of a client; the inputs do not matter."""
    table, _ = worlds.columns(8)
    labels = torch.tensor(labels)
    if presence is None:
        presence = [[True] * len(modalities)] * len(labels)
    return InMemorySamples(
        {name: table[name] for name in modalities}, torch.arange(len(labels)), labels, torch.tensor(presence), modalities
    )


def federation(classes=("a", "b", "c"), modalities=("image", "text"), **clients):
    return FederatedData(classes, modalities, {"ann": ClientData(("image", "text"), train=held([0, 1, 2])), **clients})


EMPTY = InMemorySamples({}, torch.arange(0), torch.zeros(0, dtype=torch.int64), torch.ones(0, 2, dtype=torch.bool), ("image", "text"))
DATA = {
    "a client without samples": (
        federation(bob=ClientData(("image",))),
        "client bob has no samples. Leave the client out.",
    ),
    "a split without samples": (
        federation(bob=ClientData(("image", "text"), train=EMPTY, test=held([1]))),
        "client bob, train: there are no samples; leave the split out instead.",
    ),
    "a client without modality": (
        federation(bob=ClientData((), train=held([0]))),
        "client bob holds no modality; it needs at least one of image, text.",
    ),
    "a modality that is not the data's": (
        federation(bob=ClientData(("smell",), train=held([0]))),
        "client bob holds smell, which is not a modality of the data (image, text).",
    ),
    "modalities in another order than the data's": (
        federation(bob=ClientData(("text", "image"), train=held([0], modalities=("text", "image")))),
        "client bob holds text, image; name each once, in the order of the data: image, text.",
    ),
    "a modality twice": (
        federation(bob=ClientData(("image", "image"), train=held([0]))),
        "client bob holds image, image; name each once, in the order of the data: image.",
    ),
    "samples of other modalities than their client's": (
        federation(bob=ClientData(("image",), train=held([0]))),
        "client bob, train: the samples are of image, text, but the client holds image.",
    ),
    "labels that are no whole numbers": (
        federation(bob=ClientData(("image", "text"), train=held([0.0, 1.0]))),
        "client bob, train: labels are (2,) float32, but of a single-label task they should be (samples,) int64.",
    ),
    "presence of another form": (
        federation(bob=ClientData(("image", "text"), test=held([0, 1], [[True], [True]]))),
        "client bob, test: presence is (2, 1) bool; (2, 2) bool is needed, a column per modality.",
    ),
    "a sample without modality": (
        federation(bob=ClientData(("image", "text"), train=held([0, 1], [[True, False], [False, False]]))),
        "client bob, train, row 1: the sample has no modality; leave it out (1 such rows).",
    ),
    "fewer classes than labels": (
        federation(bob=ClientData(("image", "text"), test=held([0, 1, 3]))),
        "client bob, test, row 2: label 3, but there are 3 classes (0 … 2; -1 for no label).",
    ),
    "a label that is none": (
        federation(bob=ClientData(("image", "text"), train=held([-2]))),
        "client bob, train, row 0: label -2, but there are 3 classes (0 … 2; -1 for no label).",
    ),
    "one class": (federation(classes=("a",)), "the data has 1 class; a classifier needs two or more."),
    "nobody who trains": (
        FederatedData(("a", "b"), ("image", "text"), {"ann": ClientData(("image", "text"), test=held([0]))}),
        "no client has training samples. Give at least one client a `train`.",
    ),
    "no label at all": (
        FederatedData(("a", "b"), ("image", "text"), {"ann": ClientData(("image", "text"), train=held([-1, -1]))}),
        "no training sample of any client has a label. Transfer needs some to start from.",
    ),
    "nobody who has a modality": (
        FederatedData(("a", "b"), ("image", "text"), {"ann": ClientData(("image",), train=held([0, 1], modalities=("image",)))}),
        "no client has a sample of modality text. Leave the modality out of data and settings.",
    ),
    "a name that is no file's": (
        federation(**{"../bob": ClientData(("image", "text"), train=held([0]))}),
        "client '../bob': a client's name is letters, digits, '.', '_' and '-', first a letter or digit.",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data(tmp_path, case):
    data, said = DATA[case]
    with pytest.raises(DataError) as refusal:
        m2fedsa.run(worlds.config(("image", "text")), data=data, encoders=worlds.encoders(("image", "text")), out=tmp_path / "run")
    assert str(refusal.value) == said
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_for_no_modality():
    models = worlds.encoders(("image", "text"))
    with pytest.raises(ConfigError, match="encoders: imgae is not a modality of these settings. Did you mean image?"):
        m2fedsa.run(worlds.config(("image", "text")), data=federation(), encoders={**models, "imgae": models["image"]})
