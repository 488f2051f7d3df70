"""Which pairs of units fire together for a class: representative units, and exact counts over them."""

import torch
from torch import Tensor

__all__ = ["Cofiring", "paired", "pairing", "representatives", "union"]

_LIMIT = 1 << 22  # rows in one product: below 2**24, where a float32 sum of ones stops being exact


def representatives(means: Tensor, live: Tensor, top: int) -> Tensor:
    """The units with the largest class means, each class's in falling order, ties by index.

    Args:
        means: Class means [classes, units]; NaN for a class without samples.
        live: Units that may enter, bool [units].
        top: How many for each class.

    Returns:
        Unit indices, int64 [classes, min(top, units)], filled up with -1 where a class has no samples or too few units live.
    """
    width = min(top, means.shape[1])
    usable = live & ~means.isnan()
    ranked = torch.where(usable, means, -torch.inf)
    order = ranked.sort(dim=1, descending=True, stable=True).indices[:, :width]
    return torch.where(usable.gather(1, order), order, -1)


def union(representative: Tensor) -> Tensor:
    """All units that represent some class, in rising order, int64 [vertices]."""
    return representative[representative >= 0].unique()


def paired(representative: Tensor, cofiring: str) -> Tensor:
    """The units whose pairs are counted for each class [classes, width]: its own, or with "union" all of them."""
    if cofiring == "union":
        return union(representative).expand(len(representative), -1)
    return representative


def pairing(totals: tuple[Tensor, ...], top: int, cofiring: str) -> dict[str, Tensor]:
    """Which units to pair for each class, and the means above which they have to be.

    Means are lifted by what the rounding of their sum may amount to: a value that is its class's mean is not above it, in
    whatever order the samples came.

    Args:
        totals: Samples, int64 [classes]; sums of activations, firing counts and sums of squares, each [classes, units].
        top: Representative units per class.
        cofiring: "class" or "union".

    Returns:
        ``representative`` units [classes, top], int32, and the ``cofire_means`` of those that are paired, float64.
    """
    counts, sums, fire, squares = totals
    means, size = sums / counts[:, None], (squares / counts[:, None]).sqrt()
    lifted = means + torch.where(size.isfinite(), size, 0.0) * counts[:, None] * 2.0**-53
    representative = representatives(means, fire.sum(0) > 0, top)
    units = paired(representative, cofiring)
    own = lifted.gather(1, units.clamp(min=0))
    above = torch.where((units >= 0) & own.isfinite(), own, torch.inf)  # nothing is above inf
    return {"representative": representative.to(torch.int32), "cofire_means": above}


def _just_below(means: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest numbers of the given type that are not above the means: no value of that type lies between the two."""
    near = means.to(dtype)
    return torch.where(near.double() > means, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)


class Cofiring:
    """Counts the samples of a class in which two of its units are both above their own means over that class.

    Args:
        units: Units to pair for each class [classes, width], filled up with -1.
        means: Their means over that class, float64 [classes, width]; inf where there is none, which nothing is above.
        dtype: float32 or float64, that of the values.
    """

    def __init__(self, units: Tensor, means: Tensor, dtype: torch.dtype):
        classes, width = units.shape
        self._columns, self._above = units.long().clamp(min=0), _just_below(means, dtype)
        self.counts = torch.zeros(classes, width, width, dtype=torch.int32, device=means.device)

    def update(self, values: Tensor, c: int) -> None:
        """Add samples of class c: values [samples, units]."""
        for rows in values.split(_LIMIT):
            above = (rows.index_select(1, self._columns[c]) > self._above[c]).float()
            with torch.autocast(above.device.type, enabled=False):  # half precision would round the counts
                self.counts[c] += (above.T @ above).to(torch.int32)
