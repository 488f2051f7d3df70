"""Corrections of class scores, one after the other, each from where those before it led, as far as held-out samples say."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from cofire.correctors import RIDGES, Corrector
from cofire.errors import InputError
from cofire.keeping import Rows
from cofire.residuals import Sums, added, probabilities
from cofire.scoring import lacking, possible
from cofire.stacking import Paths, stacked, stacks_of
from cofire.stats import FiringStats

__all__ = ["LARGE", "MIDDLE", "Descent"]

_STEPS, _WORTH = 10, 0.001
"""Corrections after the first, at most, and the share of the held-out log-loss that one must take away for another."""

_LEAST, _HALF = 1e-3, 0.5
"""Of the factor of the model's scores, at least what a fit starts from, as 0 times a score of minus infinity is no number; and
the share of the log-loss of equal shares that a model takes away whose scores are all believed."""

MIDDLE, LARGE = 3, 5
"""The first of :data:`cofire.correctors.RIDGES` to try, with its neighbours; and that where samples are fewer than features."""


class Descent:
    """A linear correction of a model's class scores: its weights, and what it is worth to held-out samples.

    Args:
        batches: What it is fitted to.
        validation: Held-out samples, which say how far to go.
        stats: The model's statistics.
        seed: Of the folds and of random labels.
        device: Where sums are made.
    """

    def __init__(self, batches: Rows, validation: Rows, stats: FiringStats, seed: int, device: torch.device):
        self.batches, self.validation, self.stats, self.seed, self.device = batches, validation, stats, seed, device
        self.notes: list[str] = []
        """What is to be known of the samples."""
        self.lopsided = False
        """Whether held-out samples lack a class as no random ones would."""
        self.place = MIDDLE
        self.weights: Tensor = torch.empty(0)
        """Of the correction, [1, rows, classes]."""
        self.tried: list[int] = []
        """Places of the ridges by which first corrections were made."""
        self.noise: Tensor = torch.empty(0)
        """Weights of first corrections towards random labels, by ridge, where they are asked for."""

    def run(self, random: bool = False) -> None:
        """All of it, and where asked first corrections towards random labels."""
        self.sum()
        self.first()
        if random:
            slope = self.corrector.slope_at(self.blind())
            self.noise = self.corrector.weights_of(torch.stack(list(self.corrections(set(self.tried), slope=slope).values())))
        self.further()

    def sum(self) -> None:
        """Sums at the model's scores, as far as held-out samples believe them."""
        held = [(part.scores, part.labels) for part in self.validation]
        self.own, self.labels = (torch.cat(parts)[self.validation.first] for parts in zip(*held, strict=True))
        if len(self.labels) < 2:
            raise InputError("there must be at least two held-out samples", f"found {len(self.labels)}")
        self.start, classes, right = self.believed(), self.stats.classes, 0
        self._look_at_labels()
        sums = Sums(self.batches.columns.width, classes, self.device)
        counts = torch.zeros(classes, dtype=torch.int64)
        for row, scores, labels in self.batches:
            sums.update(row, self.start * scores, labels)
            counts += torch.bincount(labels, minlength=classes).cpu()
            right += int((scores.argmax(1) == labels).sum())
        empty = [name for name, count in zip(self.stats.class_names, counts.tolist(), strict=True) if not count]
        if empty:
            raise InputError("batches must hold samples of every class", f"found none of {', '.join(map(repr, empty[:5]))}")
        if right == sums.samples:
            self.notes.append(f"The model is right on all {right:,} samples of batches: there is little left to fit.")
        self.corrector, self.renewed, self.samples = Corrector.of(sums), False, sums.samples
        self.place, self.batches.fixed = MIDDLE if sums.summed else LARGE, not sums.summed

    def believed(self) -> float:
        """The factor of the model's scores from which to start: of the temperature that held-out samples want, and less where
        the scores take away less than half of the log-loss of equal shares of classes.

        What such a model says is mostly taken back by a correction, which need not start there.
        """
        calm = stacked(self.own, self.labels)
        known = 1 - calm.loss / math.log(self.stats.classes)
        return calm.own * min(1.0, max(_LEAST, known / _HALF))

    def _look_at_labels(self) -> None:
        """Note classes that no held-out sample is of, whether chance would have some, and labels that are ruled out."""
        if impossible := int((~possible(self.own, self.labels)).sum()):
            said = f"The model rules out the class of {impossible:,} held-out samples: they are left out of the log-loss."
            self.notes.append(said)
        missing, self.lopsided = lacking(self.labels, self.stats.class_counts)
        if missing:
            named = ", ".join(self.stats.class_names[place] for place in missing[:5]) + ", ..." * (len(missing) > 5)
            chance = ", though a random choice would have some: nothing is confirmed."
            words = chance if self.lopsided else ": what is done to that class is not judged."
            self.notes.append(f"No held-out sample is of {named}{words}")

    def first(self) -> None:
        """First corrections by the best ridge and its neighbours, and paths along the best of them."""
        found, others, stacks, asked = [], [], [], set()
        while wanted := self.near() - asked:
            asked |= wanted
            new = self.corrections(wanted)
            if not new:
                self.place += not found  # all of them are below the rounding of the sums
                continue
            scores = self.scores_of(self.corrector.weights_of(torch.stack(list(new.values()))))
            fitted = stacks_of(self.own, self.labels, scores, offsets=False)
            stacks += [replace(stack, place=len(stacks) + at) for at, stack in enumerate(fitted)]
            self.tried, found, others = [*self.tried, *new], [*found, *new.values()], [*others, *scores]
            self.place = self.tried[min(stacks, key=lambda stack: stack.loss).place]
        if not found:
            raise InputError("features must be of like size", f"no ridge up to {RIDGES[-1]:g} makes their sums definite")
        self.paths, best = Paths.along_best(self.own, self.labels, others, stacks, seed=self.seed)
        self.best = best.other * torch.stack(found)[best.place]

    def further(self) -> None:
        """More corrections, while the log-loss of samples falls that had no say in how far to go.

        Each goes along new steps by three ridges and the last change at once.
        """
        best, change = self.best, None
        for _ in range(_STEPS):
            slope = self.at(self.paths.whole.own, self.corrector.weights_of(best[None])[0])
            steps = {place: further - best for place, further in self.corrections(self.near(), best, slope).items()}
            if not steps:  # all of these ridges are below the rounding of the sums
                break
            ways = torch.stack([*steps.values(), *([] if change is None else [change])])
            along = self.corrector.weights_of(ways)
            paths, factors = self.paths.along(self.scores_of(along))
            if not paths.loss < self.paths.loss:
                break
            far = factors[2 : 2 + len(steps)].abs() * along[: len(steps)].flatten(1).norm(dim=1)
            self.place = list(steps)[int(far.argmax())]
            change = (factors[1] - 1) * best + torch.tensordot(factors[2:], ways, 1)
            best, before, self.paths = best + change, self.paths.loss, paths
            if paths.loss > (1 - _WORTH) * before:
                break
        self.weights = self.corrector.weights_of(best[None])

    def near(self) -> set[int]:
        """The places of the present ridge and its neighbours."""
        return {self.place - 1, self.place, self.place + 1} & set(range(len(RIDGES)))

    def corrections(self, places: set[int], start: Tensor | None = None, slope: Tensor | None = None) -> dict[int, Tensor]:
        """The corrections by the ridges at these places, but those that cannot be used."""
        found = {place: self.corrector(RIDGES[place], start, slope) for place in sorted(places)}
        return {place: correction for place, correction in found.items() if correction is not None}

    def scores_of(self, weights: Tensor) -> list[Tensor]:
        """What the weights of each of several corrections add to the scores of the different held-out samples."""
        found = [added(row, weights) for row, _, _ in self.validation]
        return [torch.cat(parts)[self.validation.first] for parts in zip(*found, strict=True)]

    def moved(self, own: float, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """By batch: features, the model's scores times a factor and with a correction, and labels."""
        for row, scores, labels in self.batches:
            yield row, own * scores if weights is None else own * scores + added(row, weights[None])[0], labels

    def blind(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """By batch: features, probabilities at the first scores, and random labels."""
        lots, shares = torch.Generator().manual_seed(self.seed), self.stats.class_counts.double() / self.stats.samples
        for row, scores, labels in self.moved(self.start, None):
            drawn = torch.multinomial(shares, len(row), replacement=True, generator=lots).to(labels)
            yield row, probabilities(scores), drawn

    def at(self, own: float, weights: Tensor) -> Tensor:
        """The slope at the model's scores times a factor and a correction, for the corrector.

        The corrector stays the same until samples weigh half as much as in its sums: then its steps would be too short.
        """
        weight = 0.0

        def weighed() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            nonlocal weight
            for row, scores, labels in self.moved(own, weights):
                p = probabilities(scores)
                weight += float(Sums.weights_of(p).sum())
                yield row, p, labels

        slope = self.corrector.slope_at(weighed())
        if self.renewed or weight >= self.corrector.sums.weight / 2:
            return slope
        self.corrector.forget()  # as much memory as the new ones take
        sums, self.renewed = Sums(self.batches.columns.width, self.stats.classes, self.device), True
        for part in self.moved(own, weights):
            sums.update(*part)
        self.corrector = Corrector.of(sums, self.corrector)
        return self.corrector.slope
