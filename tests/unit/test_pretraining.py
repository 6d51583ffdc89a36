"""Pretraining keeps the better weights."""

import torch
from torch import nn

from m2fedsa.pretraining import Recipe
from m2fedsa.pretraining.steps import Guess, pretrain


class Squares(Guess):
    """The square of what the model makes of its inputs."""

    def error(self, model, inputs, share, generator):
        return model(inputs["values"]).square().mean()


def model_at(weight):
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


INPUTS = {"values": torch.ones(40, 2)}


def test_what_became_worse_is_taken_back():
    model = model_at(0.0)  # cannot be better
    with torch.no_grad():
        model.weight[0, 0] = 1e-3
    before = model.weight.clone()
    first, last = pretrain(model, Squares(), INPUTS, Recipe(epochs=1, learning_rate=10.0, batch_size=9))
    assert first == last
    assert torch.equal(model.weight, before)


def test_what_became_better_is_kept():
    model = model_at(1.0)
    first, last = pretrain(model, Squares(), INPUTS, Recipe(epochs=5, learning_rate=0.05))
    assert last < first
    assert float(model.weight.detach().sum()) < 2.0
