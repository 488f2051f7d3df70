"""The co-firing graphs of a report, for some layers: vertices with places, the strongest edges, and what they say."""

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from cofire.cofiring import union
from cofire.errors import CofireWarning
from cofire.graphs import Coactivation, coactivation, sensible_top, shared_units, unique_units
from cofire.layer import LayerStats
from cofire.layouts import force_layout
from cofire.report.columns import Column, column
from cofire.stats import FiringStats
from cofire.structure import FORMS, Structure, structure

__all__ = ["graph_contents"]

_MOST_LAYERS = 8
_MOST_VERTICES = 600
_MOST_EDGES = 4_000
_MOST_PAIRS = 10
_MOST_CLASSES = 200  # of which every pair is shown


def graph_contents(stats: FiringStats) -> tuple[list[dict[str, Any]], dict[str, Column], list[str]]:
    """What a report shows of the co-firing graphs: plain values by layer, columns, and what was left out in words."""
    able = [name for name, layer in stats.items() if layer.cofire is not None and layer.samples]
    places = np.linspace(0, len(able) - 1, min(len(able), _MOST_LAYERS)).round().astype(int).tolist() if able else []
    left_out = []
    if len(places) < len(able):
        left_out.append(f"To keep this page small, graphs are shown of {len(places)} of {len(able)} layers.")
    if places and stats.classes > _MOST_CLASSES:
        left_out.append(f"With {stats.classes:,} classes, the table of every pair's unique and shared units is left out.")
    shown, columns = [], {}
    for index in places:
        name = able[index]
        graph = _graph(stats[name], "class")
        found = structure(graph)
        wide = structure(_graph(stats[name], "union")) if stats[name].choices.cofiring == "union" else None
        columns |= {f"graph/{len(shown)}/{key}": made for key, made in _columns(found).items()}
        shown.append({"layer": list(stats).index(name), **_numbers(found, wide, stats[name])})
    return shown, columns, left_out


def _graph(layer: LayerStats, restrict: str) -> Coactivation:
    top = sensible_top(layer)
    while top > 1 and len(union(layer.representative[:, :top])) > _MOST_VERTICES:  # type: ignore[index]
        top -= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CofireWarning)
        return coactivation(layer, top, restrict)


def _numbers(found: Structure, wide: Structure | None, layer: LayerStats) -> dict[str, Any]:
    graph, groups = found.graph, found.communities
    return {
        "top": graph.representative.shape[1], "recorded_top": layer.choices.top, "vertices": len(graph), "edges": graph.edges,
        "density": graph.density, "live": graph.live,
        "modularity": _table(found), "modularity_union": None if wide is None else _table(wide),
        "communities": {
            "method": groups.method, "resolution": groups.resolution, "count": groups.count, "mean_size": groups.mean_size,
            "purity": groups.purity, "agreement": groups.agreement, "stability": groups.stability,
            "sizes": groups.sizes.tolist(), "by_class": groups.by_class.tolist(),
        },
        "pairs": [asdict(pair) for pair in found.pairs[:_MOST_PAIRS]],
        "drawn_edges": min(graph.edges, _MOST_EDGES),
    }  # fmt: skip


def _table(found: Structure) -> list[dict[str, Any]]:
    return [{**asdict(row), "of": FORMS[row.form][0], "source": FORMS[row.form][1]} for row in found.modularities]


def _columns(found: Structure) -> dict[str, Column]:
    graph = found.graph
    sets = {"unique": unique_units(graph), "shared": shared_units(graph)} if graph.classes <= _MOST_CLASSES else {}
    place = force_layout(graph.adjacency)
    first, second = torch.triu_indices(len(graph), len(graph), 1)
    weights = graph.adjacency[first, second]
    kept = weights.argsort(descending=True, stable=True)[: min(graph.edges, _MOST_EDGES)]
    return {
        "unit": column(graph.vertices, "vertices"),
        "x": column(place[:, 0], "vertices", 10_000),
        "y": column(place[:, 1], "vertices", 10_000),
        "class": column(graph.partition, "vertices"),
        "community": column(found.communities.labels, "vertices"),
        "strength": column(graph.adjacency.sum(1), "vertices", 1_000),
        "members": column(graph.cover.to(torch.uint8), "classes vertices"),
        "from": column(first[kept], "edges"),
        "to": column(second[kept], "edges"),
        "weight": column(weights[kept], "edges", 10_000),
        **{name: column(counts, "classes classes") for name, counts in sets.items()},
    }
