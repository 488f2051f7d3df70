"""From an activation tensor of any shape to units: which axis holds samples, which units, and what becomes of the rest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MAP_SIDE", "Arrangement", "arrange"]

MAP_SIDE = 16
"""Largest side of the mean maps by class; larger feature maps are averaged down to it."""


@dataclass(frozen=True)
class Arrangement:
    """How a layer's tensor becomes [samples, units].

    Args:
        layout: "dense" [samples, units], "conv" [samples, channels, ...], "tokens" [samples, ..., features], "recurrent"
            (tokens from a recurrent layer) or "positions" (every position a unit).
        sample_axis: 0, or 1 for sequence-first tensors.
        shape: Shape of one sample's activation.
    """

    layout: str
    sample_axis: int
    shape: tuple[int, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        if self.layout == "positions":
            return int(torch.Size(self.shape).numel())
        if not self.shape:
            return 1
        return self.shape[0] if self.layout == "conv" else self.shape[-1]

    def pool(self, values: Tensor, how: str, mask: Tensor | None = None) -> Tensor:
        """Units [samples, units], contiguous, float32 or float64, with no gradient.

        Args:
            values: The activation.
            how: "mean", "max" or "none".
            mask: Which tokens count, [samples, tokens]; only for tokens.
        """
        values = values.detach()
        if self.sample_axis:
            values = values.movedim(self.sample_axis, 0)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.float()
        if values.ndim <= 2 or self.layout == "positions":  # no len(): under torch.export the batch may be of any size
            return (values[:, None] if values.ndim == 1 else values.flatten(1)).contiguous()
        axes = tuple(range(2, values.ndim)) if self.layout == "conv" else tuple(range(1, values.ndim - 1))
        if self.layout != "conv" and mask is not None and values.ndim == 3 and mask.shape == values.shape[:2]:
            return _masked(values, mask.bool(), how)
        return (values.mean(axes) if how == "mean" else values.amax(axes)).contiguous()

    def hold(self, values: Tensor, units: Tensor, at: Tensor) -> None:
        """Hold some units at a value each, in place, for every sample and position.

        Args:
            values: The activation.
            units: The units.
            at: Their values.
        """
        units, at = units.to(values.device), at.to(values.device, values.dtype)
        if self.layout == "positions":
            flat = values.movedim(self.sample_axis, 0)
            flat = flat.reshape(len(flat), -1).clone()
            flat[:, units] = at
            values.copy_(flat.view(values.movedim(self.sample_axis, 0).shape).movedim(0, self.sample_axis))
        elif self.layout == "conv":
            values[:, units] = at.view(-1, *[1] * (values.ndim - 2))
        else:
            values[..., units] = at

    def maps(self, values: Tensor) -> Tensor | None:
        """Mean over channels, [samples, height, width] with sides of at most 16; None where there is no picture."""
        if len(self.shape) != 3 or self.layout not in ("conv", "positions") or min(self.shape[1:]) < 2:
            return None
        maps = values.detach().mean(1, dtype=torch.promote_types(values.dtype, torch.float32))
        if max(maps.shape[1:]) <= MAP_SIDE:
            return maps
        return F.adaptive_avg_pool2d(maps, (min(MAP_SIDE, maps.shape[1]), min(MAP_SIDE, maps.shape[2])))


def _masked(values: Tensor, mask: Tensor, how: str) -> Tensor:
    kept = mask[..., None]
    if how == "max":
        return values.masked_fill(~kept, -torch.inf).amax(1)
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)


def arrange(
    values: Tensor, samples: int, unit_axis: int, pool: str, sequence_first: bool = False, recurrent: bool = False
) -> Arrangement | str:
    """The arrangement of an activation, or a word on why it is not one value per sample and unit.

    Args:
        values: The activation.
        samples: Samples in the batch.
        unit_axis: 1 after a convolution, -1 after a linear map.
        pool: "none" makes every position a unit.
        sequence_first: The model says that the first axis is time.
        recurrent: The output of a recurrent layer.
    """
    if not values.is_floating_point():
        return f"it holds {str(values.dtype).removeprefix('torch.')}, not real numbers"
    if values.ndim == 0:
        return "it is a single number"
    first_is_time = values.ndim == 3 and values.shape[1] == samples and (sequence_first or len(values) != samples)
    if not first_is_time and len(values) != samples:
        return f"its first dimension is {len(values)}, not the {samples} samples of the batch"
    sample_axis = int(first_is_time)
    shape = tuple(values.shape[1:]) if not first_is_time else (values.shape[0], *values.shape[2:])
    if len(shape) < 2:
        layout = "recurrent" if recurrent else "dense"
    elif pool == "none":
        layout = "positions"
    elif recurrent:
        layout = "recurrent"
    else:
        layout = "conv" if unit_axis == 1 and not first_is_time else "tokens"
    return Arrangement(layout, sample_axis, shape)
