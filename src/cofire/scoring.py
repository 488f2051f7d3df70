"""How good predictions are, and whether one set of them is better than another on the same samples."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = [
    "accuracy",
    "calibration_error",
    "correct",
    "lacking",
    "log_loss",
    "losses",
    "mcnemar",
    "paired_interval",
    "possible",
    "reliability",
]

_RESAMPLES = 2000
_CHUNK = 2**18  # numbers that stay in the cache

_UNLIKELY = 1e-3
"""Samples that lack some classes are not drawn at random where chance leaves any such set out less often than this."""


def correct(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> Bool[Tensor, " samples"]:
    """Which samples are classified correctly; of equal scores the first class counts."""
    _check(logits, labels)
    return logits.argmax(1) == labels


def accuracy(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Share of samples classified correctly.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return float(correct(logits, labels).double().mean())


def losses(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """Negative log-likelihood of the true class of every sample, in nats, float64."""
    _check(logits, labels)
    return -logits.double().log_softmax(1).gather(1, labels[:, None])[:, 0]


def possible(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> Bool[Tensor, " samples"]:
    """Which samples are of a class that the scores do not rule out by minus infinity.

    >>> possible(torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]]), torch.tensor([0, 1])).tolist()
    [True, False]
    """
    return logits.gather(1, labels[:, None])[:, 0] > -math.inf


def log_loss(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> float:
    """Mean negative log-likelihood of the true class, in nats."""
    return float(losses(logits, labels).mean())


def calibration_error(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], bins: int = 15) -> float:
    r"""Expected calibration error: how far the largest probability is from the share of samples that it is right on.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over bins of equal width of the largest probability. Range: 0 to 1; lower is better.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", equation 3.

    >>> calibration_error(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    0.0
    """
    samples, confidence, right = reliability(logits, labels, bins)
    return float((samples * (right - confidence)).abs().sum() / samples.sum())


def reliability(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], bins: int = 15
) -> Float[Tensor, "3 bins"]:
    """How sure the scores are and how often they are right, in bins of equal width of the largest probability.

    Source:
        Guo et al. 2017, "On calibration of modern neural networks", equations 1 and 2.

    Args:
        logits: Class scores.
        labels: True classes.
        bins: Number of bins between 0 and 1.

    Returns:
        By bin the number of samples, the mean of their largest probability, and the share of them that is right; zeros for
        a bin without samples.

    >>> reliability(torch.zeros(4, 2), torch.tensor([0, 1, 0, 0]), bins=2).tolist()
    [[0.0, 4.0], [0.0, 0.5], [0.0, 0.75]]
    """
    right = correct(logits, labels).double()
    confidence = logits.double().softmax(1).amax(1)
    place = (confidence * bins).nan_to_num(0.0).long().clamp(max=bins - 1)  # scores that are not numbers give bins that are not
    sums = torch.zeros(3, bins, dtype=torch.float64, device=logits.device)
    sums.index_add_(1, place, torch.stack([torch.ones_like(right), confidence, right]))
    sums[1:] /= sums[0].clamp(min=1)
    return sums


def mcnemar(mine: Bool[Tensor, " samples"], theirs: Bool[Tensor, " samples"]) -> float:
    """Exact two-sided p-value of McNemar's test that two classifiers are right equally often.

    Only samples on which exactly one of them is right count; with none of these it is 1.

    Source:
        McNemar 1947; the exact binomial form.

    >>> mcnemar(torch.tensor([True, True, True]), torch.tensor([False, False, True]))
    0.5
    """
    from scipy.stats import binomtest

    gained, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)


def lacking(labels: Int[Tensor, " samples"], counts: Int[Tensor, " classes"]) -> tuple[list[int], bool]:
    """Which classes no sample is of, and whether samples drawn at random would hardly ever lack them, or some of them.

    They are those that happened to be missing, so the chance is that of any set of so many classes.

    Args:
        labels: True classes.
        counts: Samples of each class where they are drawn from.

    >>> lacking(torch.zeros(20, dtype=torch.int64), torch.tensor([50, 50]))
    ([1], True)
    """
    missing = (torch.bincount(labels.cpu(), minlength=len(counts)) == 0).nonzero()[:, 0]
    shares = (counts.double().cpu() / counts.sum())[missing]
    most = shares.sort(descending=True).values.cumsum(0).clamp(max=1)
    every, size = most.new_tensor(len(counts) + 1.0), torch.arange(1, len(missing) + 1, dtype=torch.float64)
    sets = every.lgamma() - (size + 1).lgamma() - (every - size).lgamma()  # logarithm of the binomial coefficient
    never = len(labels) * torch.log1p(-most) + sets < math.log(_UNLIKELY)
    return missing.tolist(), bool(never.any())


def paired_interval(
    differences: Float[Tensor, "samples ..."] | Int[Tensor, "samples ..."], level: float = 0.95, seed: int = 0
) -> tuple[Any, Any]:
    """Percentile bootstrap interval, over samples, of the mean of paired differences.

    Args:
        differences: One number per sample, such as correct with minus correct without; or several, [samples, comparisons],
            which are resampled together.
        level: Share of resampled means inside.
        seed: Of the resampling.

    Returns:
        Lower and upper end: numbers, or arrays [comparisons]. What varies is the choice of samples; the training of the models
        is not repeated.

    >>> paired_interval(torch.ones(10))
    (1.0, 1.0)
    """
    values, lots = differences.double().cpu().numpy(), np.random.default_rng(seed)
    n = len(values)
    if not n:
        raise InputError("an interval needs at least one sample", "found none")
    means = []
    for start in range(0, _RESAMPLES, rows := max(1, min(_RESAMPLES, _CHUNK // n))):
        drawn = min(rows, _RESAMPLES - start)
        places = lots.integers(n, size=(drawn, n)) + n * np.arange(drawn)[:, None]
        means.append(np.bincount(places.ravel(), minlength=drawn * n).reshape(drawn, n) @ values / n)
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(low), float(high)) if values.ndim == 1 else (low, high)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise InputError(
            "class scores must be [samples, classes] with a label for each",
            f"found {tuple(logits.shape)} and {tuple(labels.shape)}",
        )
