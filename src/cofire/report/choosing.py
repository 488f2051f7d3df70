"""Which units get which detail, so that a page stays small whatever the number of units and classes."""

from dataclasses import dataclass, field

import numpy as np

from cofire.information import mutual_information
from cofire.stats import FiringStats

__all__ = ["Chosen", "choose", "fewer_bins", "spread"]

_TABLE_UNITS = 100_000  # rows of the table of units
_PROFILE_NUMBERS = 600_000  # unit by class: 50,000 units of 10 classes whole, or 6,000 of 100
_HISTOGRAM_NUMBERS = 1_500_000  # unit by bin
_CLASS_HISTOGRAM_NUMBERS = 600_000  # unit by class by bin
_MOST_BINS = 60  # more cannot be told apart in a picture of one unit


@dataclass(frozen=True)
class Chosen:
    """Numbers of the units, ascending, that each kind of detail is given for, by layer.

    Args:
        table: Units in the table.
        profile: Units with one number per class.
        histogram: Units with a histogram over all samples.
        by_class: Units with a histogram for each class; none where the statistics hold none.
        left_out: Sentences on what was left out, by section.
    """

    table: dict[str, np.ndarray]
    profile: dict[str, np.ndarray]
    histogram: dict[str, np.ndarray]
    by_class: dict[str, np.ndarray]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def choose(stats: FiringStats) -> Chosen:
    """The units to show in detail: all where they fit, else those of each layer with the largest mutual information."""
    units = {name: layer.units for name, layer in stats.items()}
    ranks = {name: mutual_information(layer).argsort(descending=True, stable=True).numpy() for name, layer in stats.items()}
    bins = {name: fewer_bins(layer.bins) or 30 for name, layer in stats.items()}
    counted = {name for name, layer in stats.items() if layer.histogram is not None or layer.sketch is not None}
    by_class = {name for name, layer in stats.items() if layer.class_histogram is not None and fewer_bins(layer.bins)}
    costs = {
        "table": (dict.fromkeys(units, 1), _TABLE_UNITS, set(units)),
        "profile": (dict.fromkeys(units, stats.classes), _PROFILE_NUMBERS, set(units)),
        "histogram": (bins, _HISTOGRAM_NUMBERS, counted),
        "by_class": ({name: stats.classes * bins[name] for name in units}, _CLASS_HISTOGRAM_NUMBERS, by_class),
    }
    words = {
        "table": ("table", "the table"), "profile": ("firing", "values by class"),
        "histogram": ("units", "histograms"), "by_class": ("units", "histograms by class"),
    }  # fmt: skip
    sets = {}
    left_out: dict[str, list[str]] = {}
    for kind, (cost, budget, able) in costs.items():
        here = {name: units[name] for name in units if name in able}
        counts = spread(here, {name: cost[name] for name in here}, budget)
        sets[kind] = {name: np.sort(ranks[name][: counts.get(name, 0)]) for name in units}
        kept, total = sum(counts.values()), sum(here.values())
        if kept < total:
            section, what = words[kind]
            verb = "covers" if kind == "table" else "cover"
            text = f"To keep this page small, {what} {verb} {kept:,} of {total:,} units: "
            left_out.setdefault(section, []).append(f"{text}those of each layer with the largest mutual information.")
    for name, layer in stats.items():
        if layer.class_histogram is not None and not fewer_bins(layer.bins):
            text = f"The {layer.bins:,} bins of {name!r} do not join evenly into fewer: "
            left_out.setdefault("units", []).append(f"{text}there are no histograms by class.")
            break
    return Chosen(**sets, left_out=left_out)


def spread(units: dict[str, int], cost: dict[str, int], budget: int) -> dict[str, int]:
    """Units per layer within a budget: the same number everywhere, small layers whole.

    >>> spread({"a": 10, "b": 100}, {"a": 1, "b": 1}, 60)
    {'a': 10, 'b': 50}
    """
    low, high = 0, max(units.values(), default=0)
    while low < high:  # the largest number that fits
        middle = (low + high + 1) // 2
        if sum(min(count, middle) * cost[name] for name, count in units.items()) <= budget:
            low = middle
        else:
            high = middle - 1
    return {name: min(count, low) for name, count in units.items()}


def fewer_bins(bins: int) -> int | None:
    """The largest number of bins up to 60 into which the recorded ones join evenly; None if that is too few to show a shape.

    >>> fewer_bins(30), fewer_bins(600), fewer_bins(997)
    (30, 60, None)
    """
    found = next(b for b in range(min(bins, _MOST_BINS), 0, -1) if bins % b == 0)
    return found if found >= min(bins, 10) else None
