"""Accuracy against the number of units removed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

if TYPE_CHECKING:
    import pandas

__all__ = ["Curve"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy against the number of units removed.

    Args:
        removed: Units removed at each step, rising, from 0 unless other steps were named, int64 [steps].
        accuracies: Share of samples classified correctly, float64 [runs, steps]; one run, or one for each seed.
        losses: Mean cross entropy in nats, float64 [runs, steps].
        class_accuracies: The same by class, float64 [runs, steps, classes].
        by: What orders the units; "scores" for those that were given.
        order: "ascending", "descending" or "random".
        fill: "mean" or "zero".
        layers: The layers that units were removed from.
        units: All units of these layers.
        sequences: The units in the order of their removal, by run: (layer, unit).
        samples: Samples on which accuracy was measured.
        notes: What the reader should know of how it came about.
    """

    removed: Int[Tensor, " steps"]
    accuracies: Float[Tensor, "runs steps"]
    losses: Float[Tensor, "runs steps"]
    class_accuracies: Float[Tensor, "runs steps classes"]
    by: str
    order: str
    fill: str
    layers: tuple[str, ...]
    units: int
    sequences: tuple[tuple[tuple[str, int], ...], ...]
    samples: int
    notes: tuple[str, ...] = field(default=())

    @property
    def accuracy(self) -> Float[Tensor, " steps"]:
        """Mean accuracy over runs."""
        return self.accuracies.mean(0)

    @property
    def loss(self) -> Float[Tensor, " steps"]:
        """Mean loss over runs, in nats."""
        return self.losses.mean(0)

    @property
    def class_accuracy(self) -> Float[Tensor, "steps classes"]:
        """Mean accuracy over runs, by class."""
        return self.class_accuracies.mean(0)

    @property
    def band(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """Smallest and largest accuracy over runs."""
        return self.accuracies.amin(0), self.accuracies.amax(0)

    @property
    def area(self) -> float:
        """Mean accuracy over all shares removed, from the first step to the last: the area under the curve by trapezoids."""
        width = float(self.removed[-1] - self.removed[0])
        if not width:
            return float(self.accuracy[0])
        return float(torch.trapezoid(self.accuracy, self.removed.double())) / width

    @property
    def from_whole(self) -> bool:
        """Whether it starts with all units."""
        return not int(self.removed[0])

    def removable(self, loss: float = 0.01) -> int:
        """Units that can go before accuracy first falls by more than ``loss`` (0.01 is one point), by the steps measured.

        Raises:
            InputError: The accuracy with all units was not measured.
        """
        if not self.from_whole:
            raise InputError(
                "how many units can go takes the accuracy with all of them",
                f"the curve starts without {int(self.removed[0]):,}", "Name 0 among the steps.",
            )  # fmt: skip
        below = (self.accuracy < self.accuracy[0] - loss - 1e-12).nonzero()[:, 0]
        return int(self.removed[int(below[0]) - 1 if len(below) else -1])

    def frame(self, by_class: bool = False) -> "pandas.DataFrame":
        """A pandas frame with a row per step: removed, share, accuracy, its least and most over runs, loss.

        Args:
            by_class: A column with the accuracy of each class too, "class 0" and on.
        """
        import pandas as pd

        low, high = self.band
        columns = {
            "removed": self.removed, "share": self.removed / max(self.units, 1), "accuracy": self.accuracy,
            "accuracy_least": low, "accuracy_most": high, "loss": self.loss,
        }  # fmt: skip
        if by_class:
            columns |= {f"class {label}": column for label, column in enumerate(self.class_accuracy.T)}
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})

    def __repr__(self) -> str:
        where = self.layers[0] if len(self.layers) == 1 else f"{len(self.layers)} layers"
        first, last, gone = float(self.accuracy[0]), float(self.accuracy[-1]), int(self.removed[-1])
        start = "with all" if self.from_whole else f"without {int(self.removed[0]):,} of"
        can = f"; {self.removable():,} can go at one point" if self.from_whole else ""
        return (
            f"Curve({self.by} {self.order}, fill {self.fill}, {where}: {first:.2%} {start} {self.units:,} units, {last:.2%} "
            f"without {gone:,}{can})"
        )
