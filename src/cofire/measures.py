"""The table of measures: the one place from which reports, tables, options, docs and law tests take what a measure is."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cofire import firing, information
from cofire.errors import CofireWarning, InputError
from cofire.firing import always_on_units, class_means, dead_units, live_units, unit_spread
from cofire.layer import LayerStats
from cofire.stats import FiringStats

if TYPE_CHECKING:
    import pandas

__all__ = ["MEASURES", "Measure", "measure", "summary", "table", "unit_values"]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Args:
        name: Name of the function in :mod:`cofire`.
        symbol: As written in formulas.
        function: Takes a :class:`~cofire.LayerStats`, gives float64.
        axes: Axes of the result, such as "classes units".
        unit: "bits", "share" or "ratio".
        least: Smallest possible value for a layer; None where there is none.
        most: Largest possible value for a layer; None where there is none.
        better: What a large value means, in a few words.
        source: Paper and equation.
        words: What the number says, in one sentence.
    """

    name: str
    symbol: str
    function: Callable[[LayerStats], Tensor]
    axes: str
    unit: str
    least: Callable[[LayerStats], float] | None
    most: Callable[[LayerStats], float] | None
    better: str
    source: str
    words: str

    @property
    def per_unit(self) -> bool:
        """Whether it gives one number per unit."""
        return self.axes == "units"


def _zero(_layer: LayerStats) -> float:
    return 0.0


def _one(_layer: LayerStats) -> float:
    return 1.0


def _log2(value: float) -> float:
    return float(torch.tensor(float(value)).double().log2())


def _information_limit(layer: LayerStats) -> float:
    return min(1.0, _log2(max(int((layer.class_counts > 0).sum()), 1)))


def _excess_least(layer: LayerStats) -> float:
    return -max(int((layer.class_counts > 0).sum()) - 1, 0) / (2 * max(layer.samples, 1) * 0.6931471805599453)


def _rarest(layer: LayerStats) -> float:
    counts = layer.class_counts[layer.class_counts > 0]
    return _log2(layer.samples / int(counts.min())) if len(counts) else 0.0


MEASURES: tuple[Measure, ...] = (
    Measure(
        "firing_probability", "P(fires | c)", firing.firing_probability, "classes units", "share", _zero, _one,
        "the unit fires for nearly every sample of the class", "000, eq. 14",
        "Share of a class's samples in which the unit fires.",
    ),
    Measure(
        "activation_entropy", "H(a)", information.activation_entropy, "units", "bits", _zero, lambda layer: _log2(layer.bins),
        "activations spread evenly over their range", "000 and 001, section 5",
        "How evenly the unit's non-zero activations spread over their range; it depends on the bins and the number of samples.",
    ),
    Measure(
        "firing_entropy", "H(Q)", information.firing_entropy, "units", "bits", _zero, _one,
        "the unit fires for half of the samples", "004, eq. 3",
        "How hard it is to guess whether the unit fires, without knowing the class.",
    ),
    Measure(
        "mutual_information", "I(Q; Y)", information.mutual_information, "units", "bits", _zero, _information_limit,
        "whether the unit fires tells much about the class", "004, eq. 4",
        "How much knowing whether the unit fires tells about the class.",
    ),
    Measure(
        "mutual_information_excess", "I(Q; Y) - bias", information.mutual_information_excess, "units", "bits", _excess_least,
        _information_limit, "firing is backed by class structure", "ours; Miller-Madow",
        "Mutual information beyond what shuffled labels would give.",
    ),
    Measure(
        "kl_selectivity", "max KL", information.kl_selectivity, "units", "bits", _zero, _rarest,
        "one class changes the unit's firing much", "004, eq. 5",
        "How far the unit's firing for its most unusual class departs from its firing overall.",
    ),
    Measure(
        "class_selectivity", "(m1 - m2)/(m1 + m2)", information.class_selectivity, "units", "ratio", None, None,
        "one class activates the unit far more than the others", "Leavitt and Morcos 2020",
        "How far the class with the largest mean activation stands out; 0 to 1 where activations are not negative.",
    ),
    Measure(
        "softmax_entropy", "H(softmax V)", information.softmax_entropy, "classes", "share", _zero, _one,
        "all units are alike for the class", "002, eq. 2",
        "How evenly a layer's mean activation for a class spreads over its units; larger activations alone lower it.",
    ),
    Measure(
        "softmax_entropy_scale_free", "H(softmax V/mean)", lambda layer: information.softmax_entropy(layer, scale_free=True),
        "classes", "share", _zero, _one, "all units are alike for the class, whatever the scale", "ours",
        "The same with activations divided by their mean, so that scale plays no part.",
    ),
)  # fmt: skip
"""All measures. A new one is a function, a row here and a test."""


def measure(name: str) -> Measure:
    """The row of a measure by its name.

    Raises:
        InputError: No such measure.
    """
    for row in MEASURES:
        if row.name == name:
            return row
    raise InputError(f"no measure named {name!r}", f"there are {', '.join(row.name for row in MEASURES)}")


def unit_values(layer: LayerStats, name: str) -> Tensor | None:
    """A measure's values per unit; None where what it needs was not recorded."""
    try:
        return measure(name).function(layer)
    except InputError:
        if name in ("activation_entropy",) and layer.histogram is None and layer.sketch is None:
            return None
        raise


def _preferred(layer: LayerStats) -> Tensor:
    return torch.nan_to_num(class_means(layer), nan=-torch.inf).argmax(0)


def table(stats: FiringStats) -> "pandas.DataFrame":
    """One row per unit: every measure, firing rate, mean, standard deviation, the class with the largest mean, dead, always on.

    Args:
        stats: Statistics.

    Returns:
        A pandas frame with columns layer, unit, firing_rate, the per-unit measures, mean, std, preferred_class, dead and
        always_on; units are numbered within their layer.

    >>> import cofire, torch
    >>> acts = {"fc1": torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])}
    >>> frame = table(cofire.FiringStats.from_activations(acts, torch.tensor([0, 0, 1])))
    >>> frame[["layer", "unit", "preferred_class", "dead"]].to_dict("list")
    {'layer': ['fc1', 'fc1'], 'unit': [0, 1], 'preferred_class': ['1', '1'], 'dead': [False, False]}
    """
    import pandas as pd

    frames = []
    for name, layer in stats.items():
        mean, std = unit_spread(layer)
        columns = {
            "layer": name,
            "unit": range(layer.units),
            "firing_rate": (layer.fire.sum(0).double() / layer.samples).numpy(),
        }
        for row in MEASURES:
            if row.per_unit and (values := unit_values(layer, row.name)) is not None:
                columns[row.name] = values.numpy()
        dead = dead_units(layer)
        preferred = [stats.class_names[c] if seen else "" for c, seen in zip(_preferred(layer).tolist(), ~dead, strict=True)]
        columns |= {
            "mean": mean.numpy(), "std": std.numpy(), "preferred_class": preferred, "dead": dead.numpy(),
            "always_on": always_on_units(layer).numpy(),
        }  # fmt: skip
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def summary(stats: FiringStats) -> "pandas.DataFrame":
    """One row per layer: units, live, dead and always-on units, total activation entropy, and every measure's mean.

    Per-unit measures are averaged over live units, those that fire for some sample; softmax entropies over classes. The total
    of the activation entropy, the E of papers 000 and 001, stands beside that mean because it falls by itself when units die.

    Args:
        stats: Statistics.

    Returns:
        A pandas frame with columns layer, kind, layout, units, live, dead, always_on, samples, bins, firing_rate,
        activation_entropy_total and the measures.
    """
    import pandas as pd

    rows = []
    for name, layer in stats.items():
        live = live_units(layer)
        count = int(live.sum())
        row = {
            "layer": name, "kind": layer.kind, "layout": layer.layout, "units": layer.units, "live": count,
            "dead": layer.units - count, "always_on": int(always_on_units(layer).sum()), "samples": layer.samples,
            "bins": layer.bins, "firing_rate": int(layer.fire.sum()) / (layer.samples * layer.units),
        }  # fmt: skip
        for entry in MEASURES:
            if entry.axes == "classes units":
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CofireWarning)
                values = unit_values(layer, entry.name)
            if values is None:
                continue
            if entry.name == "activation_entropy":
                row["activation_entropy_total"] = float(values.sum())
            if entry.per_unit:
                row[entry.name] = float(values[live].mean()) if count else float("nan")
            else:
                row[entry.name] = float(values.nanmean())
        rows.append(row)
    return pd.DataFrame(rows)
