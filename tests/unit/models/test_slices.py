"""Slices as files: each is all that its side needs, both are the whole encoder, and what is broken is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.unit.models import zoo_sight, zoo_sound, zoo_text
from tests.unit.models.tiny import encoder, inputs
from tests.unit.models.zoo import encoder as specimen_of

from m2fedsa import cutting
from m2fedsa.cutting import Choice, Cut, cut_encoder, cut_model, processor_files
from m2fedsa.errors import ConfigError, CutError, StorageError, WeightsError
from m2fedsa.models.cut import Head, plan, specify, whole
from m2fedsa.models.encoders import load
from m2fedsa.models.examples import example_for
from m2fedsa.models.quantise import HEAD_DTYPES, quantise
from m2fedsa.models.slices import load_head, load_tail, origins

ZOO = {**zoo_text.TEXT, **zoo_sight.SIGHT, **zoo_sound.SOUND}
FAMILIES = ["Roberta", "DebertaV2", "T5Encoder", "ModernBert", "ViT", "Swin", "MobileNetV2", "Wav2Vec2", "Whisper", "AST"]


def specimen(name):
    return next(one for one in ZOO.values() if one.model == name)


def cut_bert(out: Path, block: int = 1, dtype: str = "float32") -> Cut:
    return cut_model(encoder("bert"), inputs("bert"), Choice(block, dtype), out)


def source(folder: Path, **changed: object) -> None:
    path = folder / "source.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


# --- what is written ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_both_sides_from_files_are_the_whole_encoder(name, tmp_path):
    """Each loaded from a place of its own."""
    one = specimen(name)
    model, example = specimen_of(one), one.inputs()
    cut_model(model, example, Choice(len(one.blocks) // 2), tmp_path / "cut")
    at_client, at_server = (
        shutil.move(tmp_path / "cut" / side, tmp_path / place) for side, place in (("head", "client"), ("tail", "server"))
    )
    head, tail = load_head(at_client), load_tail(at_server)
    z = tail(head(example), example.get(head.mask_argument), specify(example))
    assert torch.equal(z, whole(model, example))


def test_each_file_has_its_side_s_tensors_alone(tmp_path):
    """Read by the library itself: every tensor of the model is in one of them, under its own name, with its own bits."""
    cut_bert(tmp_path / "cut", block=2)
    head, tail = (load_file(tmp_path / "cut" / side / "model.safetensors") for side in ("head", "tail"))
    state = encoder("bert").state_dict()
    assert {*head, *tail} == set(state)
    assert not {*head} & {*tail}
    assert all(torch.equal(tensor, state[name]) for name, tensor in {**head, **tail}.items())
    assert {name.split(".")[2] for name in head if name.startswith("encoder.")} == {"0", "1"}


@pytest.mark.parametrize("dtype", HEAD_DTYPES)
def test_a_head_from_a_file_has_the_bits_of_one_made_in_memory(dtype, tmp_path):
    model, example = encoder("roberta"), inputs("roberta")
    found = cut_model(model, example, Choice(1, dtype), tmp_path / "cut")
    head = Head(model, plan(model, example, 1))
    exact = head(example)
    quantise(head.encoder, dtype)
    loaded = load_head(tmp_path / "cut" / "head")
    assert torch.equal(loaded(example), head(example))
    assert found.off[0] == pytest.approx(float((head(example) - exact).norm() / exact.norm()), rel=1e-5)
    assert (found.off == (0, 0)) == (dtype == "float32")


@pytest.mark.parametrize("dtype", HEAD_DTYPES)
def test_the_library_reads_what_is_written(dtype, tmp_path):
    found = cut_bert(tmp_path / "cut", dtype=dtype)
    path = tmp_path / "cut" / "head" / "model.safetensors"
    content = sum(tensor.nbytes for tensor in load_file(path).values())
    assert 0 < found.head_bytes - content < 8_000
    assert found.head_bytes == path.stat().st_size


def test_what_the_whole_encoder_is_goes_with_each_side(tmp_path):
    found = cut_bert(tmp_path / "cut")
    parameters = sum(parameter.numel() for parameter in encoder("bert").parameters())
    head, tail = origins(tmp_path / "cut")
    assert head.parameters == tail.parameters == parameters
    assert head.bytes == 4 * parameters
    assert (
        head.flops["backward"]
        > head.flops["forward"]
        > 2 * 17 * sum(p.numel() for p in encoder("bert").encoder.parameters() if p.dim() > 1)
    )
    assert head.digest == tail.digest
    assert found.origin == head
    assert cut_model(encoder("bert"), inputs("bert", seed=3), Choice(2), tmp_path / "again").origin.digest == head.digest
    assert cut_model(encoder("roberta"), inputs("roberta"), Choice(2), tmp_path / "other").origin.digest != head.digest


def test_a_pooler_that_was_left_out_stays_out(tmp_path):
    config = transformers.RobertaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "source")
    found = cut_encoder(str(tmp_path / "source"), Choice(1), tmp_path / "cut")
    assert found.origin.absent == ("pooler",)
    assert load_tail(tmp_path / "cut" / "tail").encoder.pooler is None


def saved(folder: Path, half: bool, **options: object) -> Path:
    config = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=3, num_attention_heads=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.ViTModel(config)
    (model.bfloat16() if half else model).save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "100KB"}], ids=["one file", "shards"])
def test_folders_of_one_file_and_of_shards_in_float32_and_half(half, options, tmp_path):
    """Against the same folder, read whole and in float32."""
    folder = saved(tmp_path / "source", half, **options)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == bool(options)
    cut_encoder(str(folder), Choice(1), tmp_path / "cut")
    model = load(str(folder))
    example = example_for(model)
    head, tail = load_head(tmp_path / "cut" / "head"), load_tail(tmp_path / "cut" / "tail")
    assert {parameter.dtype for parameter in (*head.parameters(), *tail.parameters())} == {torch.float32}
    assert torch.equal(tail(head(example), None, specify(example)), whole(model, example))


def test_a_model_in_half_precision_stays_as_it_was(tmp_path):
    model = load(str(saved(tmp_path / "source", half=True)), dtype=None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut_model(model, example_for(model), Choice(1, "int8"), tmp_path / "cut")
    assert model.dtype == torch.bfloat16
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_processor_files_go_with_the_head(tmp_path):
    folder = saved(tmp_path / "source", half=False)
    for name in ("preprocessor_config.json", "tokenizer.json", "notes.md"):
        (folder / name).write_text("{}")
    assert [path.name for path in processor_files(str(folder))] == ["preprocessor_config.json", "tokenizer.json"]
    cut_encoder(str(folder), Choice(1), tmp_path / "cut")
    assert {path.name for path in (tmp_path / "cut" / "head").iterdir()} == {
        *("config.json", "model.safetensors", "plan.json", "source.json", "preprocessor_config.json", "tokenizer.json")
    }
    assert not (tmp_path / "cut" / "tail" / "tokenizer.json").exists()
    assert processor_files("random:swin-tiny") == []


# --- a cut that fails leaves nothing --------------------------------------------------------------------------------------------------


def test_a_cut_that_is_not_exact_leaves_nothing(tmp_path, monkeypatch):
    def differs(*arguments: object) -> None:
        raise CutError("they differ")

    monkeypatch.setattr(cutting, "verify", differs)
    with pytest.raises(CutError, match="they differ"):
        cut_bert(tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_changes_on_the_way_to_the_disk_is_noticed(tmp_path, monkeypatch):
    """The proof reads the files, not what was to be written."""
    real = cutting.write_slice

    def wrong(folder, model, planned, origin):
        with torch.no_grad():
            changed = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            model.embeddings.LayerNorm.bias.add_(1)
            made = real(folder, model, planned, origin)
            model.load_state_dict(changed)
        return made

    monkeypatch.setattr(cutting, "write_slice", wrong)
    with pytest.raises(CutError, match="is not the whole model"):
        cut_bert(tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m2fedsa.models.tensor_file.os.fsync", full)
    with pytest.raises(StorageError, match=r"model.safetensors: cannot be written: No space left on device"):
        cut_bert(tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_swept_away(tmp_path):
    left = tmp_path / ".cut.new" / "head"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    cut_bert(tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_a_folder_in_use_is_not_written_into(tmp_path):
    (tmp_path / "cut").mkdir()
    cut_bert(tmp_path / "cut")
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    for out in (tmp_path / "cut", tmp_path / "cut" / "head" / "plan.json"):
        with pytest.raises(ConfigError, match="is there already, and not empty"):
            cut_bert(out)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


def test_what_no_configuration_tells_of_cannot_be_cut(tmp_path):
    class Own(transformers.BertModel):
        pass

    with pytest.raises(WeightsError, match=r"Own is not a class of transformers, so that no slice of it could be loaded"):
        cut_model(Own(encoder("bert").config).eval(), inputs("bert"), Choice(1), tmp_path / "cut")
    model = transformers.BertModel(encoder("bert").config).eval()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="BertModel has a module extra that its configuration does not tell of"):
        cut_model(model, inputs("bert"), Choice(1), tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []


# --- slices that are broken -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slices(tmp_path):
    cut_bert(tmp_path / "cut")
    return tmp_path / "cut"


def test_weights_cut_short_or_altered_are_named(slices):
    path = slices / "head" / "model.safetensors"
    whole_file = path.read_bytes()
    broken = {
        "was cut short within": whole_file[:-100],
        "not a safetensors file, or was cut short": whole_file[:4],
        "its header is not that of a safetensors file": whole_file[:8] + b"#" + whole_file[9:],
        "was altered: its SHA-256 is": whole_file[:-1] + bytes([whole_file[-1] ^ 1]),
    }
    for told, content in {**broken, "was altered": whole_file + b"more"}.items():
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"^{path}: .*{told}"):
            load_head(slices / "head")
    path.unlink()
    with pytest.raises(WeightsError, match=f"^{path}: cannot be read: No such file"):
        load_head(slices / "head")


def test_a_header_with_holes_is_refused(slices):
    path = slices / "tail" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = [1]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(WeightsError, match="its header is not that of a safetensors file"):
        load_tail(slices / "tail")


def test_a_tensor_too_few_or_too_many_is_named(slices):
    path = slices / "head" / "model.safetensors"
    tensors = load_file(path)

    def rewritten(changed):
        from hashlib import sha256

        save_file(changed, path)
        source(slices / "head", weights=sha256(path.read_bytes()).hexdigest())

    rewritten({name: tensor for name, tensor in tensors.items() if name != "embeddings.LayerNorm.bias"})
    with pytest.raises(WeightsError, match=r"model.safetensors: has no tensor embeddings.LayerNorm.bias and 0 more"):
        load_head(slices / "head")
    rewritten({**tensors, "embeddings.more": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"model.safetensors: embeddings.more has no place in BertModel"):
        load_head(slices / "head")
    rewritten({**tensors, "embeddings.LayerNorm.bias": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"embeddings.LayerNorm.bias has the shape \(2,\), but BertModel needs \(64,\)"):
        load_head(slices / "head")


def test_the_plan_of_another_model_is_refused(slices, tmp_path):
    cut_model(encoder("vit"), inputs("vit"), Choice(1), tmp_path / "vit")
    shutil.copy(tmp_path / "vit" / "head" / "plan.json", slices / "head" / "plan.json")
    with pytest.raises(CutError, match=r"plan.json: is the plan of another model: BertModel has no tensor"):
        load_head(slices / "head")
    (slices / "head" / "plan.json").write_text("{}")
    with pytest.raises(CutError, match=r"plan.json: this is not the plan of a cut"):
        load_head(slices / "head")
    (slices / "head" / "plan.json").unlink()
    with pytest.raises(WeightsError, match=r"plan.json: cannot be read"):
        load_head(slices / "head")


def test_head_and_tail_must_be_of_one_cut(slices, tmp_path):
    cut_model(encoder("roberta"), inputs("roberta"), Choice(1), tmp_path / "roberta")
    cut_bert(tmp_path / "later", block=2)
    tail = slices / "tail"
    for other, told in (
        ("roberta", "head and tail are of different encoders"),
        ("later", "the head was cut after block 1, the tail after"),
    ):
        shutil.rmtree(tail)
        shutil.copytree(tmp_path / other / "tail", tail)
        with pytest.raises(WeightsError, match=told):
            origins(slices)


def test_a_side_where_the_other_is_needed(slices, tmp_path):
    with pytest.raises(WeightsError, match=r"tail: holds the tail of an encoder, but its head is needed"):
        load_head(slices / "tail")
    with pytest.raises(WeightsError, match=r"holds no slice \(source.json: No such file or directory\). `m2fedsa cut` writes heads"):
        load_head(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_says_no_origin_is_refused(slices, text):
    (slices / "head" / "source.json").write_text(text)
    with pytest.raises(WeightsError, match=r"source.json: is not what `m2fedsa cut` writes"):
        load_head(slices / "head")


def test_unknown_types_and_classes_are_refused(slices):
    """A class outside of transformers would be anybody's code."""
    source(slices / "head", head_dtype="int2")
    with pytest.raises(WeightsError, match=r"source.json: is not what `m2fedsa cut` writes \(head_dtype = 'int2'\)"):
        load_head(slices / "head")
    for kind in ("os.system", "transformers.models.bert.modeling_bert.NoModel", "transformers.models.none.Model"):
        source(slices / "head", head_dtype="float32", kind=kind)
        with pytest.raises(WeightsError, match=rf"no {kind.rpartition('.')[2]} could be built from its configuration"):
            load_head(slices / "head")
