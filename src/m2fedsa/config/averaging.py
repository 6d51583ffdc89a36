"""[averaging]: which tensors are averaged over whom."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from m2fedsa.config.section import FROM_TOML, Section


class AveragingRule(Section):
    """What happens to the tensors whose name matches `pattern`; the first rule that matches counts."""

    pattern: str
    """Of the tensor's name, e.g. `*.classifier.*`."""
    over: Literal["clients", "modalities", "nothing"]
    """`modalities`: over clients first, then over modalities. `nothing`: each client keeps its own."""


DEFAULT_RULES = (AveragingRule(pattern="*.ta.update.*", over="modalities"), AveragingRule(pattern="*", over="clients"))


class Averaging(Section):
    """Which tensors are averaged over clients, which also over modalities, which stay where they are."""

    rules: Annotated[tuple[AveragingRule, ...], FROM_TOML] = DEFAULT_RULES
    """The first that matches a tensor's name counts. Behind them always stand those of the paper: `*.ta.update.*` over modalities, all else
    over clients; a rule of your own for `*.ta.update.*` overrules that."""

    def over(self, tensor: str) -> Literal["clients", "modalities", "nothing"]:
        """What the first rule that matches says."""
        return next(rule.over for rule in (*self.rules, *DEFAULT_RULES) if fnmatchcase(tensor, rule.pattern))
