"""How far what was measured on one data set holds on another, for the same model."""

import math
from typing import Any

from cofire.correlations import correlation, rank_correlation
from cofire.errors import InputError
from cofire.firing import live_units
from cofire.measures import MEASURES, unit_values
from cofire.stats import FiringStats

__all__ = ["carry_over", "check_pair"]


def check_pair(stats: FiringStats, test: FiringStats) -> None:
    """Raise unless both are of one model, with the same layers, units and classes.

    Raises:
        InputError: Says what differs.
    """
    found, remedy = "", ""
    digests = [part.header.get("model", {}).get("digest") for part in (stats, test)]
    if None not in digests and digests[0] != digests[1]:
        found, remedy = f"found weights with digests {digests[0]} and {digests[1]}", "Record both with the same weights."
    elif list(stats) != list(test):
        odd = [repr(name) for name in sorted(set(stats) ^ set(test))[:3]]
        found = f"only one of them has {', '.join(odd)}" if odd else "found another order of layers"
    elif stats.classes != test.classes:
        found = f"found {stats.classes} and {test.classes} classes"
    for name in stats if not found else ():
        if stats[name].units != test[name].units:
            found = f"layer {name!r} has {stats[name].units} and {test[name].units} units"
    if found:
        wanted = "train and test statistics must be of one model, with the same layers and classes"
        raise InputError(wanted, found, remedy)


def carry_over(stats: FiringStats, test: FiringStats) -> list[dict[str, Any]]:
    """How far per-unit measures carry over to other data: for each layer and measure the two means and the correlation.

    Args:
        stats: Statistics.
        test: Statistics of the same model on other data.

    Returns:
        Rows with layer, measure, units (live in both), mean, test_mean, pearson and spearman; correlations are NaN where
        one of the two is constant.
    """
    rows = []
    for name, layer in stats.items():
        live = (live_units(layer) & live_units(test[name])).numpy()
        for row in MEASURES:
            if not row.per_unit:
                continue
            mine, theirs = unit_values(layer, row.name), unit_values(test[name], row.name)
            if mine is None or theirs is None:
                continue
            a, b = mine.numpy()[live], theirs.numpy()[live]
            means = (float(a.mean()), float(b.mean())) if len(a) else (math.nan, math.nan)
            rows.append({
                "layer": name, "measure": row.name, "units": len(a), "mean": means[0], "test_mean": means[1],
                "pearson": correlation(a, b), "spearman": rank_correlation(a, b),
            })  # fmt: skip
    return rows
