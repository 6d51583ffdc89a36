"""What a module that is elsewhere answers is asked of its code once for each shape, as long as it is remembered."""

import torch
from torch import nn

from m2fedsa.models import shadow
from m2fedsa.models.shadow import Blanks, Shadow


class Counting(nn.Module):
    """A layer that counts how often its code runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def shadowed():
    module = Counting()
    return module, Shadow(module, Blanks())


def test_many_batches_and_lengths_of_text_are_asked_for_once():
    module, stand_in = shadowed()
    shapes = [(rows, length, 3) for rows in range(1, 17) for length in range(1, 33)]
    for _ in range(3):
        for shape in shapes:
            answer = stand_in(torch.empty(shape))
            assert answer.shape == (*shape[:2], 5)
            assert answer.isnan().all()
    assert module.calls == len(shapes)


def test_the_oldest_answer_goes_first(monkeypatch):
    monkeypatch.setattr(shadow, "_REMEMBERED", 2)
    module, stand_in = shadowed()
    for rows in (1, 2, 3, 2, 3):
        stand_in(torch.empty(rows, 3))
    assert module.calls == 3
    stand_in(torch.empty(1, 3))
    assert module.calls == 4
