"""The same model with the same weights in another dtype: what a model's predictions are compared with."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ttt_mlflow.errors import RunFailed, one_line
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest

TRITON = "_triton"  # the end of the name of an inner net that has a counterpart in PyTorch


@dataclass(frozen=True)
class Twins:
    """How the model of ``request`` is built again. is_plain: from plain PyTorch operations, without its own kernels."""

    entry: ModelEntry
    request: ModelRequest

    @property
    def is_plain(self) -> bool:
        return self.entry.plain is not None or self._plain_net is not None

    def build(self, model: DecodeModel, dtype: torch.dtype) -> DecodeModel:
        """The twin of ``model`` in ``dtype``, with its weights. Raises RunFailed if they cannot be copied."""
        request = replace(self.request, dtype=dtype)
        if self.entry.plain is not None:
            twin = self.entry.plain(request)
        else:
            twin = self.entry.factory(replace(request, inner_net=self._plain_net or request.inner_net))
        copy_weights(model, twin)
        return twin

    @property
    def _plain_net(self) -> str | None:
        """The PyTorch counterpart of the inner net, which is itself if it is in PyTorch; None without one."""
        net = (self.request.inner_net or "").removesuffix(TRITON)
        return net if net in self.entry.inner_nets else None


@torch.no_grad()
def copy_weights(model: Any, twin: Any) -> None:
    """Copy the weights of ``model`` into ``twin``, cast to its dtype. Raises RunFailed if they do not correspond."""
    for one in (model, twin):
        if not (hasattr(one, "state_dict") and hasattr(one, "load_state_dict")):
            raise RunFailed(
                "the model has no state_dict() and load_state_dict(), so that its weights cannot be copied into a "
                "float32 model; let it offer both, or make it a torch.nn.Module"
            )
    try:
        twin.load_state_dict(model.state_dict())
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunFailed(f"the weights cannot be copied into the float32 model ({one_line(error)})") from None
    if hasattr(twin, "weights_changed"):
        twin.weights_changed()
