"""Which layer reads an activation, and with which weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cofire.calls import READERS, Calls
from cofire.errors import InputError

__all__ = ["outgoing_weights"]


def outgoing_weights(seen: Calls, name: str, units: int) -> Float[Tensor, "outputs units"]:
    """The weights with which the next layer reads each unit, as one forward pass shows it.

    The next layer is the first linear map or convolution called after the activation whose inputs are the activation's
    units, or, behind a flattening, the same number of positions of each. A convolution's weights over positions, and those of
    the positions of a unit, are laid one below the other.

    Args:
        seen: The forward pass.
        name: Name of the activation.
        units: Its units.

    Raises:
        InputError: No such layer follows.
    """
    found = seen.after(name)
    for call in found[1] if found is not None else ():
        weights = None if call.module is None else _read(call.module, units)
        if weights is not None:
            return weights
    raise InputError(
        f"the order needs the weights of the layer that reads {name!r}", "no linear map or convolution of its width follows it",
        "Choose a measure of the units alone, such as 'mutual_information'.",
    )  # fmt: skip


def _read(module: nn.Module, units: int) -> Tensor | None:
    if isinstance(module, nn.Linear):
        if module.in_features % units:
            return None
        weights = module.weight.detach()
        return weights.view(len(weights), units, -1).transpose(1, 2).reshape(-1, units)
    if isinstance(module, READERS[1:]) and module.in_channels == units and module.groups == 1:  # type: ignore[union-attr]
        return module.weight.detach().flatten(2).transpose(1, 2).reshape(-1, units)
    if isinstance(module, READERS[1:]) and module.in_channels == units:  # type: ignore[union-attr]
        weights = torch.zeros(1, units, device=module.weight.device)  # grouped: each unit's own norm
        groups = module.groups  # type: ignore[union-attr]
        per = module.weight.detach().view(groups, -1, units // groups, *module.weight.shape[2:])  # type: ignore[union-attr]
        weights[0] = per.transpose(1, 2).reshape(units, -1).norm(dim=1)
        return weights
    return None
