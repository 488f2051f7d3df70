"""The histogram of a unit's activations for any number of bins and range, from sub-bins or from the sketch."""

import torch
from torch import Tensor

from cofire.errors import InputError, checked_count
from cofire.kernels import SKETCH_BINS
from cofire.layer import LayerStats

__all__ = ["activation_counts", "nonzero_range"]


def nonzero_range(layer: LayerStats) -> tuple[Tensor, Tensor]:
    """Smallest and largest non-zero activation of each unit, float64 [units]; 0 and 0 where there is none."""
    low, high = layer.low.amin(0).double(), layer.high.amax(0).double()
    seen = low.isfinite()
    return torch.where(seen, low, 0.0), torch.where(seen, high, 0.0)


def activation_counts(layer: LayerStats, bins: int | None = None, span: str = "own") -> Tensor:
    """Non-zero activations in equal bins, float64 [bins, units]; whole numbers where the bins nest in the recorded ones.

    Args:
        layer: Statistics of one layer.
        bins: Number of bins; by default the recorded one.
        span: "own", "zero" or "common", see :func:`cofire.activation_entropy`.

    Raises:
        InputError: No histogram was recorded, or an unknown span.
    """
    bins = layer.bins if bins is None else bins
    bins = checked_count(bins, "bins")
    if span not in ("own", "zero", "common"):
        raise InputError('span must be "own", "zero" or "common"', f"found {span!r}")
    if span == "own" and layer.histogram is not None and layer.histogram.shape[0] % bins == 0:
        return layer.histogram.view(bins, -1, layer.units).sum(1).double()
    low, high = nonzero_range(layer)
    single = low == high
    if span == "zero":
        low, high = low.clamp(max=0), high.clamp(min=0)
    elif span == "common":
        total = layer.sum.sum(0)
        scale = torch.where(total != 0, total, 1.0)
        live = total != 0
        ends = torch.stack([low / scale, high / scale])[:, live]
        least, most = (ends.amin(), ends.amax()) if ends.numel() else (low.new_zeros(()), low.new_zeros(()))
        low, high = torch.minimum(least * scale, most * scale), torch.maximum(least * scale, most * scale)
    steps = torch.arange(bins + 1, dtype=torch.float64, device=low.device)[:, None] / bins
    below = _counts_below(layer, low + (high - low) * steps)
    total = (layer.class_counts.sum() - layer.zeros.sum(0)).double()
    below[0], below[-1] = 0, total
    counts = below.diff(dim=0).clamp(min=0)
    counts[:, single] = 0
    counts[0, single] = total[single]
    return counts


def _counts_below(layer: LayerStats, points: Tensor) -> Tensor:
    """Non-zero activations below points [points, units], the counts of a bin spread evenly over it."""
    low, high = nonzero_range(layer)
    if layer.histogram is not None and layer.histogram_edges is not None:
        counts, (first, last) = layer.histogram, layer.histogram_edges
        seen = first.isfinite()
        first, last = torch.where(seen, first, 0.0), torch.where(seen, last, 1.0)
        width = torch.where(last > first, last - first, 1.0) / len(counts)
    elif layer.sketch is not None and layer.sketch_exponent is not None and layer.sketch_signed is not None:
        counts, signed = layer.sketch, layer.sketch_signed
        width = torch.exp2((layer.sketch_exponent + signed.int() - 10).double())
        first = -(SKETCH_BINS // 2) * width * signed
    else:
        raise InputError(
            f"this needs the histogram of layer {layer.name!r}", "it was recorded with histograms='none'",
            "Record with another choice of histograms.",
        )  # fmt: skip
    cumulative = torch.cat([counts.new_zeros(1, layer.units), counts.cumsum(0)]).double()
    place = ((points - first) / width).clamp(0, len(counts))
    index = place.floor().long().clamp(max=len(counts) - 1)
    # The first and last occupied bins end at the unit's own extremes, not at the grid.
    left = torch.maximum(first + index * width, low)
    right = torch.minimum(first + (index + 1) * width, high)
    share = torch.where(right > left, (points - left) / torch.where(right > left, right - left, 1.0), 0.5).clamp(0, 1)
    before, after = cumulative.gather(0, index), cumulative.gather(0, index + 1)
    return before + share * (after - before)
