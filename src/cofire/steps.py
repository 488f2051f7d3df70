"""Where a correction of class scores goes next: by sums of all samples, or by random blocks of few samples in turn."""

import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cofire.correctors import RIDGES, Corrector, Dual, Gram, Primal
from cofire.keeping import Part
from cofire.residuals import Some, Sums, added, probabilities
from cofire.stacking import folds_of

__all__ = ["Blocks", "Whole", "corrections", "near"]

_BLOCK, _PATIENCE = 1024, 4
"""Samples of a block at most, and how many blocks in turn may take away too little, if there are so many."""


class Whole:
    """Corrections by sums of all samples, of which the slope is summed anew before each.

    Args:
        parts: The samples, read as often as they are asked for.
        sums: Theirs.
    """

    first, most, patience = 3, 10, 1
    """The place of the first of :data:`cofire.correctors.RIDGES` to try, how many steps may follow, and how many of them may
    take away too little."""

    def __init__(self, parts: Iterable[Part], sums: Sums):
        self.parts, self.corrector, self.sums, self.renewed = parts, Primal(sums), sums, False

    def further(self, own: float, weights: Float[Tensor, "rows classes"], place: int) -> dict[int, Tensor]:
        """Steps from the model's scores times a factor, and with a correction, by this ridge and its neighbours."""
        slope = self.slope(own, weights)
        found = {at: self.corrector(RIDGES[at], self.corrector.penalised(RIDGES[at], weights, slope)) for at in near(place)}
        return {at: step for at, step in found.items() if step is not None}

    def slope(self, own: float, weights: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """The slope there, for the corrector.

        The corrector stays the same until samples weigh half as much as in its sums: then its steps would be too short.
        """
        weight = 0.0

        def weighed() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            nonlocal weight
            for row, scores, labels in _moved(self.parts, own, weights):
                p = probabilities(scores)
                weight += float(Sums.weights_of(p).sum())
                yield row, p, labels

        slope = self.corrector.slope_at(weighed())
        if self.renewed or weight >= self.sums.weight / 2:
            return slope
        self.corrector.forget()  # as much memory as the new ones take
        self.sums, self.renewed = Sums(len(weights) - 1, weights.shape[1], weights.device), True
        for part in _moved(self.parts, own, weights):
            self.sums.update(*part)
        self.corrector = Primal(self.sums)
        return self.corrector.slope


class Blocks:
    """Corrections by one block of the samples after the other, each at the scores that those before it led to.

    What a block says of scores to which others led is not flattered by what these were fitted to. Blocks take far less time
    than all samples at once, whose products take time as their square, and whose factors as their cube. One ridge serves all.

    Source:
        Ours; as boosting on random parts of the samples, Friedman 2002, "Stochastic gradient boosting".

    Args:
        parts: All samples.
        start: The factor of the model's scores for the first block.
        seed: Of the blocks.
    """

    first, most = 5, 40
    """As for :class:`Whole`."""

    def __init__(self, parts: list[Part], start: float, seed: int):
        labels = torch.cat([part.labels for part in parts])
        self.samples, self.count = parts, math.ceil(len(labels) / _BLOCK)
        self.patience = min(self.count, _PATIENCE)
        self._places = folds_of(labels, self.count, seed).split([len(part.labels) for part in parts])
        self._grams: dict[int, Gram] = {}
        self.turn = 0
        self.corrector = self.at(start)

    def at(self, own: float, weights: Float[Tensor, "rows classes"] | None = None) -> Dual:
        """The corrector of the present block, at the model's scores times a factor, and with a correction."""
        inside = [places == self.turn for places in self._places]
        chosen = ([values[some] for values, some in zip(each, inside, strict=True)] for each in zip(*self.samples, strict=True))
        self.parts = [Part(*map(torch.cat, chosen))]
        found = Dual(Some.at(*next(_moved(self.parts, own, weights))), self._grams.get(self.turn))
        self._grams[self.turn] = found.gram
        return found

    def further(self, own: float, weights: Float[Tensor, "rows classes"], place: int) -> dict[int, Tensor]:
        """The step of the next block from there, by this ridge."""
        self.turn = (self.turn + 1) % self.count
        self.corrector = self.at(own, weights)
        return corrections(self.corrector, {place})


def near(place: int) -> list[int]:
    """The places of a ridge and its neighbours."""
    return [at for at in (place - 1, place, place + 1) if 0 <= at < len(RIDGES)]


def corrections(corrector: Corrector, places: Iterable[int], slope: Tensor | None = None) -> dict[int, Tensor]:
    """The corrections by the ridges at these places, but those that cannot be used."""
    found = {place: corrector(RIDGES[place], slope) for place in sorted(places)}
    return {place: correction for place, correction in found.items() if correction is not None}


def _moved(parts: Iterable[Part], own: float, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """By batch: features, the model's scores times a factor and with a correction, and labels."""
    for rows, scores, labels in parts:
        yield rows, own * scores if weights is None else own * scores + added(rows, weights[None])[0], labels
