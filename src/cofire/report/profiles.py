"""The columns that say what single units do: per unit, per unit and class, histograms, and the layers' mean maps."""

import warnings

import numpy as np
import torch

from cofire.distributions import activation_counts, nonzero_range
from cofire.errors import CofireWarning
from cofire.firing import always_on_units, class_means, dead_units, firing_probability, live_units, unit_spread
from cofire.information import class_selectivity
from cofire.layer import LayerStats
from cofire.measures import MEASURES, unit_values
from cofire.report.choosing import Chosen, fewer_bins
from cofire.report.columns import Column, column, decimals
from cofire.report.ordering import by_class, by_likeness
from cofire.report.violins import outline, quartiles
from cofire.stats import FiringStats

__all__ = ["SHARE", "class_columns", "histogram_columns", "map_columns", "measure_columns", "unit_columns"]

SHARE = 10_000  # shares are kept to a hundredth of a percent
_MAP_NUMBERS = 300_000
_SMALLEST_MAP = 4


def unit_columns(stats: FiringStats, chosen: Chosen, prefix: str = "unit") -> dict[str, Column]:
    """One value per unit of the table, all layers one after the other."""
    parts: dict[str, list[np.ndarray]] = {}
    largest: dict[str, list[float]] = {}
    names = [
        row.name
        for row in MEASURES
        if row.per_unit and any(unit_values(layer, row.name) is not None for layer in stats.values())
    ]
    for name, layer in stats.items():
        rows, dead = chosen.table[name], dead_units(layer).numpy()
        mean, std = unit_spread(layer)
        low, high = nonzero_range(layer)
        values = {"firing_rate": layer.fire.sum(0) / layer.samples, "mean": mean, "std": std, "low": low, "high": high}
        values |= {"zeros": layer.zeros.sum(0), "dead": torch.from_numpy(dead), "always_on": always_on_units(layer)}
        values |= {"preferred_class": torch.from_numpy(np.where(dead, np.nan, _preferred(layer)))}
        for measure in names:
            found = unit_values(layer, measure)
            values[measure] = torch.full((layer.units,), torch.nan) if found is None else found
        for key, value in values.items():
            array = value.double().numpy()[rows]
            parts.setdefault(key, []).append(array)
            largest.setdefault(key, []).append(float(np.nanmax(np.abs(array), initial=0.0)))
    if not parts:
        return {}
    parts["unit"] = list(chosen.table.values())
    largest["unit"] = [0.0]
    made = {}
    for key, values in parts.items():
        if key in ("mean", "std", "low", "high"):  # the layer with the smallest activations decides the step
            per = decimals(min((size for size in largest[key] if size > 0), default=0.0), 5, most=2e9)
            per = min(per, decimals(max(largest[key]), 9, most=2e9))
        elif key == "firing_rate":
            per = 1_000_000
        else:
            per = _step(largest[key]) if key in names else 1
        made[f"{prefix}/{key}"] = column(np.concatenate(values), "units", per)
    return made


def measure_columns(stats: FiringStats) -> dict[str, Column]:
    """For every per-unit measure and layer: quartiles over live units, and the outline of their distribution."""
    made = {}
    for row in MEASURES:
        if not row.per_unit:
            continue
        values = []
        for layer in stats.values():
            found = unit_values(layer, row.name)
            values.append(np.empty(0) if found is None else found[live_units(layer)].numpy())
        if not any(len(part) for part in values):
            continue
        ends = np.stack([quartiles(part) for part in values])
        made[f"quartiles/{row.name}"] = column(ends, "layers quartiles", _step([_largest(ends)]))
        made[f"outline/{row.name}"] = column(np.stack([outline(part) for part in values]), "layers points", 100)
    return made


def class_columns(stats: FiringStats, chosen: Chosen) -> dict[str, Column]:
    """For every layer, unit and class: firing probability, mean activation, share of the softmax; and orders of units."""
    made = {}
    for index, (name, layer) in enumerate(stats.items()):
        rows = chosen.profile[name]
        if len(rows) < layer.units:
            made[f"profile_units/{index}"] = column(rows, "units")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CofireWarning)  # an empty class is said in words
            firing = firing_probability(layer)[:, rows].T.numpy()
        means = class_means(layer)
        shares = torch.softmax(means, 1)[:, rows].T.numpy()
        means = means[:, rows].T.numpy()
        made[f"firing/{index}"] = column(firing, "units classes", SHARE)
        made[f"means/{index}"] = column(means, "units classes", decimals(_largest(means), 5))
        made[f"shares/{index}"] = column(shares, "units classes", decimals(1 / max(layer.units, 1), 5))
        preferred = np.where(dead_units(layer).numpy(), -1, _preferred(layer))[rows]
        order = by_class(preferred, class_selectivity(layer).numpy()[rows])
        made[f"order_class/{index}"] = column(order, "units")
        made[f"order_likeness/{index}"] = column(by_likeness(firing), "units")
    return made


def histogram_columns(stats: FiringStats, chosen: Chosen) -> dict[str, Column]:
    """Histograms of non-zero activations over all samples and over each class's, with their ranges and the zeros beside."""
    made = {}
    for index, (name, layer) in enumerate(stats.items()):
        rows, picked = chosen.histogram[name], chosen.by_class[name]
        bins = fewer_bins(layer.bins)
        if len(rows):
            counts = activation_counts(layer, bins or 30)[:, rows].T
            if len(rows) < layer.units:
                made[f"histogram_units/{index}"] = column(rows, "units")
            made[f"histogram/{index}"] = column(counts.round().numpy(), "units bins")
        if len(picked) and bins and layer.class_histogram is not None and layer.class_histogram_edges is not None:
            made[f"by_class_units/{index}"] = column(picked, "units")
            counts = layer.class_histogram[:, :, picked].view(layer.classes, bins, -1, len(picked)).sum(2)
            made[f"by_class/{index}"] = column(counts.permute(2, 0, 1).numpy(), "units classes bins")
            made[f"by_class_zeros/{index}"] = column(layer.zeros[:, picked].T.numpy(), "units classes")
            edges = layer.class_histogram_edges[:, :, picked].permute(0, 2, 1).numpy()
            per = decimals(_largest(edges), 5)
            made[f"by_class_low/{index}"] = column(edges[0], "units classes", per)
            made[f"by_class_high/{index}"] = column(edges[1], "units classes", per)
    return made


def map_columns(stats: FiringStats) -> tuple[dict[str, Column], list[str]]:
    """Mean activation over channels and a class's samples at every position, its mean over classes, and what was left out."""
    with_maps = {i: layer for i, layer in enumerate(stats.values()) if layer.maps is not None}
    sizes = [layer.maps.shape[1:].numel() for layer in with_maps.values() if layer.maps is not None]
    classes, shrink, words = stats.classes, 1, []
    while sum(sizes) * classes > _MAP_NUMBERS * shrink**2 and shrink < 4:
        shrink *= 2
    if shrink > 1:
        words.append(f"To keep this page small, {shrink} x {shrink} neighbouring positions are averaged into one.")
    most = max(int(_MAP_NUMBERS * shrink**2 / max(sum(sizes), 1)), 4)
    if most < classes:
        words.append(f"To keep this page small, only the first {most:,} of {classes:,} classes are shown.")
    made = {}
    for index, layer in with_maps.items():
        maps = layer.maps / layer.class_counts[:, None, None]  # type: ignore[operator]
        height, width = (max(min(side, _SMALLEST_MAP), side // shrink) for side in maps.shape[1:])
        maps = torch.nn.functional.adaptive_avg_pool2d(maps[:, None], (height, width))[:, 0]
        per = decimals(_largest(maps.numpy()), 4)
        made[f"maps/{index}"] = column(maps[:most], "classes height width", per)
        made[f"maps_mean/{index}"] = column(maps.nanmean(0), "height width", per)
    return made, words


def _step(largest: list[float]) -> float:
    """A hundred-thousandth, or more where a measure has no bounds and is very large."""
    return min(SHARE * 10, decimals(max(largest, default=0.0), 9) if max(largest, default=0.0) > 1 else SHARE * 10)


def _preferred(layer: LayerStats) -> np.ndarray:
    return torch.nan_to_num(class_means(layer), nan=-torch.inf).argmax(0).numpy()


def _largest(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0
