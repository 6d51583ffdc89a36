import functools
from dataclasses import replace

import pytest
import torch
from tests import worlds

from m2fedsa.assembly import Extensions, assemble, cpu_threads
from m2fedsa.averaging import weighted_mean
from m2fedsa.config import Config
from m2fedsa.cutting import Choice, cut_model
from m2fedsa.data.samples import ClientData, FederatedData
from m2fedsa.errors import ConfigError, CutError, WeightsError
from m2fedsa.ledger import ledger
from m2fedsa.losses import step_loss

MODALITIES = ("image", "text")


def data(**clients):
    return worlds.federated(clients or {"ann": (MODALITIES, 6), "bob": (("text",), 5)}, modalities=MODALITIES)


def own_loss(predictions, phase, weights):
    return step_loss(predictions, phase, weights)


class OwnSampler:
    def __call__(self, round_number, eligible, number, generator):
        return [eligible[0].name]


def test_settings_name_what_was_passed():
    settings = Config.from_mapping(
        {"modalities": {"image": {"encoder": "embedded:digits-image"}, "text": {"encoder": "embedded:digits-text"}}}
    )
    told = Extensions(data(), {"text": object()}, loss=own_loss, sampler=OwnSampler()).named_in(settings)
    assert settings.differences(told) == [
        "data.clients: 25 -> 2",
        "data.source: 'digits' -> 'object'",
        "modalities.text.encoder: 'embedded:digits-text' -> 'object'",
        f"objects.loss: unset -> '{__name__}.own_loss'",
        f"objects.sampler: unset -> '{__name__}.OwnSampler'",
    ]
    assert Extensions().named_in(settings) == settings
    assert Extensions(loss=step_loss, average=weighted_mean).named_in(settings) == settings, "the specification's own parts are not told"
    assert Extensions(loss=functools.partial(own_loss)).named_in(settings).objects.loss == "functools.partial"


def test_named_parts_must_be_there():
    named = worlds.config(MODALITIES).override(["objects.average=study.median"])
    with pytest.raises(ConfigError, match=r'^objects.average = "study.median", but it was not passed. Call m2fedsa.run\(config, average='):
        Extensions(data()).check(named)
    with pytest.raises(ConfigError, match="objects.average"):
        Extensions(data(), average=own_loss).check(named)
    Extensions(data()).check(worlds.config(MODALITIES))


def test_modalities_stand_in_the_order_of_the_data():
    """Not in that of the settings: who writes TOML need not know it."""
    settings = Config.from_mapping(
        {**worlds.config(MODALITIES).model_dump(), "modalities": dict(reversed(worlds.config(MODALITIES).modalities.items()))}
    )
    parties = assemble(settings, Extensions(data(), worlds.encoders(MODALITIES)))
    assert parties.blueprint.modalities == MODALITIES
    assert [client.name for client in parties.federation.clients()] == sorted(data().clients)


def test_the_cut_is_tried_on_samples_that_have_the_modality():
    """Whoever comes first may lack it."""
    held = data(ann=(("text",), 4), bob=(("image",), 4))
    parties = assemble(worlds.config(MODALITIES), Extensions(held, worlds.encoders(MODALITIES)))
    assert set(parties.measured) == set(MODALITIES)
    assert all(len(value) == 1 for one in parties.measured.values() for value in one.example.values())


def test_text_leaves_unread_only_where_that_is_said():
    """Pictures may be cut before the first block; text needs the explicit flag."""
    before = {"modalities__image__block": 0, "modalities__text__block": 0}
    with pytest.raises(CutError, match=r"^modalities.text.block = 0 would send .* set readable_text = true\.$"):
        assemble(worlds.config(MODALITIES, **before), Extensions(data(), worlds.encoders(MODALITIES)))
    said = worlds.config(MODALITIES, **before, modalities__text__readable_text=True)
    parties = assemble(said, Extensions(data(), worlds.encoders(MODALITIES)))
    assert parties.shared.heads["text"].plan.block == 0


def test_encoders_are_frozen_and_left_whole():
    models = worlds.encoders(MODALITIES)
    before = {name: {key: value.clone() for key, value in model.state_dict().items()} for name, model in models.items()}
    assemble(worlds.config(MODALITIES), Extensions(data(), models))
    for name, model in models.items():
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items())


def test_each_party_keeps_its_own_place(tmp_path):
    parties = assemble(worlds.config(MODALITIES), Extensions(data(), worlds.encoders(MODALITIES)))
    assert parties.coordination.store is None
    parties.keep_in(tmp_path)
    assert parties.coordination.store.directory == tmp_path / "main_server"
    assert parties.shared.checkpoint == tmp_path / "clients"
    assert not list(tmp_path.iterdir())


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with cpu_threads(3):
        assert torch.get_num_threads() == 3
        with cpu_threads(0):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), cpu_threads(2):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_a_client_that_only_evaluates_takes_no_part_in_sampling():
    samples = data().clients["ann"].train
    held = FederatedData(
        worlds.CLASSES, MODALITIES, {"ann": ClientData(MODALITIES, train=samples), "eva": ClientData(MODALITIES, test=samples)}
    )
    parties = assemble(worlds.config(MODALITIES), Extensions(held, worlds.encoders(MODALITIES)))
    plan, tasks = parties.fed_server.begin_round()
    assert list(plan.roster) == ["ann"]
    assert [task.client for task in tasks] == ["ann"]
    with pytest.raises(ConfigError, match="federation.clients_per_round = 2, but 1 clients have training samples."):
        assemble(worlds.config(MODALITIES, federation__clients_per_round=2), Extensions(held, worlds.encoders(MODALITIES)))


def test_a_round_takes_no_more_clients_than_can_learn():
    """Whoever has unlabelled samples alone learns nothing before the transfer phase."""
    given = data()
    unlabelled = replace(given.clients["bob"].train, labels=torch.full((5,), -1))
    given = replace(given, clients={**given.clients, "bob": replace(given.clients["bob"], train=unlabelled)})
    parties = assemble(worlds.config(MODALITIES), Extensions(given, worlds.encoders(MODALITIES)))
    assert parties.fed_server.candidates() == ["ann"]
    with pytest.raises(ConfigError, match="federation.min_clients = 2, but 1 clients have training samples with labels."):
        assemble(worlds.config(MODALITIES, federation__min_clients=2), Extensions(given, worlds.encoders(MODALITIES)))


# --- encoders that were cut before ----------------------------------------------------------------------------------------------------


EXAMPLES = {name: data().clients["ann"].train.inputs(name, torch.arange(2)) for name in MODALITIES}


def cut_up(folder, dtype="float32", block=1):
    """Both encoders, cut into folders."""
    for name, model in worlds.encoders(MODALITIES).items():
        cut_model(model, EXAMPLES[name], Choice(block, dtype), folder / name)
    return {f"modalities__{name}__encoder": str(folder / name) for name in MODALITIES}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_cut_folder_is_the_encoder_that_was_cut(dtype, tmp_path):
    """Same widths, same ledger, same bits at both ends, with the whole encoder never at hand."""
    folders = cut_up(tmp_path, dtype)
    dtypes = {f"modalities__{name}__head_dtype": dtype for name in MODALITIES}
    here = assemble(worlds.config(MODALITIES, **dtypes), Extensions(data(), worlds.encoders(MODALITIES)))
    there = assemble(worlds.config(MODALITIES, **folders), Extensions(data()))
    assert ledger(there.blueprint, there.measured) == ledger(here.blueprint, here.measured)
    for name in MODALITIES:
        assert torch.equal(there.shared.heads[name](EXAMPLES[name]), here.shared.heads[name](EXAMPLES[name]))
        assert there.blueprint.widths[name] == here.blueprint.widths[name]
    assemble(worlds.config(MODALITIES, **folders, **dtypes), Extensions(data()))


def test_few_bits_show_in_the_ledger_of_the_client_alone():
    found = {}
    for dtype in ("float32", "int8"):
        parties = assemble(worlds.config(MODALITIES, modalities__text__head_dtype=dtype), Extensions(data(), worlds.encoders(MODALITIES)))
        found[dtype] = ledger(parties.blueprint, parties.measured)
    assert found["int8"]["image"] == found["float32"]["image"]
    text = {dtype: entry["text"] for dtype, entry in found.items()}
    assert text["int8"]["client"]["frozen"]["parameters"] == text["float32"]["client"]["frozen"]["parameters"]
    assert text["int8"]["client"]["frozen"]["bytes"] < 0.5 * text["float32"]["client"]["frozen"]["bytes"]
    for side in ("server", "whole", "bytes"):
        assert text["int8"][side] == text["float32"][side]


def test_settings_and_a_cut_folder_must_agree(tmp_path):
    folders = cut_up(tmp_path, "int8")
    wrong = {
        "modalities__text__block=2": r"^modalities.text.block = 2, but .*text was cut after block 1. Set block = 1, or cut",
        "modalities__text__head_dtype=int4": r'^modalities.text.head_dtype = "int4", but the head in .*text is in int8',
        "modalities__text__keep=['encoder']": r"^modalities.text.keep = \['encoder'\], but .* is cut already",
        "modalities__text__revision=v1": r'^modalities.text.revision = "v1", but only an encoder from the hub has one',
    }
    for setting, told in wrong.items():
        settings = worlds.config(MODALITIES, **folders).override([setting.replace("__", ".")])
        with pytest.raises(ConfigError, match=told):
            assemble(settings, Extensions(data()))


def test_a_cut_folder_must_be_whole(tmp_path):
    folders = cut_up(tmp_path)
    (tmp_path / "image" / "tail" / "source.json").unlink()
    with pytest.raises(WeightsError, match=r"^modalities.image.encoder = .*image/tail: holds no slice"):
        assemble(worlds.config(MODALITIES, **folders), Extensions(data()))


def test_a_cut_folder_must_take_the_inputs_that_the_data_has(tmp_path):
    folders = cut_up(tmp_path)
    swapped = {"modalities__image__encoder": folders["modalities__text__encoder"]}
    with pytest.raises(CutError, match=r"^modalities.image: BertModel does not take the inputs that the data has"):
        assemble(worlds.config(MODALITIES, **{**folders, **swapped}), Extensions(data()))


def test_a_mask_that_the_cut_never_saw_is_told(tmp_path):
    bare = {"input_ids": EXAMPLES["text"]["input_ids"]}
    cut_model(worlds.encoders(MODALITIES)["text"], bare, Choice(1), tmp_path / "text")
    settings = worlds.config(MODALITIES, modalities__text__encoder=str(tmp_path / "text"))
    with pytest.raises(CutError, match=r"^modalities.text: the data has an attention_mask, but .* was traced without one"):
        assemble(settings, Extensions(data(), {"image": worlds.encoders(MODALITIES)["image"]}))


def test_text_from_a_cut_folder_leaves_unread_too(tmp_path):
    folders = cut_up(tmp_path, block=0)
    settings = worlds.config(MODALITIES, **folders, modalities__image__block=0, modalities__text__block=0)
    with pytest.raises(CutError, match=r"^modalities.text.block = 0 would send"):
        assemble(settings, Extensions(data()))
    assemble(settings.override(["modalities.text.readable_text=true"]), Extensions(data()))
