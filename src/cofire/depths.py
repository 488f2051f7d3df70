"""Which fully connected layers add something, by how evenly each class is spread over their units."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from cofire.errors import InputError
from cofire.information import softmax_entropy
from cofire.stats import FiringStats, check_kind

if TYPE_CHECKING:
    import pandas

__all__ = ["RULE", "Depth", "LayerDepth", "depth"]

_LEAST = 0.01  # a smaller change is none
_ERRORS = 2.0

RULE = (
    "A layer adds where the softmax entropy of the classes falls from the layer before, on average by more than 0.01 and by "
    "more than two standard errors over classes, and so does the scale-free one; it rises where both rise by as much; it is "
    "flat where neither changes by as much. Where they disagree, the change is one of scale, and nothing is concluded."
)
"""How verdicts come about."""


@dataclass(frozen=True, eq=False)
class LayerDepth:
    """One fully connected layer.

    Args:
        layer: Its name.
        units: Its units.
        entropy: Softmax entropy of every class, float64 [classes].
        scale_free: The same with activations divided by their mean, float64 [classes].
        fall: Mean fall of the entropy from the layer before; None for the first.
        scale_free_fall: Mean fall of the scale-free entropy; None for the first.
        falls: Classes whose entropy falls; None for the first.
        verdict: "first", "adds", "flat", "rises" or "scale".
    """

    layer: str
    units: int
    entropy: Float[Tensor, " classes"]
    scale_free: Float[Tensor, " classes"]
    fall: float | None
    scale_free_fall: float | None
    falls: int | None
    verdict: str

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        if self.fall is None or self.scale_free_fall is None:
            return f"{self.layer} is the first fully connected layer: there is nothing before it to compare with."
        change = f"entropy {self.fall:+.3f}, scale-free {self.scale_free_fall:+.3f}"
        return {
            "adds": f"{self.layer} adds: classes are less evenly spread over its units than in the layer before ({change}).",
            "flat": f"{self.layer} is flat: classes are spread as in the layer before ({change}). Whether it can go, "
            "removing it tells.",
            "rises": f"{self.layer} rises: classes are more evenly spread than in the layer before ({change}).",
            "scale": f"{self.layer}: the two entropies disagree ({change}), so what changes is the scale of the activations; "
            "nothing follows for the layer.",
        }[self.verdict]


@dataclass(frozen=True, eq=False)
class Depth:
    """What every fully connected layer adds.

    Args:
        layers: The layers, input side first.
    """

    layers: tuple[LayerDepth, ...]

    @property
    def flat(self) -> list[str]:
        """Layers that neither the entropy nor its scale-free companion sees change."""
        return [row.layer for row in self.layers if row.verdict == "flat"]

    def frame(self) -> "pandas.DataFrame":
        """A pandas frame with a row per layer."""
        import pandas as pd

        rows = [
            {
                "layer": row.layer, "units": row.units, "entropy": float(row.entropy.nanmean()), "fall": row.fall,
                "scale_free": float(row.scale_free.nanmean()), "scale_free_fall": row.scale_free_fall,
                "classes_that_fall": row.falls, "verdict": row.verdict,
            }
            for row in self.layers
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return "\n".join(row.words for row in self.layers)


def depth(stats: FiringStats) -> Depth:
    """Softmax entropy by class and layer, its fall from layer to layer, and what follows.

    Source:
        Paper 002. *Departure:* a fall counts only where it survives the removal of scale: softmax makes a layer with larger
        activations less even by that alone. A flat layer is a candidate for removal, not a layer that can go.

    Args:
        stats: Statistics of a model; only its fully connected layers are looked at.

    Raises:
        InputError: It has none.

    >>> import cofire, torch
    >>> first = torch.eye(4).repeat(2, 1) + 1
    >>> stats = cofire.FiringStats.from_activations({"fc1": first, "fc2": first}, torch.arange(8) % 4)
    >>> [row.verdict for row in depth(stats).layers]
    ['first', 'flat']
    """
    check_kind(stats)
    dense = [layer for layer in stats.values() if layer.layout == "dense" and layer.units > 1]
    if not dense:
        raise InputError(
            "statistics must hold a fully connected layer of two units or more", f"found {', '.join(stats) or 'no layer'}",
            "What convolutional layers add, ablation tells: cofire.ablate.",
        )  # fmt: skip
    rows: list[LayerDepth] = []
    for layer in dense:
        entropy, free = softmax_entropy(layer), softmax_entropy(layer, scale_free=True)
        if not rows:
            rows.append(LayerDepth(layer.name, layer.units, entropy, free, None, None, None, "first"))
            continue
        plain, bare = rows[-1].entropy - entropy, rows[-1].scale_free - free
        verdict = {(1, 1): "adds", (-1, -1): "rises", (0, 0): "flat"}.get((_sign(plain), _sign(bare)), "scale")
        falls = int((plain > 0).sum())
        rows.append(
            LayerDepth(layer.name, layer.units, entropy, free, float(plain.nanmean()), float(bare.nanmean()), falls, verdict)
        )
    return Depth(tuple(rows))


def _sign(falls: Tensor) -> int:
    """1 for a fall, -1 for a rise, 0 for neither."""
    known = falls[~falls.isnan()]
    if not len(known):
        return 0
    mean = float(known.mean())
    error = float(known.std()) / math.sqrt(len(known)) if len(known) > 1 else 0.0
    return 0 if abs(mean) <= max(_LEAST, _ERRORS * error) else 1 if mean > 0 else -1
