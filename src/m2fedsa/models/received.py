"""The hidden state in what a module receives and puts out; it is the first thing in both, whatever else there is."""

from typing import Any

from torch import Tensor

NAMES = ("hidden_states", "hidden_state")
"""Keyword arguments that hold it where it is not given by place."""


def received(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The hidden state among a module's arguments; None if there is none."""
    return args[0] if args else next((kwargs[name] for name in NAMES if name in kwargs), None)


def replaced(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with another hidden state."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, next(name for name in NAMES if name in kwargs): hidden}


def given(output: Any) -> Any:
    """The hidden state in what a module puts out: itself, or the first of a tuple, list or mapping."""
    if isinstance(output, (tuple, list)):
        return output[0] if output else None
    return next(iter(output.values()), None) if hasattr(output, "values") and not isinstance(output, Tensor) else output


def instead(output: Any, hidden: Tensor) -> Any:
    """The same output with another hidden state."""
    if isinstance(output, (tuple, list)):
        return type(output)((hidden, *output[1:]))
    if isinstance(output, Tensor) or not hasattr(output, "values"):
        return hidden
    output[next(iter(output))] = hidden
    return output
