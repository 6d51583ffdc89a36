"""The model card of an exported run: what it is, how good it was, how to call it, what it was trained on and what it is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2fedsa.reporting.summary import NAMES, holdings, samples
from m2fedsa.reporting.units import count, plural

if TYPE_CHECKING:
    from m2fedsa.models.plan import Plan
    from m2fedsa.reporting.files import RunFiles
    from m2fedsa.trained import TrainedModel

_OURS = "m2fedsa_tabular"
"""Type of the one encoder that transformers does not know by itself."""
_SAYS = {
    "single_label": 'print(model.classes[int(logits["fused"].argmax())])',
    "multi_label": 'print([name for name, one in zip(model.classes, logits["fused"][0]) if one > 0])',
    "regression": 'print(dict(zip(model.classes, model.answers(logits["fused"])[0].tolist())))  # in the units of the labels',
}
"""kind of task -> what is told of the first sample"""
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
"""Files of which one lies with every text encoder that has its tokenizer."""
_MANY = 12
"""Classes that are named one by one."""


def model_card(model: "TrainedModel", files: "RunFiles", encoders: Path) -> str:
    """README.md of the export, with the metadata that the Hugging Face hub reads at its head. encoders: the folder where they lie."""
    parts = [
        _metadata(files),
        f"# {files.config.name}\n",
        _what(model, files),
        _use(model, encoders),
        _results(files),
        _training(files),
        _LIMITS,
    ]
    return "\n".join(parts)


def _metadata(files: "RunFiles") -> str:
    """No licence: that of the encoders and of the data decides, and neither is known here."""
    bases = [name for name in map(_named, _encoders(files)) if "/" in name]
    lines = ["---", "library_name: m2fedsa", "tags:", "- multimodal", "- federated-learning", "- split-learning", "- adapters"]
    if bases:
        lines += ["base_model:", *(f"- {name}" for name in dict.fromkeys(bases))]
    return "\n".join([*lines, "---", ""])


def _encoders(files: "RunFiles") -> list[str]:
    return [one.encoder for one in files.config.modalities.values()]


def _named(encoder: str) -> str:
    """A name on the hub or of the package as it is; of a folder its own name alone, since where it lay is nobody's business."""
    path = Path(encoder).expanduser()
    return encoder if ":" in encoder or (len(path.parts) <= 2 and not path.is_absolute() and not path.is_dir()) else path.name


def _what(model: "TrainedModel", files: "RunFiles") -> str:
    rows = ["| modality | encoder | adapters |", "| --- | --- | --- |"]
    for name in model.modalities:
        settings, plan = files.config.modalities[name], model.whole(name).plan
        places = [f"after block {plan.block} of {plan.blocks}"] if settings.modality_adapter else []
        places += ["beside the last feed-forward part"] if settings.task_adapter else []
        kind = type(model.whole(name).model).__name__
        rows.append(f"| `{name}` | {_named(settings.encoder)} ({kind}) | {', '.join(places) or 'none'} |")
    trained = sum(tensor.numel() for tensor in model.trained_tensors().values())
    frozen = sum(parameter.numel() for name in model.modalities for parameter in model.whole(name).model.parameters())
    classes = ", ".join(f"`{name}`" for name in model.classes[:_MANY]) + (" …" if len(model.classes) > _MANY else "")
    takes, gives = plural(len(model.modalities), "modality", "modalities"), _gives(model)
    told = [
        f"Frozen encoders ({count(frozen)} parameters) with adapters, a fusion network and classifiers ({count(trained)} parameters)",
        "that were fine-tuned by M²FedSA, federated split fine-tuning, with the library m2fedsa. It takes any subset of",
        f"{takes} and gives {gives}: {classes}.",
    ]
    return "\n".join([*told, "", *rows, ""])


def _gives(model: "TrainedModel") -> str:
    number, kind = len(model.classes), model.blueprint.task.kind
    if kind == "regression":
        return plural(number, "number")
    return f"{'logits over' if kind == 'single_label' else 'log-odds of each of'} {plural(number, 'class', 'classes')}"


def _use(model: "TrainedModel", encoders: Path) -> str:
    made = {name: _input(model.whole(name).plan, encoders / name) for name in model.modalities}
    libraries = [
        f"import {name}" for name in ("PIL.Image", "torch", "transformers") if any(name.split(".")[0] in one for one in made.values())
    ]
    code = [
        *libraries,
        "",
        "import m2fedsa",
        "",
        'model = m2fedsa.load(".")  # this folder',
        "inputs = {",
        *(f'    "{name}": {one},' for name, one in made.items()),
        "}",
        "logits = model(inputs)  # leave out a modality that you do not have",
        _SAYS[model.blueprint.task.kind],
    ]
    told = [
        "`logits` has one entry per modality beside `fused`: what that modality says alone; `model.answers` turns logits into",
        "probabilities, or into numbers in the units of the labels. What was trained lies in `adapters.safetensors`, and `model.json`",
        "says where in the encoders it belongs.",
    ]
    return "\n".join(["## Use", "", "```python", *code, "```", "", *told, "", *_encoders_alone(model), ""])


def _encoders_alone(model: "TrainedModel") -> list[str]:
    """How to read an encoder without what was trained."""
    ours = {name for name in model.modalities if model.whole(name).plan.model_type == _OURS}
    lines = ["Each folder in `encoders/` is an encoder as it was before, which transformers reads:", "", "```python", "import transformers"]
    if ours:
        lines += ["", "import m2fedsa.models.tabular  # tells transformers of encoders of records, which it does not know by itself"]
    lines.append("")
    lines += [f'{name} = transformers.AutoModel.from_pretrained("encoders/{name}")' for name in model.modalities]
    return [*lines, "```"]


def _input(plan: "Plan", folder: Path) -> str:
    """An expression that makes the input of one sample, by the processor that lies with the encoder; plain numbers where there is none."""
    where = f'from_pretrained("encoders/{folder.name}"'
    settings = folder / "preprocessor_config.json"
    if any((folder / name).is_file() for name in TOKENIZERS):
        return f'transformers.AutoTokenizer.{where})(["a text of yours"], return_tensors="pt")'
    if settings.is_file() and "image_processor_type" in settings.read_text(encoding="utf-8"):
        return f'transformers.AutoImageProcessor.{where}, backend="pil")(PIL.Image.new("RGB", (224, 224)), return_tensors="pt")'
    made = []
    for argument, (shape, dtype) in plan.inputs.items():
        sizes = ", ".join(map(str, (1, *shape[1:])))
        made.append(f'"{argument}": torch.randn({sizes})' if dtype.is_floating_point else f'"{argument}": torch.ones({sizes}).long()')
    return f"{{{', '.join(made)}}}"


def _results(files: "RunFiles") -> str:
    if files.result is None:
        return "## Results\n\nThe run had not ended when it was exported: nothing was measured on test samples.\n"
    shown = [name for name in NAMES if any(scores.get(name) is not None for scores in files.result["metrics"].values())]
    lines = [f"| modalities | {' | '.join(NAMES[name] for name in shown)} | samples |", "| --- |" + " --- |" * (len(shown) + 1)]
    for subset, scores in files.result["metrics"].items():
        cells = [_cell(scores.get(name)) for name in shown]
        lines.append(f"| {subset} | {' | '.join(cells)} | {scores.get('samples', '')} |")
    return "\n".join(["## Results", "", "On the run's own test samples; `fused`: all modalities that a sample has.", "", *lines, ""])


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"


def _training(files: "RunFiles") -> str:
    assert files.facts is not None
    rounds = len(files.rounds)
    digest = f" Digest of all trained tensors: `{files.result['digest']}`." if files.result else ""
    notes: Sequence[str] = files.facts.get("notes", [])
    lines = [f"{holdings(files.facts).capitalize()}; {samples(files.facts)}; {plural(rounds, 'round')}.{digest}"]
    return "\n".join(["## Training", "", *lines, *(f"- {note}" for note in notes), ""])


_LIMITS = """## Limits

The figures above are of one run and of its own test samples. Nothing is known here of how the model treats other data, of its biases, or
of what the data or the encoders allow: their licences and limits are its own. Federated training keeps samples where they are; it does not
keep a model from remembering some of them.
"""
