"""Whether a measure ranks trained models as a target does: Kendall's tau, and the same within each hyper-parameter's axis."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cofire.errors import InputError, checked_seed

if TYPE_CHECKING:
    import pandas

__all__ = ["Granulated", "compare", "granulated_kendall", "kendall"]

_RESAMPLES = 1000


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    r"""Kendall's tau-b: of the pairs that both series tell apart, how many more they rank alike than not.

    .. math:: \tau = \frac{\sum_{i<j} \operatorname{sign}(x_i - x_j) \operatorname{sign}(y_i - y_j)}
        {\sqrt{|\{i<j : x_i \ne x_j\}| \; |\{i<j : y_i \ne y_j\}|}}

    Range:
        -1 (reversed) to 1 (the same order).

    Source:
        Kendall 1945. Jiang et al. 2020 divide by the number of all pairs, which is the same without ties.

    Args:
        x: One number per model.
        y: Likewise.

    Returns:
        The correlation; NaN where a series is constant. Models for which a number is NaN are left out.

    Raises:
        InputError: Series of different length.

    >>> kendall([1, 2, 3], [10, 30, 20])
    0.3333333333333333
    """
    if len(x) != len(y):
        raise InputError("there must be one value and one target per model", f"found {len(x)} and {len(y)}")
    pairs = np.array([pair for pair in zip(x, y, strict=True) if not np.isnan(pair).any()], dtype=float).reshape(-1, 2)
    return float(_taus(pairs[:, 0], pairs[:, 1], np.ones((1, len(pairs))))[0])


def _taus(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Tau-b of samples in which model i occurs counts[:, i] times; NaN where a series is constant in one."""
    left, right = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    alike, apart, others = (((counts @ table) * counts).sum(1) for table in (left * right, left**2, right**2))
    both = np.sqrt(apart * others)
    return np.divide(alike, both, out=np.full(len(both), math.nan), where=both > 0)


@dataclass(frozen=True)
class Granulated:
    """Granulated Kendall's tau of one measure.

    Args:
        axes: By hyper-parameter, the mean tau of the groups in which only it changes; NaN where there is no such group.
        mean: Mean over the hyper-parameters that have one.
        low: Lower end of its interval over models.
        high: Upper end.
        notes: What was left out, in words.
    """

    axes: dict[str, float]
    mean: float
    low: float
    high: float
    notes: tuple[str, ...]


def granulated_kendall(
    values: Sequence[float], targets: Sequence[float], settings: Sequence[Mapping[str, Hashable]],
    level: float = 0.95, seed: int = 0,
) -> Granulated:  # fmt: skip
    r"""Kendall's tau among models that differ in one hyper-parameter only, averaged over all such groups and hyper-parameters.

    .. math:: \psi_i = \frac{1}{m_i} \sum_{g=1}^{m_i} \tau_{ig}, \qquad \Psi = \frac{1}{n} \sum_i \psi_i

    with the taus of the groups g that share all hyper-parameters but i. A measure that only follows one hyper-parameter which
    also decides the target has a large tau and a small granulated one.

    Range:
        -1 to 1.

    Source:
        Jiang et al. 2020, "Fantastic generalization measures and where to find them". *Departure:* a group in which
        a series is constant is left out and counted; there it would add a 0. Ties as in :func:`kendall`. The interval is ours:
        a percentile bootstrap in which models are drawn, each with its place in a group of every axis. Drawing groups instead
        forgets that axes share models, and its intervals are too narrow.

    Args:
        values: A measure of each model.
        targets: What it should rank, such as the test accuracy or the gap to the training accuracy.
        settings: The hyper-parameters of each model, all with the same names. Models with the same setting (other seeds) are
            averaged first.
        level: Share of resampled values inside the interval.
        seed: Of the resampling.

    Returns:
        By hyper-parameter, their mean, its interval, and words on what was left out.

    Raises:
        InputError: Numbers that do not fit, or other hyper-parameters in one of the settings.

    >>> grid = [{"rate": rate, "width": width} for rate in (1, 2, 3) for width in (1, 2, 3)]
    >>> values = [10 * setting["rate"] + setting["width"] for setting in grid]
    >>> found = granulated_kendall(values, [10 * setting["rate"] - setting["width"] for setting in grid], grid)
    >>> found.axes, found.mean
    ({'rate': 1.0, 'width': -1.0}, 0.0)
    """
    places, names = _places(settings)
    if not len(values) == len(targets) == len(settings):
        raise InputError(
            "there must be one value, one target and one setting per model",
            f"found {len(values)}, {len(targets)} and {len(settings)}",
        )
    found = list(places)
    x, y = (np.array([np.mean([series[i] for i in at]) for at in places.values()]) for series in (values, targets))
    known = [math.isfinite(a + b) for a, b in zip(x, y, strict=True)]
    lots = np.random.default_rng(checked_seed(seed)).multinomial(
        len(found), np.full(len(found), 1 / len(found)), size=_RESAMPLES
    )
    counts = np.concatenate([np.ones((1, len(found))), lots])  # the models themselves, then resamples of them
    axes, notes = [], [] if all(known) else [f"{known.count(False)} of {len(known)} settings have no number"]
    for axis, name in enumerate(names):
        groups: dict[tuple, list[int]] = {}
        for at, setting in enumerate(found):
            if known[at]:
                groups.setdefault(setting[:axis] + setting[axis + 1 :], []).append(at)
        groups = {rest: at for rest, at in groups.items() if len(at) > 1}
        taus = np.array([_taus(x[at], y[at], counts[:, at]) for at in groups.values()]).reshape(len(groups), len(counts))
        constant = int(np.isnan(taus[:, 0]).sum())
        if not groups:
            notes.append(f"no two models differ in {name} only")
        elif constant:
            notes.append(f"{constant} of {len(groups)} groups of {name} left out: a series is constant there")
        axes.append(_mean(taus))
    means = _mean(np.array(axes))
    drawn = means[1:][~np.isnan(means[1:])]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (math.nan, math.nan)
    each = {name: float(psi[0]) for name, psi in zip(names, axes, strict=True)}
    return Granulated(each, float(means[0]), float(low), float(high), tuple(notes))


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    known = ~np.isnan(rows)
    count = known.sum(0)
    return np.divide(np.where(known, rows, 0).sum(0), count, out=np.full(rows.shape[1], math.nan), where=count > 0)


def _places(settings: Sequence[Mapping[str, Hashable]]) -> tuple[dict[tuple, list[int]], list[str]]:
    """Which models have each setting, and the names of the hyper-parameters."""
    if not settings or not settings[0]:
        raise InputError("there must be at least one model with a hyper-parameter", "found none")
    names = list(settings[0])
    places: dict[tuple, list[int]] = {}
    for at, setting in enumerate(settings):
        if setting.keys() != settings[0].keys():
            raise InputError(
                "all settings must have the same hyper-parameters",
                f"the first has {', '.join(names)}, number {at} has {', '.join(setting)}",
            )
        places.setdefault(tuple(setting[name] for name in names), []).append(at)
    return places, names


def compare(
    models: Sequence[Mapping[tuple[str, str], float]], targets: Sequence[float], settings: Sequence[Mapping[str, Hashable]],
    level: float = 0.95, seed: int = 0,
) -> "pandas.DataFrame":  # fmt: skip
    """How well each measure and baseline ranks trained models: the largest granulated taus first.

    Args:
        models: Values of each model by (layer, measure), from :func:`cofire.trajectories.values_of`. What a model lacks is NaN.
        targets: As for :func:`granulated_kendall`.
        settings: Likewise.
        level: Likewise.
        seed: Likewise.

    Returns:
        A pandas frame with columns layer, measure, kendall, granulated, low, high, one for each hyper-parameter, and a note.
        The largest of many is large by chance too: compare it with the baselines in the same frame.
    """
    import pandas as pd

    rows = []
    for key in dict.fromkeys(key for model in models for key in model):
        values = [model.get(key, math.nan) for model in models]
        found = granulated_kendall(values, targets, settings, level, seed)
        layer, measure = key
        rows.append({
            "layer": layer, "measure": measure, "kendall": kendall(values, targets), "granulated": found.mean,
            "low": found.low, "high": found.high, **found.axes, "note": "; ".join(found.notes),
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.sort_values("granulated", key=lambda column: -column.abs(), kind="stable", ignore_index=True)
