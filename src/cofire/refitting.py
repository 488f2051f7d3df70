"""The weights of the modules that read units, fitted again, in closed form, to what the units that stay can say."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire.batches import Batch
from cofire.errors import ModelError
from cofire.grouping import Member
from cofire.resizing import resize
from cofire.wrappers import called, evaluating

__all__ = ["columns_of", "compensated", "fill", "fit", "fit_along", "refitted"]

_RIDGE = 1e-3
_ROWS = 1 << 16
"""Positions of all samples that a module is fitted on, at most about twice as many."""


def compensated(
    weights: Float[Tensor, "outputs units"], bias: Float[Tensor, " outputs"], mean: Float[Tensor, " units"],
    spread: Float[Tensor, "units units"], kept: Int[Tensor, " kept"], ridge: float = _RIDGE,
) -> tuple[Float[Tensor, "outputs kept"], Float[Tensor, " outputs"]]:  # fmt: skip
    """Weights and bias that give, from the kept units, the least squared error of the next layer's input.

    Args:
        weights: Outgoing weights of all units.
        bias: The next layer's bias.
        mean: Mean of the units.
        spread: Their covariance.
        kept: Units that stay.
        ridge: Added to the diagonal of the covariance of the kept units, as a share of the mean variance.
    """
    mean, spread = mean.double(), spread.double()
    ridge *= float(spread.diagonal().mean())
    return refitted(weights, bias, kept, mean, mean[kept], spread[:, kept], spread[kept][:, kept], ridge)


def refitted(
    weights: Float[Tensor, "outputs units"], bias: Float[Tensor, " outputs"], kept: Int[Tensor, " kept"],
    mean: Float[Tensor, " units"], new_mean: Float[Tensor, " kept"], cross: Float[Tensor, "units kept"],
    new_spread: Float[Tensor, "kept kept"], ridge: float,
) -> tuple[Float[Tensor, "outputs kept"], Float[Tensor, " outputs"]]:  # fmt: skip
    r"""Weights and bias that give what all units gave, with the least squared error, from kept units that may have changed.

    .. math:: W' = W_K + (W C_{x\hat x} - W_K C_{\hat x}) (C_{\hat x} + \lambda I)^{-1}, \qquad b' = b + W m - W' \hat m

    So the ridge shrinks what the kept units take over, not the weights: where nothing changes, nothing changes.

    Args:
        weights: Outgoing weights W of all units.
        bias: The next layer's bias b.
        kept: Units K that stay.
        mean: Mean m of the units as they were.
        new_mean: Mean of the kept units as they are.
        cross: Covariance of the units as they were with the kept ones as they are.
        new_spread: Covariance of the kept units as they are.
        ridge: Added to its diagonal; 1 where these units are constant.
    """
    weights = weights.double()
    regular = new_spread.double() + torch.eye(len(kept), dtype=torch.float64) * (ridge if new_spread.any() else 1.0)
    held = weights[:, kept]
    fitted = held + torch.linalg.solve(regular, (weights @ cross.double() - held @ new_spread.double()).T).T
    return fitted, bias.double() + weights @ mean.double() - fitted @ new_mean.double()


def columns_of(module: nn.Module, member: Member) -> Float[Tensor, "rows units"]:
    """The weights with which a module reads units, a row for each output and position."""
    return _columns(module, member).transpose(1, 2).flatten(0, 1)


def fit(module: nn.Module, member: Member, mean: Tensor, spread: Tensor, kept: Tensor) -> None:
    """Let a module make up, in place, for units that it will no longer read, by their covariance.

    Args:
        module: Of the model that is made smaller.
        member: Which units it reads, and where.
        mean: Mean of the units.
        spread: Their covariance.
        kept: Units that stay.
    """
    rows = columns_of(module, member).cpu()
    _put(module, member, kept, *compensated(rows, torch.zeros(len(rows)), mean, spread, kept))


def fill(module: nn.Module, member: Member, mean: Tensor, kept: Tensor) -> None:
    """Put what a module read of units at their means into its bias, in place; arguments as for :func:`fit`."""
    rows = columns_of(module, member).cpu().double()
    gone = torch.ones(len(mean), dtype=torch.bool)
    gone[kept] = False
    _put(module, member, kept, rows[:, kept], rows[:, gone] @ mean[gone])


def fit_along(model: nn.Module, made: nn.Module, batch: Batch, readers: Mapping[str, Sequence[tuple[Member, Tensor]]]) -> None:
    """Let modules make up, in place, for units that they will no longer read, each knowing what those before it have become.

    The samples run through the model twice side by side: as it is, and as it will be. Where a module reads units, it is fitted
    so that from the second it gives what it gave from the first; what it then gives goes on. So an error is corrected by the
    next module, and does not grow from layer to layer.

    Args:
        model: The model as it is.
        made: A copy of it, whose modules are fitted; its shapes stay.
        batch: Samples; a multiple of the units of the widest layer.
        readers: By module, which units it reads, and which of them stay.

    Raises:
        ModelError: A module reads something else than a row for each sample.
    """
    both = Batch.joined([batch, batch])

    def hook(name: str):
        def run(module, inputs, output):
            axis = _sample_axis(inputs[0], len(both), name)
            whole, left = inputs[0].detach().chunk(2, axis)
            small = made.get_submodule(name)
            for member, kept in readers[name]:
                x, y = (_values(module, half, member, batch.mask) for half in (whole, left))
                y = y[:, kept.to(y.device)]
                mean, now = x.mean(0), y.mean(0)
                cross, spread = ((part.T @ (y - now) / len(y)).cpu() for part in (x, y))
                rows = columns_of(module, member).cpu()
                ridge = _RIDGE * float(spread.diagonal().mean())
                _put(
                    small,
                    member,
                    kept,
                    *refitted(rows, torch.zeros(len(rows)), kept, mean.cpu(), now.cpu(), cross, spread, ridge),
                )
            return torch.cat([output.chunk(2, axis)[0], small(left)], axis)

        return run

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in readers]
    try:
        with evaluating(model), evaluating(made), torch.no_grad():
            called(model, both.inputs)
    finally:
        for handle in handles:
            handle.remove()


def _columns(module: nn.Module, member: Member) -> Tensor:
    """The weights that read units, [outputs, units, positions]."""
    return module.weight.detach()[:, member.index.to(module.weight.device)].flatten(2)  # type: ignore[operator, union-attr]


def _put(module: nn.Module, member: Member, kept: Tensor, rows: Tensor, shift: Tensor) -> None:
    """Give a module weights for the kept units, none for the others, and add to its bias."""
    columns = torch.zeros_like(_columns(module, member))
    outputs = len(columns)
    columns[:, kept] = rows.view(outputs, -1, len(kept)).transpose(1, 2).to(columns)
    weight = module.weight.detach().clone()  # type: ignore[operator, union-attr]
    place = member.index.to(weight.device)
    weight[:, place] = columns.view(outputs, *place.shape, *weight.shape[2:])
    bias = torch.zeros(outputs) if module.bias is None else module.get_parameter("bias").detach().cpu()
    resize(module, {"weight": weight, "bias": bias.double() + shift.view(outputs, -1).sum(1)})


def _values(module: nn.Module, inputs: Tensor, member: Member, mask: Tensor | None) -> Tensor:
    """What a module reads of units at every position that counts, [samples and positions, units]."""
    values = inputs if isinstance(module, nn.Linear) else inputs.movedim(1, -1)
    rows = values[mask.bool()] if mask is not None and mask.shape == values.shape[:-1] else values.flatten(0, -2)
    rows = rows[:: len(rows) // _ROWS | 1]  # an odd step, so that no column of a picture is left out
    return rows[:, member.index.to(rows.device)].transpose(1, 2).flatten(0, 1).double()


def _sample_axis(inputs: Tensor, samples: int, name: str) -> int:
    # Windows of a picture stay with their sample, so a multiple of the samples will do.
    for axis in range(min(2, inputs.ndim)):
        if inputs.shape[axis] and inputs.shape[axis] % samples == 0:
            return axis
    raise ModelError(
        f"{name!r} must read a row for each of {samples} samples to be fitted on batches=", f"found {tuple(inputs.shape)}",
        "Leave batches= out.",
    )  # fmt: skip
