"""Entropies, mutual information and selectivities of single units and of layers, all in bits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cofire.distributions import activation_counts
from cofire.errors import InputError
from cofire.firing import class_means
from cofire.layer import LayerStats

__all__ = [
    "activation_entropy",
    "class_selectivity",
    "firing_entropy",
    "kl_selectivity",
    "mutual_information",
    "mutual_information_excess",
    "softmax_entropy",
]


def activation_entropy(
    layer: LayerStats, by_class: bool = False, *, bins: int | None = None, span: str = "own"
) -> Float[Tensor, " units"] | Float[Tensor, "classes units"]:
    r"""Entropy of the histogram of a unit's non-zero activations, in bits.

    .. math:: H_u = -\sum_{k=1}^{R} h_{uk} \log_2 h_{uk}

    with h the shares of the non-zero activations in R bins of equal width between the unit's own smallest and largest.
    Dividing a column by its sum, as the papers do first, does not change it. The value depends on R and on the number of
    samples, since the range moves with the sample's extremes.

    Range:
        0 to log2 R.

    Source:
        Papers 000 and 001, section 5. *Departure:* R is never given there; 30 unless chosen otherwise. The formula in 001
        has a sign too many.

    Args:
        layer: Statistics of one layer.
        by_class: Over each class's samples, with the range of those.
        bins: Another R than the recorded one. Exact for the divisors of 600 where 600 sub-bins were kept (10, 30, 100, ...),
            interpolated otherwise.
        span: "own" range; "zero" from zero to the largest value; "common", one range for all units of the layer after each
            is divided by its sum. The last two are interpolated from the sub-bins.

    Returns:
        Entropies. 0 for a unit that is never non-zero or has one value only; NaN for a class without samples.

    Raises:
        InputError: No histogram, or none by class, was recorded.

    >>> import cofire, torch
    >>> acts = torch.arange(1.0, 5.0)[:, None]
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]), bins=4)
    >>> activation_entropy(stats["fc1"]).tolist()
    [2.0]
    """
    if not by_class:
        return _entropy(activation_counts(layer, bins, span), 0)
    if bins not in (None, layer.bins) or span != "own":
        raise InputError(
            "by_class=True has the recorded bins over each class's own range", f"asked for bins={bins}, span={span!r}",
            "Record again with bins=.",
        )  # fmt: skip
    if layer.class_histogram is None:
        raise InputError(
            f"by_class=True needs histograms by class, which layer {layer.name!r} does not hold",
            "they are left out by by_class=False, by the sketch, by a small memory budget with many classes, and by adding "
            "recordings with different edges",
            'Record with by_class=True and histograms="cache" or "two-pass".',
        )
    values = _entropy(layer.class_histogram.double(), 1)
    values[layer.class_counts == 0] = torch.nan
    return values


def firing_entropy(layer: LayerStats, levels: int = 2) -> Float[Tensor, " units"]:
    r"""Entropy of the one-bit variable Q, whether a unit fires, in bits.

    .. math:: H(Q) = -\sum_q P(q) \log_2 P(q)

    Range:
        0 to log2(levels).

    Source:
        Paper 004, equation 3, with its one-bit quantiser.

    Args:
        layer: Statistics of one layer.
        levels: 2 for firing or not; more for equal levels of the unit's range, if recorded with so many.

    Returns:
        Entropies; 0 for a constant unit.
    """
    return _entropy(_joint(layer, levels).sum(0), 0)


def mutual_information(layer: LayerStats, levels: int = 2) -> Float[Tensor, " units"]:
    r"""Information that a unit's firing Q carries on the class Y, in bits.

    .. math:: I(Q; Y) = H(Q) - H(Q | Y)

    Range:
        0 to the smaller of log2(levels) and log2(classes).

    Source:
        Paper 004, equation 4. *Departure:* its published program has the sign of the second term wrong.

    Args:
        layer: Statistics of one layer.
        levels: 2 for firing or not; more if recorded with so many.

    Returns:
        Information; 0 for a constant unit.

    >>> import cofire, torch
    >>> acts = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))
    >>> mutual_information(stats["fc1"]).tolist()
    [1.0]
    """
    joint = _joint(layer, levels)
    within = torch.nan_to_num(_entropy(joint, 1))
    weights = joint.sum(1) / joint.sum((0, 1)).clamp(min=1)
    return (_entropy(joint.sum(0), 0) - (weights * within).sum(0)).clamp(min=0)


def mutual_information_excess(layer: LayerStats, levels: int = 2) -> Float[Tensor, " units"]:
    r"""Mutual information beyond what shuffled labels would give, in bits.

    .. math:: I(Q; Y) - \frac{(C - 1)(L - 1)}{2 n \ln 2}

    for C classes with samples, L levels and n samples. It says whether firing is backed by class structure; low values mean
    noisy labels or a task that is too hard.

    Range:
        Slightly below 0 to the smaller of log2(levels) and log2(classes).

    Source:
        This project; the term is the bias of Miller and Madow.

    Args:
        layer: Statistics of one layer.
        levels: 2 for firing or not; more if recorded with so many.

    Returns:
        Excess; the negative of the bias for a constant unit, so average over live units.
    """
    classes = int((layer.class_counts > 0).sum())
    bias = max(classes - 1, 0) * (levels - 1) / (2 * max(layer.samples, 1) * math.log(2))
    return mutual_information(layer, levels) - bias


def kl_selectivity(layer: LayerStats, levels: int = 2) -> Float[Tensor, " units"]:
    r"""Largest divergence, over classes, of a unit's firing for the class from its firing overall, in bits.

    .. math:: \max_c D_{KL}\left(P_{Q | Y=c} \,\|\, P_Q\right)

    Range:
        The unit's mutual information to log2 of n / n_c for the rarest class.

    Source:
        Paper 004, equation 5. Classes without samples are left out.

    Args:
        layer: Statistics of one layer.
        levels: 2 for firing or not; more if recorded with so many.

    Returns:
        Selectivities; 0 for a constant unit.
    """
    joint = _joint(layer, levels)[layer.class_counts > 0]
    if not len(joint):
        return torch.zeros(layer.units, dtype=torch.float64, device=layer.fire.device)
    given = joint / joint.sum(1, keepdim=True)
    overall = joint.sum(0) / joint.sum((0, 1))
    ratio = torch.where(given > 0, given / overall, 1.0)
    return (given * ratio.log2()).sum(1).amax(0).clamp(min=0)


def class_selectivity(layer: LayerStats) -> Float[Tensor, " units"]:
    r"""How far a unit's largest class mean stands out from the mean of its other class means.

    .. math:: \frac{m_1 - m_2}{m_1 + m_2}

    Range:
        0 (the same for all classes) to 1 (active for one class only) for activations that are not negative; no bounds where
        class means may be negative.

    Source:
        Leavitt and Morcos 2020, cited by papers 000 and 003.

    Args:
        layer: Statistics of one layer.

    Returns:
        Selectivities; 0 for a unit whose class means are all zero, and with fewer than two classes.
    """
    means = class_means(layer)[layer.class_counts > 0]
    if len(means) < 2:
        return torch.zeros(layer.units, dtype=torch.float64, device=means.device)
    largest = means.amax(0)
    others = (means.sum(0) - largest) / (len(means) - 1)
    total = largest + others
    return torch.where(total != 0, (largest - others) / torch.where(total != 0, total, 1.0), 0.0)


def softmax_entropy(layer: LayerStats, order: str = "mean_first", *, scale_free: bool = False) -> Float[Tensor, " classes"]:
    r"""Entropy of a layer's mean activation for each class after a softmax over units, as a share of its maximum.

    .. math:: -\frac{1}{\log_2 N} \sum_u p_u \log_2 p_u, \quad p = \mathrm{softmax}(V_c)

    A softmax is not scale invariant: a layer with larger activations has a lower value by that alone. The scale-free companion
    divides activations by their mean over the layer first (by their root mean square where some are negative), so that a fall
    that it does not share is one of scale.

    Range:
        0 (one unit) to 1 (all units alike).

    Source:
        Paper 002, section 2.2 and equation 2 with f(N) = log2 N.

    Args:
        layer: Statistics of one layer.
        order: "mean_first" as in the paper, or "softmax_first", the mean of each sample's softmax, if recorded with
            softmax=True.
        scale_free: The companion; only with "mean_first".

    Returns:
        Entropies; NaN for a class without samples, 0 for a layer of one unit.

    Raises:
        InputError: Another order, or what it needs was not recorded.
    """
    if order == "mean_first":
        means = class_means(layer)
        if scale_free:
            means = means / _scale(layer)
        shares = torch.softmax(means, 1)
    elif order == "softmax_first":
        if scale_free:
            raise InputError("the scale-free companion is defined for mean_first", "found order='softmax_first'")
        if layer.softmax_sum is None:
            raise InputError(
                "order='softmax_first' needs the sum of every sample's softmax", f"layer {layer.name!r} was recorded without",
                "Record with softmax=True.",
            )  # fmt: skip
        shares = layer.softmax_sum / layer.class_counts[:, None]
    else:
        raise InputError('order must be "mean_first" or "softmax_first"', f"found {order!r}")
    if layer.units == 1:
        return torch.where(layer.class_counts > 0, 0.0, torch.nan).double()
    return -torch.special.xlogy(shares, shares).sum(1) / math.log(layer.units)


def _scale(layer: LayerStats) -> Tensor:
    values = layer.samples * layer.units
    low = torch.where(layer.low.isfinite(), layer.low, 0.0)
    size = layer.sum.sum() / values if bool((low >= 0).all()) else (layer.square_sum.sum() / values).sqrt()
    return size if float(size) > 0 else torch.ones_like(size)


def _joint(layer: LayerStats, levels: int) -> Tensor:
    """Samples by class and level, float64 [classes, levels, units]."""
    if levels == 2:
        return torch.stack([layer.class_counts[:, None] - layer.fire, layer.fire], 1).double()
    if layer.choices.levels != levels:
        raise InputError(
            f"levels={levels} must have been recorded", f"layer {layer.name!r} has levels={layer.choices.levels}",
            f"Record with levels={levels}.",
        )  # fmt: skip
    if layer.joint is None:
        raise InputError(
            f"levels={levels} must have been recorded over one range",
            f"layer {layer.name!r} has a sketch, or is a sum over two",
            'Record with histograms="cache" or "two-pass".',
        )  # fmt: skip
    return layer.joint.double()


def _entropy(counts: Tensor, axis: int) -> Tensor:
    """Entropy in bits of counts along an axis; 0 where there are none."""
    shares = counts / counts.sum(axis, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return (-torch.special.xlogy(shares, shares).sum(axis) / math.log(2)).clamp(min=0) + 0.0  # no -0.0
