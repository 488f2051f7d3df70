"""How often and how strongly each unit fires for each class."""

import warnings

from jaxtyping import Bool, Float, Int
from torch import Tensor

from cofire.cofiring import representatives
from cofire.errors import CofireWarning, InputError
from cofire.layer import LayerStats

__all__ = [
    "always_on_units",
    "class_means",
    "covariance",
    "dead_units",
    "firing_probability",
    "live_units",
    "representative_units",
    "unit_spread",
]


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


def covariance(layer: LayerStats) -> Float[Tensor, "units units"]:
    """Covariance of the units over all samples, divided by their number.

    Args:
        layer: Statistics of one layer, recorded with covariance.

    Raises:
        InputError: It was recorded without.

    >>> import cofire, torch
    >>> acts = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> covariance(cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 1]))["fc1"]).tolist()
    [[0.25, -0.5], [-0.5, 1.0]]
    """
    if layer.product_sum is None:
        raise InputError(
            f"layer {layer.name!r} must hold the covariance of its {layer.units:,} units", "it was recorded without",
            "Record with covariance=True, or with the largest number of units that a layer may have.",
        )  # fmt: skip
    mean = layer.sum.sum(0) / layer.samples
    return layer.product_sum / layer.samples - mean[:, None] * mean


def dead_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for no sample."""
    return layer.fire.sum(0) == 0


def live_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for some sample."""
    return ~dead_units(layer)


def always_on_units(layer: LayerStats) -> Bool[Tensor, " units"]:
    """Units that fire for every sample; none of a layer without samples."""
    return (layer.fire.sum(0) == layer.class_counts.sum()) & live_units(layer)


def representative_units(layer: LayerStats, top: int | None = None) -> Int[Tensor, "classes top"]:
    """The units with the largest class means: those that stand for a class in its layer.

    Source:
        Paper 001, section 5.1. Units that fire for no sample never enter; ties go to the unit with the smaller index.

    Args:
        layer: Statistics of one layer.
        top: How many per class; by default the recording's ``top``, 50 unless it was chosen.

    Returns:
        Unit indices in the order of falling class mean, min(top, units) of them, filled up with -1 where a class has no
        samples or too few units fire.

    Raises:
        InputError: top is not a whole number of at least 1.

    >>> import cofire, torch
    >>> acts = torch.tensor([[1.0, 0.0, 4.0], [0.0, 0.0, 0.0], [2.0, 3.0, 0.0]])
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1]))
    >>> representative_units(stats["fc1"], top=2).tolist()
    [[2, 0], [1, 0]]
    """
    top = layer.choices.top if top is None else top
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise InputError("top must be a whole number of at least 1", f"found {top!r}")
    return representatives(class_means(layer), live_units(layer), top)
