"""An encoder in one piece with both of its adapters in place: what head and tail compute together, in one forward.

B batch, T tokens, D_h width at the cut, D_z width of the pooled output.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from m2fedsa.models.architectures import Pooling, architecture
from m2fedsa.models.cut import whole
from m2fedsa.models.plan import Plan
from m2fedsa.models.precision import fed
from m2fedsa.models.received import given, instead, received, replaced

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Adapted(nn.Module):
    """z (B, D_z) of an ordinary encoder, with MA where it was cut and TA beside its last feed-forward part.

    The encoder stays an ordinary one: the adapters hang on hooks, and its own tensors keep their names. `ma` and `ta` are None where the
    settings of the run leave them out.
    """

    def __init__(self, encoder: "PreTrainedModel", plan: Plan, pooling: Pooling, ma: nn.Module | None, ta: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.plan, self.pooling, self.ma, self.ta = encoder, plan, pooling, ma, ta
        self._received: Any = None
        if ma is not None:
            self._hang_at_cut(ma)
        if ta is not None:
            self._hang_at_site(ta)
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The pooled output, from the encoder's keyword arguments; these may lie on another device, in another precision."""
        return whole(self.encoder, fed(self.encoder, inputs), self.pooling)

    def _hang_at_cut(self, ma: nn.Module) -> None:
        rows, module = architecture(self.plan.model_type).rows, self.encoder.get_submodule(self.plan.cut)

        def adapted(hidden: Tensor) -> Tensor:
            hidden = hidden.transpose(0, rows)
            adapter: Tensor = ma(hidden)
            return (hidden + adapter).transpose(0, rows)

        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return replaced(args, kwargs, adapted(received(args, kwargs)))

        if self.plan.after:
            module.register_forward_hook(lambda _module, _args, output: instead(output, adapted(given(output))))
        else:
            module.register_forward_pre_hook(enter, with_kwargs=True)

    def _hang_at_site(self, ta: nn.Module) -> None:
        site = self.plan.site
        assert site is not None, "a plan without a place for TA has no TA"

        def receive(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._received = received(args, kwargs)

        def add(_module: nn.Module, _args: object, output: Any) -> Any:
            hidden, self._received = self._received, None
            return instead(output, given(output) + ta(hidden))

        self.encoder.get_submodule(site.first).register_forward_pre_hook(receive, with_kwargs=True)
        self.encoder.get_submodule(site.last).register_forward_hook(add)
