"""Which hidden values of a sample are read again, and how they are scaled: a row of numbers from all layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofire.firing import unit_spread
from cofire.information import mutual_information
from cofire.layer import LayerStats
from cofire.stats import FiringStats

__all__ = ["SHARE_MEAN", "SHARE_SCALE", "Block", "blocks_of", "rows"]

SHARE_MEAN, SHARE_SCALE = 0.5, 0.25
"""Shares of firing positions lie between 0 and 1, and so they are centred and scaled."""


@dataclass(frozen=True)
class Block:
    """The units of one layer that are read.

    Args:
        layer: The layer's name.
        units: Indices of the units, in rising order, int64 [units].
        mean: Their means in the statistics, float64 [units].
        scale: The layer's root mean variance: one number, so that units keep their proportions.
        share: Also read the share of positions at which a unit fires.
    """

    layer: str
    units: Tensor
    mean: Tensor
    scale: float
    share: bool

    @property
    def width(self) -> int:
        """How many numbers it gives per sample."""
        return len(self.units) * (2 if self.share else 1)


def blocks_of(stats: FiringStats, layers: list[str], features: int) -> list[Block]:
    """The units to read, with shares of firing positions beside means over them where both fit.

    Where all units do not fit, it is those of each layer that say most about the class; a unit's mean is worth more than its
    share of firing positions.

    Args:
        stats: Statistics.
        layers: Their layers, input side first.
        features: At most so many numbers per sample; every layer has the same share of its units cut.
    """
    several = {name: stats[name].layout in ("conv", "tokens", "recurrent") and len(stats[name].shape) > 1 for name in layers}
    units = sum(stats[name].units for name in layers)
    shares = units + sum(stats[name].units for name in layers if several[name]) <= features
    kept = min(1.0, features / max(units, 1))
    return [_block(stats[name], max(1, math.floor(kept * stats[name].units)), shares and several[name]) for name in layers]


def _block(layer: LayerStats, count: int, share: bool) -> Block:
    units = torch.arange(layer.units)
    if count < layer.units:
        units = mutual_information(layer).argsort(descending=True, stable=True)[:count].sort().values
    mean, deviation = unit_spread(layer)
    scale = float(deviation.square().mean().sqrt())
    return Block(layer.name, units, mean[units], scale if scale > 0 else 1.0, share)


def rows(blocks: list[Block], units: Mapping[str, Tensor], firing: Mapping[str, Tensor]) -> Tensor:
    """The numbers read from a batch, float32 or float64 [samples, features]: centred, and scaled by layer.

    Args:
        blocks: The units to read.
        units: Hidden units by layer, [samples, units].
        firing: Share of positions at which they fire, likewise.
    """
    parts = []
    for block in blocks:
        values = units[block.layer]
        place = block.units.to(values.device)
        parts.append((values[:, place] - block.mean.to(values)) / block.scale)
        if block.share:
            parts.append((firing[block.layer][:, place] - SHARE_MEAN) / SHARE_SCALE)
    return torch.cat(parts, 1)
