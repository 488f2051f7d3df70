"""Which hidden values of a sample are read again, how they are scaled, and how many of them become few."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cofire.firing import unit_spread
from cofire.layer import LayerStats
from cofire.stats import FiringStats

__all__ = ["Block", "Columns", "Hashing", "columns_of", "usual_features"]

_SHARE_MEAN, _SHARE_SCALE = 0.5, 0.25
"""Shares of firing positions lie between 0 and 1, and so they are centred and scaled."""

_FEATURES, _WIDE = 2048, 8192
"""Columns of a fit to many samples; and to few, that is to fewer than twice as many as columns."""

_FEW = 32
"""Samples whose numbers are hashed at once."""


@dataclass(frozen=True)
class Block:
    """What is read of one layer: all its units.

    Args:
        layer: The layer's name.
        mean: Means of the units in the statistics, float64 [units].
        scale: The layer's root mean variance: one number, so that units keep their proportions.
        share: Also read the share of positions at which a unit fires.
    """

    layer: str
    mean: Tensor
    scale: float
    share: bool

    @property
    def width(self) -> int:
        """How many numbers it gives per sample."""
        return len(self.mean) * (2 if self.share else 1)


class Hashing(NamedTuple):
    """Few sums of many numbers.

    Args:
        place: Which sum each number goes into, int64 [numbers].
        sign: With which sign, float32 [numbers].
    """

    place: Tensor
    sign: Tensor

    def of(self, numbers: Float[Tensor, "samples numbers"], width: int) -> Float[Tensor, "samples sums"]:
        """So many sums of these numbers."""
        sums = numbers.new_zeros(len(numbers), width)
        return sums.index_add_(1, self.place.to(numbers.device), numbers * self.sign.to(numbers))


@dataclass(frozen=True)
class Columns:
    """What is read of a sample, and the columns that a fit has of it: the numbers as they are, or few sums of them.

    Where every number has a random sign and goes into a random sum, inner products of samples stay as they are on average, and
    a linear fit of the sums is nearly as good as one of all numbers.

    Source:
        Charikar et al. 2002, "Finding frequent items in data streams"; Weinberger et al. 2009, "Feature hashing for large scale
        multitask learning".

    Args:
        blocks: By layer.
        hashing: How they become sums; None where the columns are the numbers.
    """

    blocks: list[Block]
    hashing: Hashing | None = None

    @property
    def numbers(self) -> int:
        """Numbers read per sample."""
        return sum(block.width for block in self.blocks)

    @property
    def shares(self) -> list[str]:
        """Layers of which shares of firing positions are read."""
        return [block.layer for block in self.blocks if block.share]

    @cached_property
    def width(self) -> int:
        """Columns of a fit."""
        return self.numbers if self.hashing is None else int(self.hashing.place.max()) + 1

    @cached_property
    def mean(self) -> Float[Tensor, " numbers"]:
        """Where each number is centred, float64."""
        shares = [torch.full((block.width - len(block.mean),), _SHARE_MEAN, dtype=torch.float64) for block in self.blocks]
        return torch.cat([part for block, share in zip(self.blocks, shares, strict=True) for part in (block.mean.cpu(), share)])

    @cached_property
    def scale(self) -> Float[Tensor, " numbers"]:
        """What it is divided by, float64."""
        sizes = torch.tensor([size for block in self.blocks for size in (len(block.mean), block.width - len(block.mean))])
        scales = torch.tensor([scale for block in self.blocks for scale in (block.scale, _SHARE_SCALE)], dtype=torch.float64)
        return scales.repeat_interleave(sizes)

    def plain(self, units: Mapping[str, Tensor], firing: Mapping[str, Tensor]) -> Float[Tensor, "samples numbers"]:
        """The numbers of a batch, float32 or float64: centred, and scaled by layer.

        Args:
            units: Hidden units by layer, [samples, units].
            firing: Share of positions at which they fire, likewise, of the layers of :attr:`shares`.
        """
        each = [part[block.layer] for block in self.blocks for part in ((units, firing) if block.share else (units,))]
        numbers = torch.cat(each, 1)
        return numbers.sub_(self.mean.to(numbers)).div_(self.scale.to(numbers))

    def of(self, units: Mapping[str, Tensor], firing: Mapping[str, Tensor]) -> Float[Tensor, "samples width"]:
        """The columns of a batch; arguments as for :meth:`plain`."""
        if self.hashing is None:
            return self.plain(units, firing)
        first = units[self.blocks[0].layer]
        size, found = _FEW if first.device.type == "cpu" else len(first), []
        for start in range(0, len(first), size):  # what few samples take stays in the cache
            some = slice(start, start + size)
            numbers = self.plain(*({name: values[some] for name, values in each.items()} for each in (units, firing)))
            found.append(self.hashing.of(numbers, self.width))
        return torch.cat(found)


def usual_features(samples: int | None, units: int) -> int:
    """How many columns a fit of so many units has at most, for so many samples, or for an unknown number of them."""
    return _WIDE if samples is not None and samples < 2 * min(units, _WIDE) else _FEATURES


def columns_of(stats: FiringStats, layers: list[str], features: int, seed: int = 0) -> Columns:
    """All units, with shares of firing positions beside means over them where both fit; hashed where the units do not.

    Args:
        stats: Statistics.
        layers: Their layers, input side first.
        features: At most so many columns.
        seed: Of the signs and sums, of which each has equally many numbers but for one.
    """
    several = {name: stats[name].layout in ("conv", "tokens", "recurrent") and len(stats[name].shape) > 1 for name in layers}
    units = sum(stats[name].units for name in layers)
    shares = units + sum(stats[name].units for name in layers if several[name]) <= features
    blocks = [_block(stats[name], shares and several[name]) for name in layers]
    if units <= features:
        return Columns(blocks)
    lots = torch.Generator().manual_seed(seed)
    place = torch.randperm(units, generator=lots) % features
    return Columns(blocks, Hashing(place, torch.randint(2, (units,), generator=lots) * 2.0 - 1))


def _block(layer: LayerStats, share: bool) -> Block:
    mean, deviation = unit_spread(layer)
    scale = float(deviation.square().mean().sqrt())
    return Block(layer.name, mean, scale if scale > 0 else 1.0, share)
