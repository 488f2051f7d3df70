"""Which layer reads an activation, and with which weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cofire.batches import Batch
from cofire.errors import InputError
from cofire.taps import Taps

__all__ = ["outgoing_weights"]

_READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def outgoing_weights(taps: Taps, batch: Batch, name: str, units: int) -> Float[Tensor, "outputs units"]:
    """The weights with which the next layer reads each unit, as one forward pass shows it.

    The next layer is the first linear map or convolution called after the activation whose inputs are the activation's
    units, or, behind a flattening, the same number of positions of each. A convolution's weights over positions, and those of
    the positions of a unit, are laid one below the other.

    Args:
        taps: Watching the model; its layers are known.
        batch: Some samples.
        name: Name of the activation.
        units: Its units.

    Raises:
        InputError: No such layer follows.
    """
    calls: list[tuple[str, nn.Module]] = []
    handles = [
        module.register_forward_hook(lambda module, _inputs, _output: calls.append(("", module)))
        for module in taps.model.modules()
        if isinstance(module, _READERS)
    ]
    before, taps.edit = taps.edit, lambda info, _output: calls.append((info.name, nn.Identity()))
    try:
        taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
    finally:
        taps.edit = before
        for handle in handles:
            handle.remove()
    place = next((at for at, (called, _) in enumerate(calls) if called == name), None)
    for _, module in calls[place + 1 :] if place is not None else ():
        weights = _read(module, units)
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
    if isinstance(module, _READERS[1:]) and module.in_channels == units and module.groups == 1:  # type: ignore[union-attr]
        return module.weight.detach().flatten(2).transpose(1, 2).reshape(-1, units)
    if isinstance(module, _READERS[1:]) and module.in_channels == units:  # type: ignore[union-attr]
        weights = torch.zeros(1, units, device=module.weight.device)  # grouped: each unit's own norm
        groups = module.groups  # type: ignore[union-attr]
        per = module.weight.detach().view(groups, -1, units // groups, *module.weight.shape[2:])  # type: ignore[union-attr]
        weights[0] = per.transpose(1, 2).reshape(units, -1).norm(dim=1)
        return weights
    return None
