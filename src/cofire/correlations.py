"""Correlation of two series, of their ranks, and given a third."""

import math

import numpy as np

__all__ = ["constant", "correlation", "partial_correlation", "rank_correlation", "ranks"]


def constant(x: np.ndarray) -> bool:
    """Whether a series is empty, or varies by no more than rounding."""
    return not len(x) or float(np.ptp(x)) <= 1e-12 * max(1.0, float(np.abs(x).max()))


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN for fewer than three pairs, or where one side is constant."""
    if len(x) < 3 or constant(x) or constant(y):
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1, 1))


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their mean rank."""
    from scipy.stats import rankdata

    return rankdata(x)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation, ties at their mean rank; NaN likewise.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 1.0, 10.0, 100.0]))
    1.0
    """
    return math.nan if len(x) < 3 or constant(x) or constant(y) else correlation(ranks(x), ranks(y))


def partial_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Correlation of two series once a third is taken out of both; NaN where nothing of one is left.

    >>> partial_correlation(np.array([1.0, 3, 2, 4]), np.array([1.0, 3, 2, 4]), np.array([1.0, 2, 3, 4])) > 0.99
    True
    """
    both, left, right = correlation(x, y), correlation(x, given), correlation(y, given)
    rest = (1 - left**2) * (1 - right**2)
    if math.isnan(both) or math.isnan(rest) or rest < 1e-12:
        return math.nan
    return max(-1.0, min(1.0, (both - left * right) / math.sqrt(rest)))
