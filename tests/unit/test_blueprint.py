import pytest
import torch
from torch import nn

from m2fedsa.blueprint import Blueprint, Parts, Widths, client_parts, initial_client_tensors, initial_server_tensors, server_parts
from m2fedsa.config import Config
from m2fedsa.errors import WeightsError
from m2fedsa.models.adapter import Classifier, Dropout

R, F, K = 5, 8, 3
WIDTHS = {"image": Widths(16, -1, 14, 15, -1, 17), "text": Widths(12, -1, 11, 10, -1, 9)}
"""All different, so that no two can be mistaken for each other."""


def blueprint(**tables):
    modality = {"encoder": "x", "adapter_width": R}
    values = {"modalities": {"image": modality, "text": modality}, "fusion": {"width": F, "heads": 2, "feed_forward": 6}, **tables}
    return Blueprint(Config.from_mapping(values), WIDTHS, K)


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_what_a_client_holds():
    expected = {"fused.classifier.weight": (K, F), "fused.classifier.bias": (K,)}
    for name, one in WIDTHS.items():
        expected |= {
            f"{name}.ma.down.weight": (R, one.head),
            f"{name}.ma.down.bias": (R,),
            f"{name}.ma.update.weight": (R, R),
            f"{name}.ma.update.bias": (R,),
            f"{name}.ma.up.weight": (one.head, R),
            f"{name}.ma.up.bias": (one.head,),
            f"{name}.classifier.weight": (K, one.pooled),
            f"{name}.classifier.bias": (K,),
        }
    assert shapes(client_parts(blueprint(), ("image", "text")).tensors) == expected
    alone = {name: shape for name, shape in expected.items() if not name.startswith("image.")}
    assert shapes(client_parts(blueprint(), ("text",)).tensors) == alone


def test_what_the_main_server_holds():
    found = shapes(server_parts(blueprint()).tensors)
    for name, one in WIDTHS.items():
        assert found[f"{name}.ta.down.weight"] == (R, one.task_in)
        assert found[f"{name}.ta.up.weight"] == (one.task_out, R)
        assert found[f"{name}.token.weight"] == (F, one.pooled)
        assert found[f"{name}.token.bias"] == (F,)
        assert found[f"{name}.bilinear.weight"] == (F, one.pooled)
    assert {name.partition(".")[0] for name in found} == {"image", "text", "fusion"}


def test_what_is_switched_off_is_not_there():
    modality = {"encoder": "x", "adapter_width": R, "modality_adapter": False, "task_adapter": False}
    made = blueprint(
        modalities={"image": modality, "text": {**modality, "modality_adapter": True}}, fusion={"width": F, "heads": 2, "bilinear": False}
    )
    names = [*client_parts(made, ("image", "text")).tensors, *server_parts(made).tensors]
    assert not [name for name in names if name.startswith("image.ma.") or ".ta." in name or "bilinear" in name]
    assert "text.ma.up.weight" in names


def test_the_beginning():
    """MA, TA and the classifiers put out zero; `update` is the same in all modalities; another seed begins elsewhere."""
    made = {**initial_client_tensors(blueprint()), **initial_server_tensors(blueprint())}
    assert all(not tensor.any() for name, tensor in made.items() if ".up." in name or ".classifier." in name)
    for part in ("ma", "ta"):
        assert torch.equal(made[f"image.{part}.update.weight"], made[f"text.{part}.update.weight"])
        assert made[f"image.{part}.update.weight"].any()
        assert made[f"image.{part}.down.weight"].any()
    again = {**initial_client_tensors(blueprint()), **initial_server_tensors(blueprint())}
    other = {**initial_client_tensors(blueprint(seed=1)), **initial_server_tensors(blueprint(seed=1))}
    assert all(torch.equal(made[name], again[name]) for name in made)
    assert not torch.equal(made["image.ma.down.weight"], other["image.ma.down.weight"])
    assert not torch.equal(made["image.token.weight"], other["image.token.weight"])


def test_the_beginning_is_nobodys_randomness():
    """Neither global randomness nor the other modalities of the run decide a tensor's start."""
    torch.manual_seed(1)
    first = initial_server_tensors(blueprint())
    torch.rand(3)
    assert all(torch.equal(value, first[name]) for name, value in initial_server_tensors(blueprint()).items())
    alone = Blueprint(
        Config.from_mapping(
            {
                "modalities": {"text": {"encoder": "x", "adapter_width": R}},
                "fusion": {"width": F, "heads": 2, "feed_forward": 6},
            }
        ),
        {"text": WIDTHS["text"]},
        K,
    )
    assert all(torch.equal(value, first[name]) for name, value in initial_server_tensors(alone).items() if name.startswith("text."))


def parts():
    return Parts({"a.ma": nn.Linear(2, 2), "a.classifier": Classifier(2, 2, 0.5), "b.classifier": Classifier(2, 2, 0.5)})


def test_load_names_what_does_not_fit():
    made = parts()
    values = {name: torch.full_like(parameter, 3.0) for name, parameter in made.tensors.items()}
    made.load({**values, "more": torch.zeros(1)})
    assert all((parameter == 3.0).all() for parameter in made.tensors.values())
    with pytest.raises(WeightsError, match=r"tensor a.ma.weight is missing; the settings of this run want \(2, 2\)"):
        made.load({name: value for name, value in values.items() if name != "a.ma.weight"})
    with pytest.raises(WeightsError, match=r"tensor a.ma.bias has shape \(3,\); the settings of this run want \(2,\)"):
        made.load({**values, "a.ma.bias": torch.zeros(3)})


def test_loading_copies():
    made = parts()
    values = {name: torch.ones_like(parameter) for name, parameter in made.tensors.items()}
    made.load(values)
    with torch.no_grad():
        made.tensors["a.ma.weight"].add_(1)
    assert values["a.ma.weight"].max() == 1


def test_frozen_tensors_get_no_gradient():
    made = parts()
    made.freeze(["a.classifier."])
    assert {name for name, parameter in made.tensors.items() if not parameter.requires_grad} == {"a.classifier.weight", "a.classifier.bias"}
    made.modules["a.ma"](torch.ones(1, 2)).sum().backward()
    assert set(made.trained()) == {"a.ma.weight", "a.ma.bias"}
    made.clear()
    assert made.trained() == {}
    assert all(parameter.grad is None for parameter in made.tensors.values())
    made.freeze([])
    assert all(parameter.requires_grad for parameter in made.tensors.values())


def test_every_dropout_has_a_generator_of_its_own():
    def draws(*names):
        made = parts()
        made.training(*names)
        found = [module for part in made.modules.values() for module in part.modules() if isinstance(module, Dropout)]
        return [torch.rand(4, generator=dropout.generator).tolist() for dropout in found]

    first, second = draws(1, "ann")
    assert first != second
    assert draws(1, "ann") == [first, second]
    assert not {tuple(one) for one in draws(1, "bob") + draws(2, "ann")} & {tuple(first), tuple(second)}
