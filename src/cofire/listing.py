"""The hidden activations of a model as a list that prints as a table."""

from collections.abc import Iterable
from dataclasses import dataclass

from cofire import nonlinearities
from cofire.pooling import Arrangement

__all__ = ["LayerInfo", "LayerList"]


@dataclass(frozen=True)
class LayerInfo:
    """One hidden activation of a model.

    Args:
        name: Module path for a module, path of the calling module, a slash and the function for a functional call; ``#2``
            and so on for later calls of the same within one forward pass.
        kind: The non-linearity; "module" for a module that the user named.
        arrangement: Where samples and units lie.
        reason: Why it is not a hidden activation; empty where it is one.
    """

    name: str
    kind: str
    arrangement: Arrangement
    reason: str = ""

    @property
    def layout(self) -> str:
        """ "dense", "conv", "tokens", "recurrent" or "positions"."""
        return self.arrangement.layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's activation."""
        return self.arrangement.shape

    @property
    def units(self) -> int:
        """Number of units."""
        return self.arrangement.units

    @property
    def threshold(self) -> float:
        """Value above which a unit fires, by the kind of non-linearity."""
        return nonlinearities.threshold(self.kind)


class LayerList(list[LayerInfo]):
    """Hidden activations in the order of the forward pass; prints as a table. ``skipped`` holds what was left out, and why."""

    def __init__(self, layers: Iterable[LayerInfo] = (), skipped: Iterable[LayerInfo] = ()):
        super().__init__(layers)
        self.skipped = list(skipped)

    def __str__(self) -> str:
        rows = [("name", "kind", "layout", "shape", "units")]
        rows += [(a.name, a.kind, a.layout, " x ".join(map(str, a.shape)), f"{a.units:,}") for a in self]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines + [f"skipped {a.name}: {a.reason}" for a in self.skipped])
