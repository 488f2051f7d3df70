"""The few numbers that a page works out from its columns while it draws: the same for the JSON twin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cofire.measures import MEASURES
from cofire.report.columns import Column

__all__ = ["derived"]


def derived(columns: Mapping[str, Column], layers: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Each unit's place among the live units of its layer, the largest value first, and its share of exact zeros.

    Args:
        columns: The columns of a report.
        layers: Its layers, with the first row and the number of rows of each.

    Returns:
        ``place/MEASURE`` and ``zero_share`` for every unit of the table; None for a unit that never fires or is not known.
    """
    if "unit/dead" not in columns:
        return {}
    dead = columns["unit/dead"].stored.astype(bool)
    found: dict[str, list] = {}
    for row in MEASURES:
        column = columns.get(f"unit/{row.name}")
        if not row.per_unit or column is None:
            continue
        places: list[int | None] = [None] * len(dead)
        for layer in layers:
            rows = np.arange(layer["first"], layer["first"] + layer["shown_units"])
            rows = rows[~dead[rows] & (column.stored[rows] != column.missing)]
            values = column.stored[rows].astype(np.int64)
            ranks = np.searchsorted(np.sort(-values), -values, side="left") + 1
            for unit, rank in zip(rows.tolist(), ranks.tolist(), strict=True):
                places[unit] = rank
        found[f"place/{row.name}"] = places
    if "unit/zeros" in columns:
        zeros, shares = columns["unit/zeros"], []
        for layer in layers:
            held = zeros.stored[layer["first"] : layer["first"] + layer["shown_units"]].astype(float) / zeros.per
            shares += (held / max(layer["samples"], 1)).round(6).tolist()
        found["zero_share"] = shares
    return found
