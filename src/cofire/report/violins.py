"""The distribution of a measure over a layer's units: quartiles and a smooth outline."""

import numpy as np

__all__ = ["POINTS", "QUARTILES", "outline", "quartiles"]

POINTS = 64
QUARTILES = ("least", "quarter", "median", "three_quarters", "most", "mean")
_FINE = 512


def quartiles(values: np.ndarray) -> np.ndarray:
    """Smallest value, quartiles, largest value and mean; NaN where there is no value."""
    if not len(values):
        return np.full(len(QUARTILES), np.nan)
    return np.append(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)), values.mean())


def outline(values: np.ndarray) -> np.ndarray:
    """A kernel density estimate at 64 points from the smallest to the largest value, its peak 1; zeros where there is no shape.

    The kernel is Gaussian, its width Silverman's rule; what it would put outside the range is reflected inside.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if len(values) < 5 or high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        return np.zeros(POINTS)
    counts = np.histogram(values, _FINE, (low, high))[0].astype(np.float64)
    spread = np.diff(np.quantile(values, (0.25, 0.75)))[0] / 1.34
    spread = min(spread, values.std()) if spread > 0 else values.std()
    width = max(0.9 * spread * len(values) ** -0.2 / (high - low) * _FINE, 2.0)
    reach = min(int(np.ceil(4 * width)), _FINE)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = np.convolve(np.pad(counts, reach, mode="symmetric"), kernel, mode="valid")
    shape = np.interp(np.linspace(0, _FINE - 1, POINTS), np.arange(_FINE), smooth)
    return shape / shape.max()
