"""Differentiable forms of measures, for use as terms of a loss: entropy, modularity and class selectivity of a batch."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.cofiring import representatives
from cofire.errors import InputError
from cofire.graphs import representative_sets

__all__ = ["soft_class_selectivity", "soft_entropy", "soft_modularity"]


def soft_entropy(
    activations: Float[Tensor, "samples units"], bins: int = 30, temperature: float = 0.1
) -> Float[Tensor, " units"]:
    r"""Activation entropy of each unit with soft bins, in bits.

    .. math:: H_u = -\sum_k h_{uk} \log_2 h_{uk}, \quad h_{uk} = \frac{1}{|S_u|} \sum_{s \in S_u}
        \sigma\left(\frac{x_{su} - e_{uk}}{T w_u}\right) - \sigma\left(\frac{x_{su} - e_{u,k+1}}{T w_u}\right)

    over the samples with a value that is not 0, with the edges e of bins of width w between the smallest and the largest of
    these; the first and the last bin are open. As T falls to 0 it becomes :func:`cofire.activation_entropy`.

    Range:
        0 to log2(bins). It does not change when activations are multiplied by a number.

    Source:
        Paper 000, section 5.1, for the measure; the soft form is ours.

    Args:
        activations: One row per sample of the batch, after the non-linearity.
        bins: Number of bins.
        temperature: T, in widths of a bin.

    Returns:
        Entropies; 0 for a unit with fewer than two different values.

    Raises:
        InputError: Not [samples, units], fewer than two bins, or a temperature that is not above 0.

    >>> soft_entropy(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), bins=4, temperature=1e-3)
    tensor([2.])
    """
    _check(activations, temperature)
    if bins < 2:
        raise InputError("bins must be a whole number of at least 2", f"found {bins!r}")
    nonzero = activations != 0
    low = torch.where(nonzero, activations, torch.inf).amin(0)
    high = torch.where(nonzero, activations, -torch.inf).amax(0)
    varies = high > low
    low, width = torch.where(varies, low, 0.0), torch.where(varies, high - low, 1.0) / bins
    place = (activations - low) / width  # 0 to bins
    inner = torch.arange(1, bins, dtype=activations.dtype, device=activations.device)
    above = torch.sigmoid((place[..., None] - inner) / temperature)  # open ends: all are above the first edge, none the last
    counts = (above * nonzero[..., None]).sum(0) / nonzero.sum(0).clamp(min=1)[:, None]
    shares = torch.cat([torch.ones_like(counts[:, :1]), counts], 1) - torch.cat([counts, torch.zeros_like(counts[:, :1])], 1)
    return torch.where(varies, _bits(shares), 0.0)


def _bits(shares: Float[Tensor, "units bins"]) -> Float[Tensor, " units"]:
    filled = shares > torch.finfo(shares.dtype).tiny  # the gradient of x log x at 0 is infinite
    safe = torch.where(filled, shares, 1.0)
    return -(safe * safe.log2()).sum(1)


def soft_modularity(
    activations: Float[Tensor, "samples units"],
    labels: Int[Tensor, " samples"],
    top: int | None = None,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    r"""Modularity of the soft co-firing graph of a batch, with the classes as communities.

    .. math:: A = \sum_c \frac{1}{n_c} B_c^\top B_c, \qquad
        B_{c,su} = \sigma\left(\frac{x_{su} - \bar x_{cu}}{T \sigma_{cu}}\right)

    for the samples s of class c and its representative units u, with their means and deviations over the class, and no
    self-loops. As T falls to 0 it becomes :func:`cofire.modularity` of :func:`cofire.coactivation`. Which units represent which
    class is taken as given: the gradient does not pass through that choice.

    Range:
        -0.5 to 1; 0 for a graph without edges.

    Source:
        Paper 001, equations 2, 6 and 7, for the measure; the soft form is ours.

    Args:
        activations: One row per sample of the batch, after the non-linearity.
        labels: Their classes.
        top: Representative units per class; by default 50 or a quarter of the units, whichever is less.
        temperature: T, in deviations of the unit over the class.

    Returns:
        The modularity, a number with a gradient.

    Raises:
        InputError: Not [samples, units], labels that do not fit, or a temperature that is not above 0.

    >>> acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]], requires_grad=True)
    >>> soft_modularity(acts, torch.tensor([0, 0, 1, 1]), top=2, temperature=1e-3)
    tensor(0.5000, grad_fn=<SubBackward0>)
    """
    _check(activations, temperature, labels)
    units = activations.shape[1]
    seen, of = labels.unique(return_inverse=True)
    hot = torch.nn.functional.one_hot(of, len(seen)).to(activations.dtype)
    counts = hot.sum(0)[:, None]
    means = hot.T @ activations / counts
    away = activations - means[of]
    variance = hot.T @ away.square() / counts
    varies = variance > 1e-12 * (hot.T @ activations.square() / counts)
    deviation = torch.where(varies, variance, 1.0).sqrt()
    with torch.no_grad():
        chosen = representatives(means, (activations > 0).any(0), min(50, max(units // 4, 1)) if top is None else top)
        member = representative_sets(chosen, units)
        partition = torch.where(member, means, -torch.inf).argmax(0)
    fires = torch.sigmoid(away / (temperature * deviation[of])) * (member & varies)[of]
    scaled = fires / counts[of].sqrt()
    adjacency = scaled.new_zeros(units, units)
    for c in range(len(seen)):
        rows = scaled[of == c]
        adjacency = adjacency + rows.T @ rows
    adjacency = adjacency - torch.diag(adjacency.diagonal())
    degrees = adjacency.sum(0)
    total = degrees.sum()
    if not total > 0:
        return total  # 0, with a gradient of 0
    inside = adjacency[partition[:, None] == partition].sum()
    shares = degrees.new_zeros(len(seen)).index_add(0, partition, degrees) / total
    return inside / total - shares.square().sum()


def soft_class_selectivity(
    activations: Float[Tensor, "samples units"], labels: Int[Tensor, " samples"]
) -> Float[Tensor, " units"]:
    r"""Class selectivity of each unit over a batch.

    .. math:: \frac{m_1 - m_2}{m_1 + m_2}

    with the largest class mean and the mean of the others. It needs no softening: it is :func:`cofire.class_selectivity`
    of the batch, and has a gradient wherever one class mean is the largest.

    Range:
        0 to 1 for activations that are not negative.

    Source:
        Leavitt and Morcos 2020, who use it as a term of the loss with either sign. *Departure:* no small constant below the
        fraction bar.

    Args:
        activations: One row per sample of the batch, after the non-linearity.
        labels: Their classes.

    Returns:
        Selectivities; 0 for a unit whose class means are all 0, and with fewer than two classes in the batch.

    Raises:
        InputError: Not [samples, units], or labels that do not fit.

    >>> soft_class_selectivity(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]))
    tensor([0.5000])
    """
    _check(activations, 1.0, labels)
    seen, of = labels.unique(return_inverse=True)
    if len(seen) < 2:
        return 0 * activations.sum(0)
    hot = torch.nn.functional.one_hot(of, len(seen)).to(activations.dtype)
    means = hot.T @ activations / hot.sum(0)[:, None]
    largest = means.amax(0)
    others = (means.sum(0) - largest) / (len(seen) - 1)
    total = largest + others
    return torch.where(total != 0, (largest - others) / torch.where(total != 0, total, 1.0), 0.0)


def _check(activations: Tensor, temperature: float, labels: Tensor | None = None) -> None:
    if activations.ndim != 2 or not len(activations) or not activations.is_floating_point():
        raise InputError(
            "activations must be [samples, units] of floating point numbers", f"found {tuple(activations.shape)}",
            "Pool positions first: activations.mean((2, 3)) for a convolution, mean(1) for tokens.",
        )  # fmt: skip
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError("temperature must be a number above 0", f"found {temperature!r}")
    if labels is not None and labels.shape != activations.shape[:1]:
        raise InputError("there must be one label per sample", f"found {tuple(labels.shape)} for {len(activations)} samples")
