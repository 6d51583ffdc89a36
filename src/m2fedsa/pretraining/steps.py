"""Pretraining without labels: hide a part of each row, guess it, step; the same whatever the rows are."""

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from m2fedsa.errors import DivergedError
from m2fedsa.pretraining import Recipe
from m2fedsa.seeding import derive

_HELD_OUT = 0.1
"""Share of the rows on which guessing is judged."""
_DECAY = 0.01


class Guess(nn.Module):
    """What is guessed of a row, and how wrong a guess is; its own weights are thrown away afterwards."""

    @abstractmethod
    def error(self, model: nn.Module, inputs: dict[str, Tensor], share: float, generator: torch.Generator) -> Tensor:
        """The mean error over the hidden parts of these rows, about `share` of them."""


def pretrain(model: nn.Module, guess: Guess, inputs: Mapping[str, Tensor], recipe: Recipe) -> tuple[float | None, float | None]:
    """Train in place for `recipe.epochs`, all rows in memory.

    The error on a tenth of the rows that are held out, before and after; None where nothing was trained. Weights that are no better after
    than before are taken back, and both errors are the first. Global randomness stays as it was. `DivergedError` when the error is not
    finite.
    """
    count = len(next(iter(inputs.values())))
    if recipe.epochs == 0:
        return None, None
    order = torch.randperm(count, generator=derive(recipe.seed, "encoder", "held out"))
    held = order[: max(1, round(_HELD_OUT * count))]
    rows = order[len(held) :] if len(held) < count else order
    first = _judged(model, guess, inputs, held, recipe)
    drawn = deepcopy(model.state_dict())
    parameters = [*model.parameters(), *guess.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=_DECAY)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps + 1)
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout of the library's models draws from it
        torch.manual_seed(recipe.seed)
        for epoch in range(recipe.epochs):
            generator = derive(recipe.seed, "encoder", "epoch", epoch)
            for few in torch.split(rows[torch.randperm(len(rows), generator=generator)], recipe.batch_size):
                loss = guess.error(model, _taken(inputs, few), recipe.hidden, generator)
                if not bool(loss.isfinite()):
                    raise DivergedError(f"pretraining, epoch {epoch + 1}: the error is not finite. Lower --learning-rate.")
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
    model.eval()
    last = _judged(model, guess, inputs, held, recipe)
    if last < first:
        return first, last
    model.load_state_dict(drawn)
    return first, first


@torch.no_grad()
def _judged(model: nn.Module, guess: Guess, inputs: Mapping[str, Tensor], rows: Tensor, recipe: Recipe) -> float:
    model.eval()
    generator = derive(recipe.seed, "encoder", "judge")
    total = 0.0
    for few in torch.split(rows, recipe.batch_size):
        total += float(guess.error(model, _taken(inputs, few), recipe.hidden, generator)) * len(few)
    return total / len(rows)


def _taken(inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}
