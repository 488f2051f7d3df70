"""How likely a layer's firing pattern is for each class, from the recorded counts alone."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cofire.errors import InputError
from cofire.layer import LayerStats
from cofire.stats import FiringStats

__all__ = ["Likelihood", "check_classes", "share_above"]


@dataclass(frozen=True, eq=False)
class Likelihood:
    r"""Log-likelihood of a layer's firing pattern for each class, in nats, as if units fired independently given the class.

    .. math:: L_c(b) = \sum_u b_u \ln P_{cu} + (1 - b_u) \ln (1 - P_{cu}), \qquad P_{cu} = \frac{k_{cu} + 1/2}{n_c + 1}

    with :math:`k_{cu}` of the :math:`n_c` recorded samples of class c in which unit u fired. The half sample of each kind is
    Jeffreys' prior, and keeps every probability away from 0 and 1.

    Args:
        share: Share of a class's samples in which each unit fires, float64 [classes, units].
        counts: Samples of each class, [classes].
        threshold: A unit fires above it, float64 [units].

    >>> import cofire
    >>> acts = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    >>> layer = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))["fc1"]
    >>> Likelihood.of(layer)(torch.tensor([[4.0, 0.0]])).exp().round(decimals=4).tolist()
    [[0.6944, 0.0278]]
    """

    share: Tensor
    counts: Tensor
    threshold: Tensor

    @classmethod
    def of(cls, layer: LayerStats, at: str = "threshold") -> "Likelihood":
        """The likelihood that a layer's statistics give.

        Args:
            layer: Statistics of one layer.
            at: "threshold": a unit fires above the layer's threshold, as it was counted. "mean": above its own mean over the
                recorded samples; the shares are then read off the histograms by class.

        Raises:
            InputError: Another value, or "mean" without histograms by class.
        """
        counts = layer.class_counts.double()
        if at == "threshold":
            threshold = torch.full((layer.units,), layer.threshold, dtype=torch.float64)
            return cls(layer.fire / counts[:, None], counts, threshold)
        if at != "mean":
            raise InputError('at must be "threshold" or "mean"', f"found {at!r}")
        threshold = layer.sum.sum(0) / layer.samples
        return cls(share_above(layer, threshold), counts, threshold)

    @cached_property
    def probability(self) -> Float[Tensor, "classes units"]:
        """Smoothed probability that each unit fires, never 0 nor 1."""
        counts = self.counts[:, None]
        return (self.share * counts + 0.5) / (counts + 1)

    @cached_property
    def evidence(self) -> Float[Tensor, "classes units"]:
        """What a unit that fires adds to the log-likelihood beyond one that is silent."""
        return self.probability.logit()

    @cached_property
    def silence(self) -> Float[Tensor, " classes"]:
        """Log-likelihood of a pattern in which no unit fires."""
        return (1 - self.probability).log().sum(1)

    def fires(self, units: Float[Tensor, "samples units"]) -> Bool[Tensor, "samples units"]:
        """Which units fire, of their values pooled as in the statistics."""
        return units.cpu() > self.threshold

    def __call__(self, units: Float[Tensor, "samples units"]) -> Float[Tensor, "samples classes"]:
        """Log-likelihoods of each sample's pattern, of units pooled as in the statistics."""
        return self.fires(units).double() @ self.evidence.T + self.silence

    def expected(self) -> tuple[float, float]:
        """Mean over the recorded samples of the log-likelihood for their own class, and its standard deviation.

        The mean is exact where units fire above the layer's threshold, as it was counted. The deviation is that of units which
        fire independently given the class; those of a trained net do not, and the true one is larger, up to several times.
        """
        means = (self.share * self.evidence).sum(1) + self.silence
        within = (self.share * (1 - self.share) * self.evidence.square()).sum(1)
        weights = self.counts / self.counts.sum()
        mean = (weights * means).sum()
        return float(mean), float((weights * (within + (means - mean).square())).sum().sqrt())

    @property
    def varied(self) -> float:
        """Share of units that fire neither for nearly all samples nor for nearly none (1 %): only these tell anything."""
        overall = (self.share * self.counts[:, None]).sum(0) / self.counts.sum()
        return float(((overall > 0.01) & (overall < 0.99)).double().mean())


def share_above(layer: LayerStats, points: Float[Tensor, " units"]) -> Float[Tensor, "classes units"]:
    """Share of a class's samples in which each unit lies above a point of its own, read off the histograms by class.

    Samples in the bin that holds the point count as spread evenly over it: an error of at most that bin's share.

    Args:
        layer: Statistics of one layer.
        points: A value for each unit.

    Raises:
        InputError: Recorded without histograms by class.
    """
    if layer.class_histogram is None or layer.class_histogram_edges is None:
        raise InputError(
            f'at="mean" needs histograms by class of layer {layer.name!r}', "it was recorded without",
            'Record with by_class=True and exact histograms, or take at="threshold".',
        )  # fmt: skip
    counts = layer.class_histogram.double()  # [classes, bins, units]
    low, high = layer.class_histogram_edges.double()
    place = (points - low) / (high - low) * counts.shape[1]
    place = torch.where(high > low, place, torch.where(low > points, 0.0, float(counts.shape[1])))
    place = place.nan_to_num(0.0).clamp(0, counts.shape[1])  # a class in which the unit is always zero has no range
    index = place.floor().long().clamp(max=counts.shape[1] - 1)[:, None]
    before = counts.cumsum(1).gather(1, index) - counts.gather(1, index)
    below = (before + counts.gather(1, index) * (place[:, None] - index))[:, 0]
    above = counts.sum(1) - below + layer.zeros * (points < 0)
    return above / layer.class_counts[:, None]


def check_classes(stats: FiringStats) -> None:
    """Raise where a class has no samples: nothing is known of how its samples fire.

    Raises:
        InputError: Such a class.
    """
    for layer in stats.values():
        empty = [stats.class_names[c] for c in (layer.class_counts == 0).nonzero()[:, 0].tolist()]
        if empty:
            raise InputError(
                "statistics must hold samples of every class",
                f"there are none of {', '.join(map(repr, empty[:5]))}{' and more' if len(empty) > 5 else ''} "
                f"in layer {layer.name!r}",
                "Record data in which every class occurs.",
            )  # fmt: skip
