"""What ablation curves say, in plain sentences."""

import math
from collections.abc import Iterator, Sequence

from cofire.curves import Curve
from cofire.findings import Finding

__all__ = ["curve_findings"]


def curve_findings(curves: Sequence[Curve]) -> list[Finding]:
    """What can be said of curves over the same units with the same fill: how each order does beside a random one.

    Args:
        curves: Any curves; those of one set of layers and one fill are compared with each other.
    """
    groups: dict[tuple, list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.layers, curve.fill), []).append(curve)
    return [finding for group in groups.values() for finding in _group(group)]


def _group(curves: list[Curve]) -> Iterator[Finding]:
    random = next((curve for curve in curves if curve.order == "random"), None)
    ranked = sorted((curve for curve in curves if curve.order != "random"), key=lambda curve: -curve.area)
    if not ranked:
        return
    best = ranked[0]
    where = repr(best.layers[0]) if len(best.layers) == 1 else f"{len(best.layers)} layers together"
    point = 1 / best.samples**0.5  # about two standard errors of an accuracy
    held = "at their mean" if best.fill == "mean" else "at zero"
    text = (
        f"In {where}, with removed units {held}, removing by {_said(best)} keeps accuracy longest: {best.area:.1%} on average "
    )
    numbers = {"area": best.area, "units": best.units}
    if best.from_whole:
        text += f"over all shares removed, and {best.removable():,} of {best.units:,} units "
        text += f"can go at one point of {float(best.accuracy[0]):.1%}."
        numbers["removable"] = best.removable()
    else:
        text += f"over the shares removed, the least of which is {int(best.removed[0]) / best.units:.0%}."
    if random is not None:
        spread = float(random.accuracies.mean(1).std()) if len(random.accuracies) > 1 else 0.0
        far = 2 * math.hypot(spread, point / 2)
        numbers["random_area"], gain = random.area, best.area - random.area
        text += f" Removing at random gives {random.area:.1%}"
        if random.from_whole:
            numbers["random_removable"] = random.removable()
            text += f" and {random.removable():,} units"
        text += "." if gain > far else ": no order is better than chance here."
        worse = [_said(curve) for curve in ranked if curve.area < random.area - far]
        if worse:
            text += f" Worse than random: {', '.join(worse)}."
    yield Finding(text, "ablation", numbers=numbers)


def _said(curve: Curve) -> str:
    return f"{curve.by.replace('_', ' ')}, {'low' if curve.order == 'ascending' else 'high'} values first"
