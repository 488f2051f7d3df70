"""The few numbers of each layer that go to a logger, and every measure by layer and class as a table."""

import math
from typing import TYPE_CHECKING

from cofire.firing import dead_units, live_units
from cofire.graphs import coactivation, sensible_top, unique_units
from cofire.layer import LayerStats
from cofire.measures import MEASURES, summary, unit_values
from cofire.modularities import modularity
from cofire.stats import FiringStats

if TYPE_CHECKING:
    import pandas

__all__ = ["by_class", "scalars"]


def scalars(stats: FiringStats) -> dict[str, float]:
    """The numbers of a window: ``cofire/accuracy``, ``cofire/samples`` and 15 for every layer, ``cofire/LAYER/NAME``.

    They are ``dead_units`` and ``always_on_units``, numbers of units; ``firing_rate``; the measures of the table, as means over
    live units or over classes; ``activation_entropy_total``; and of the co-firing graph ``modularity``,
    ``modularity_independent`` (what its sets and rates alone would give) and ``unique_units`` by class, all NaN in a window
    that counted none.

    Args:
        stats: Statistics of any kind.
    """
    found: dict[str, float] = {"cofire/samples": stats.samples}
    if stats.accuracy is not None:
        found["cofire/accuracy"] = stats.accuracy
    kept = {"dead": "dead_units", "always_on": "always_on_units", "firing_rate": "firing_rate"}
    kept |= {"activation_entropy_total": "activation_entropy_total", **{row.name: row.name for row in MEASURES}}
    for row in summary(stats).to_dict("records"):
        # No logger takes all characters: a layer's later calls, relu#2, become relu-2.
        place = f"cofire/{row['layer']}".replace("#", "-")
        here = {name: float(row[key]) for key, name in kept.items() if key in row} | _of_graph(stats[row["layer"]])
        found |= {f"{place}/{name}": value for name, value in here.items()}
    return found


def _of_graph(layer: LayerStats) -> dict[str, float]:
    if layer.cofire is None:
        return dict.fromkeys(("modularity", "modularity_independent", "unique_units"), math.nan)
    graph = coactivation(layer, sensible_top(layer))
    return {
        "modularity": modularity(graph),
        "modularity_independent": modularity(graph.independent()),
        "unique_units": float(unique_units(graph).diagonal().double().mean()),
    }


def by_class(stats: FiringStats) -> "pandas.DataFrame":
    """Every measure of the table by layer and class, dead units and modularity: a tidy frame of layer, class, measure, value.

    Measures of units are means over the layer's live units. What is of all classes together has no class. Units are
    dead for a class where they fire for none of its samples.

    Args:
        stats: Statistics, such as :attr:`Monitor.stats`.

    >>> import cofire, torch
    >>> acts = {"fc1": torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])}
    >>> frame = by_class(cofire.FiringStats.from_activations(acts, torch.tensor([0, 0, 1]), top=1))
    >>> frame[frame.measure == "firing_probability"][["class", "value"]].values.tolist()
    [['0', 0.25], ['1', 1.0]]
    """
    import pandas as pd

    rows: list[tuple[str, str | None, str, float]] = []
    for name, layer in stats.items():
        live = live_units(layer)
        rows.append((name, None, "dead_units", float(dead_units(layer).sum())))
        dead = (layer.fire == 0).sum(1).double().tolist()
        rows += [(name, c, "dead_units", value) for c, value in zip(stats.class_names, dead, strict=True)]
        for measure in MEASURES:
            values = unit_values(layer, measure.name)
            if values is None:
                continue
            if measure.per_unit:
                rows.append((name, None, measure.name, float(values[live].mean())))
            else:
                each = values[:, live].mean(1) if values.ndim == 2 else values
                rows += [(name, c, measure.name, value) for c, value in zip(stats.class_names, each.tolist(), strict=True)]
        rows += [(name, None, measure, value) for measure, value in _of_graph(layer).items()]
    return pd.DataFrame(rows, columns=["layer", "class", "measure", "value"])
