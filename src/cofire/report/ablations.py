"""The ablation curves of a report, as plain values."""

from collections.abc import Sequence
from typing import Any

from cofire.curves import Curve

__all__ = ["ablation_contents"]


def ablation_contents(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """What a report shows of every curve."""
    return [
        {
            "by": curve.by, "order": curve.order, "fill": curve.fill, "layers": list(curve.layers), "units": curve.units,
            "samples": curve.samples, "runs": len(curve.accuracies), "removed": curve.removed.tolist(),
            "accuracy": curve.accuracy.tolist(), "least": curve.band[0].tolist(), "most": curve.band[1].tolist(),
            "loss": curve.loss.tolist(), "area": curve.area,
            "removable": curve.removable() if curve.from_whole else None, "notes": list(curve.notes),
        }
        for curve in curves
    ]  # fmt: skip
