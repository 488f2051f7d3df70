"""Everything that a report shows, as plain values and columns of numbers: a pure function of statistics."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import torch

from cofire.boosted import Boosted
from cofire.comparison import carry_over, check_pair
from cofire.curves import Curve
from cofire.familiarities import Familiarity
from cofire.findings import findings
from cofire.firing import always_on_units, live_units
from cofire.images import Images
from cofire.information import softmax_entropy
from cofire.measures import MEASURES, summary
from cofire.report.ablations import ablation_contents
from cofire.report.boosts import boost_contents
from cofire.report.choosing import Chosen, choose, fewer_bins
from cofire.report.columns import Column, column, plain
from cofire.report.derived import derived
from cofire.report.glossary import glossary
from cofire.report.graphs import graph_contents
from cofire.report.profiles import class_columns, histogram_columns, map_columns, measure_columns, unit_columns
from cofire.report.trainings import training_contents
from cofire.report.trusts import trust_contents, unusual_contents
from cofire.selective import Trust
from cofire.stats import FiringStats
from cofire.trajectories import Trajectory
from cofire.verdicts import curve_findings
from cofire.version import __version__

__all__ = ["SCHEMA", "Payload", "payload", "twin"]

SCHEMA = 1
"""Version of the JSON twin: raised when a name or a meaning in it changes."""

_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Payload:
    """What a report shows.

    Args:
        meta: Plain values, ready for JSON.
        columns: Arrays of numbers by name.
    """

    meta: dict[str, Any]
    columns: dict[str, Column]


def payload(
    stats: FiringStats, test: FiringStats | None = None, *, title: str | None = None, command: str | None = None,
    seed: int | None = None, notes: str | None = None, created: datetime | None = None, curves: Sequence[Curve] = (),
    boost: Boosted | None = None, trust: Trust | None = None, familiar: tuple[Familiarity, Images] | None = None,
    trajectories: Mapping[str, Trajectory] | None = None,
) -> Payload:  # fmt: skip
    """What a report on these statistics shows; everything is computed here, the page only draws.

    Args:
        stats: Statistics.
        test: Statistics of the same model on other data.
        title: Title of the page.
        command: The command that made the statistics.
        seed: The seed of training and initial weights.
        notes: A paragraph to show at the top.
        created: When.
        curves: Ablation curves.
        boost: A boost of the model.
        trust: A trust in its predictions.
        familiar: How familiar some pictures are, and the pictures.
        trajectories: Trajectories of trainings, by name.
    """
    stats = stats.to("cpu")
    if test is not None:
        test = test.to("cpu")
        check_pair(stats, test)
    chosen = choose(stats)
    maps, words = map_columns(stats)
    left_out = {key: list(value) for key, value in chosen.left_out.items()}
    if words:
        left_out["maps"] = words
    graphs, graph_columns, words = graph_contents(stats)
    if words:
        left_out["graph"] = words
    unusual, pictures = unusual_contents(*familiar) if familiar is not None else (None, {})
    columns = {
        **unit_columns(stats, chosen), **measure_columns(stats), **class_columns(stats, chosen),
        **histogram_columns(stats, chosen), **maps, **_entropies(stats), **graph_columns, **pictures,
    }  # fmt: skip
    if test is not None:
        names = {f"test/{row.name}" for row in MEASURES if row.per_unit}
        columns |= {name: made for name, made in unit_columns(test, chosen, "test").items() if name in names}
    name = stats.header.get("model", {}).get("name")
    meta = {
        "format": "cofire report", "schema": SCHEMA,
        "title": title or (f"What the units of {name} do" if name else "What the units do"),
        "notes": notes,
        "overview": _overview(stats, test),
        "findings": [asdict(finding) for finding in [*findings(stats, test), *curve_findings(curves)]],
        "layers": _layers(stats, chosen),
        "summary": [_rounded(row) for row in summary(stats).to_dict("records")],
        "classes": _classes(stats, test),
        "graphs": graphs, "ablation": ablation_contents(curves),
        "boost": boost_contents(boost) if boost is not None else None,
        "trust": trust_contents(trust) if trust is not None else None,
        "unusual": unusual, "training": training_contents(trajectories or {}),
        "carry": [_rounded(row) for row in carry_over(stats, test)] if test is not None else None,
        "test_samples": test.samples if test is not None else None,
        "left_out": left_out,
        "glossary": glossary(),
        "reproduction": _reproduction(stats, test, command, seed, created),
    }  # fmt: skip
    return Payload(_rounded(meta), columns)


def twin(shown: Payload) -> dict[str, Any]:
    """The payload with its columns as plain numbers: what the JSON file beside a report holds."""
    columns = {
        name: {"axes": made.axes, "shape": list(made.stored.shape), "step": 1 / made.per, "values": plain(made)}
        for name, made in shown.columns.items()
    }
    return {**shown.meta, "columns": columns, "derived": derived(shown.columns, shown.meta["layers"])}


def _entropies(stats: FiringStats) -> dict[str, Column]:
    if not len(stats):
        return {}
    return {
        f"entropy/{name}": column(
            torch.stack([softmax_entropy(layer, scale_free=free) for layer in stats.values()]), "layers classes", 1e6
        )
        for name, free in (("mean_first", False), ("scale_free", True))
    }


def _overview(stats: FiringStats, test: FiringStats | None) -> dict[str, Any]:
    units = sum(layer.units for layer in stats.values())
    live = sum(int(live_units(layer).sum()) for layer in stats.values())
    return {
        "samples": stats.samples, "test_samples": test.samples if test is not None else None, "layers": len(stats),
        "classes": stats.classes, "units": units, "dead": units - live,
        "always_on": sum(int(always_on_units(layer).sum()) for layer in stats.values()),
        "accuracy": stats.accuracy, "test_accuracy": test.accuracy if test is not None else None,
    }  # fmt: skip


def _layers(stats: FiringStats, chosen: Chosen) -> list[dict[str, Any]]:
    rows, first = [], 0
    for name, layer in stats.items():
        shown = len(chosen.table[name])
        rows.append({
            "name": name, "kind": layer.kind, "layout": layer.layout, "shape": list(layer.shape), "threshold": layer.threshold,
            "units": layer.units, "live": int(live_units(layer).sum()), "samples": layer.samples, "bins": layer.bins,
            "shown_bins": fewer_bins(layer.bins) or 30, "first": first, "shown_units": shown, "histograms": _histograms(layer),
        })  # fmt: skip
        first += shown
    return rows


def _histograms(layer) -> str:
    return "exact" if layer.histogram is not None else "sketch" if layer.sketch is not None else "none"


def _classes(stats: FiringStats, test: FiringStats | None) -> dict[str, Any]:
    parts: dict[str, Any] = {"names": stats.class_names, "counts": stats.class_counts.tolist()}
    parts["accuracy"] = None if stats.class_accuracy is None else stats.class_accuracy.tolist()
    if test is not None:
        parts["test_counts"] = test.class_counts.tolist()
        parts["test_accuracy"] = None if test.class_accuracy is None else test.class_accuracy.tolist()
    return parts


def _reproduction(
    stats: FiringStats, test: FiringStats | None, command: str | None, seed: int | None, created: datetime | None
) -> dict[str, Any]:
    header = stats.header
    choices = next((layer.choices.as_dict() for layer in stats.values()), {})
    return {
        "command": command, "seed": seed, "created": None if created is None else created.strftime("%Y-%m-%d %H:%M UTC"),
        "model": _said(header.get("model")), "data": _said(header.get("data")),
        "test_data": _said(test.header.get("data")) if test is not None else {},
        "versions": _said(header.get("versions")), "report_version": __version__,
        "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
        "histograms": header.get("histograms"), "choices": choices,
        "thresholds": sorted({layer.threshold for layer in stats.values()}),
    }  # fmt: skip


def _said(entry: Any) -> dict[str, Any]:
    # A repr such as <bound method ...> tells a reader nothing.
    return {key: value for key, value in (entry or {}).items() if value is not None and not str(value).startswith("<")}


def _rounded(value: Any) -> Any:
    """Plain values for JSON: numbers to six significant digits, None where one is not finite."""
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
