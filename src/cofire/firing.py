"""How often and how strongly each unit fires for each class."""

import warnings

from jaxtyping import Bool, Float
from torch import Tensor

from cofire.errors import CofireWarning
from cofire.layer import LayerStats

__all__ = ["always_on_units", "class_means", "dead_units", "firing_probability", "live_units", "unit_spread"]


def firing_probability(layer: LayerStats) -> Float[Tensor, "classes units"]:
    r"""Share of a class's samples in which each unit fires.

    .. math:: P_{cu} = \frac{1}{n_c} \sum_{s \in c} [x_{su} > t]

    Range:
        0 to 1.

    Source:
        Paper 000, equation 14. *Departure:* the threshold t is 0 for ReLU and the like as there, 0.5 for sigmoids.

    Args:
        layer: Statistics of one layer.

    Returns:
        Probabilities; NaN for a class without samples, with a warning that names it.

    >>> import cofire, torch
    >>> acts = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1]))
    >>> firing_probability(stats["fc1"]).tolist()
    [[0.5, 0.0], [1.0, 1.0]]
    """
    empty = (layer.class_counts == 0).nonzero()[:, 0].tolist()
    if empty:
        warnings.warn(
            f"no sample of class {', '.join(map(str, empty[:5]))}{' and more' if len(empty) > 5 else ''} "
            f"in layer {layer.name!r}: its firing probability is NaN",
            CofireWarning,
            stacklevel=2,
        )
    return layer.fire.double() / layer.class_counts[:, None]


def class_means(layer: LayerStats) -> Float[Tensor, "classes units"]:
    """Mean activation over each class's samples, V_c of paper 001 (equation 6); NaN for a class without samples."""
    return layer.sum / layer.class_counts[:, None]


def unit_spread(layer: LayerStats) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Mean and standard deviation (over samples, not corrected) of each unit's activation; NaN without samples."""
    mean = layer.sum.sum(0) / layer.samples
    variance = layer.square_sum.sum(0) / layer.samples - mean.square()
    return mean, variance.clamp(min=0).sqrt()


def dead_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for no sample."""
    return layer.fire.sum(0) == 0


def live_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for some sample."""
    return ~dead_units(layer)


def always_on_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for every sample; none of a layer without samples."""
    return (layer.fire.sum(0) == layer.class_counts.sum()) & live_units(layer)
